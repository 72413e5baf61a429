"""Can importance weights be trusted: effective sample size and the Pareto shape of their tail.

    w_s = p(z_s) / q(z_s),  z_s ~ q           log mean_s w_s -> log of p's normalising constant
    ESS = (sum_s w_s)^2 / sum_s w_s^2         relative variance of the mean: 1 / ESS - 1 / S
    k                                         shape of the generalised Pareto law of the largest w

Moments of w beyond the 1/k-th do not exist: with k > 1/2 its variance is infinite and the ESS
means little, beyond 0.7 no practical number of draws helps, whatever the ESS says. k also says
whether a variational q is near enough to p to be corrected by weights.

Vehtari, Simpson, Gelman, Yao & Gabry, "Pareto Smoothed Importance Sampling" (JMLR 2024); the fit
of the tail is that of Zhang & Stephens, "A New and Efficient Estimation Method for the Generalized
Pareto Distribution" (2009).
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from steadyflow.errors import UsageError

FEWEST = 25  # draws: five of them in the tail
GOOD, USABLE = 0.5, 0.7
PRIOR_DRAWS, PRIOR_K = 10, 0.5  # a weak prior on k, worth ten draws of the tail


@dataclasses.dataclass(frozen=True)
class ImportanceWeights:
    """What weights are worth. S draws for each of a batch of problems, or for one.

    Attributes:
        log_weights: Pareto-smoothed and normalised over the draws, (S, *batch).
        pareto_k: (*batch,); -inf where all of the largest weights are the same.
        effective_sample_size: of the weights as they were given, (*batch,).
        log_mean: log of their mean, (*batch,): the log-evidence, where p is not normalised. In the
            mean it lies below the truth.
        log_mean_error: its standard error, (*batch,); too small where k is above 0.5.
    """

    log_weights: Tensor
    pareto_k: Tensor
    effective_sample_size: Tensor
    log_mean: Tensor
    log_mean_error: Tensor

    @property
    def draws(self) -> int:
        """S."""
        return len(self.log_weights)

    @property
    def limit(self) -> float:
        """The largest k that so many draws can be trusted with: min(1 - 1 / log10 S, 0.7)."""
        return min(1 - 1 / math.log10(self.draws), USABLE)

    @property
    def reliable(self) -> Tensor:
        """Whether k is within the limit, bool (*batch,)."""
        return self.pareto_k < self.limit

    def mean(self, values: Tensor) -> Tensor:
        """The weighted mean of values (S, *batch, *event) of the draws, (*batch, *event)."""
        weights = self.log_weights.exp().to(values.dtype)
        extra = values.dim() - weights.dim()
        return (weights.reshape(*weights.shape, *[1] * extra) * values).sum(0)

    def __str__(self) -> str:
        share = f"{self.draws:,} draws"
        if self.pareto_k.dim() == 0:
            k, size = float(self.pareto_k), float(self.effective_sample_size)
            return f"Pareto k {k:.2f} ({in_words(k, self.limit)}), ESS {size:,.0f} of {share}"
        middle, worst = float(self.pareto_k.median()), float(self.pareto_k.max())
        size = float(self.effective_sample_size.median())
        bad, count = int((~self.reliable).sum()), self.pareto_k.numel()
        return (
            f"Pareto k {middle:.2f} in the median, {worst:.2f} at most; {bad:,} of {count:,} "
            f"above {self.limit:.2f}; ESS {size:,.0f} of {share} in the median"
        )


def importance_weights(log_ratios: Tensor) -> ImportanceWeights:
    """Judges and smooths importance weights.

    Args:
        log_ratios: log p(z_s) - log q(z_s) of draws z_s ~ q, (S, *batch); a constant of p may be
            left out. -inf where p is zero.

    Raises:
        UsageError: for fewer than 25 draws, or ratios that are NaN or +inf, or p zero everywhere.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = torch.randn(4000, generator=generator)  # from q = N(0, 1), and p = N(0.5, 1)
        >>> weights = importance_weights(0.5 * z - 0.125)
        >>> print(weights)
        Pareto k 0.21 (good), ESS 3,064 of 4,000 draws
        >>> round(float(weights.mean(z)), 1)
        0.5
    """
    if len(log_ratios) < FEWEST:
        raise UsageError(f"weights are judged on at least {FEWEST} draws, got {len(log_ratios)}")
    given = log_ratios.double()
    bad = int((given.isnan() | (given == math.inf)).sum())
    if bad or bool((given.amax(0) == -math.inf).any()):
        what = f"{bad:,} of the log-ratios are NaN or +inf" if bad else "p is zero at every draw"
        raise UsageError(f"importance weights need finite densities, but {what}")
    size = len(given)
    log_sum = given.logsumexp(0)
    ess = (2 * log_sum - (2 * given).logsumexp(0)).exp()
    smoothed, k = _smooth((given - given.amax(0)).reshape(size, -1))
    return ImportanceWeights(
        log_weights=smoothed.log_softmax(0).reshape(given.shape),
        pareto_k=k.reshape(given.shape[1:]),
        effective_sample_size=ess,
        log_mean=log_sum - math.log(size),
        log_mean_error=(1 / ess - 1 / size).clamp_min(0).sqrt(),
    )


def in_words(k: float, limit: float = USABLE) -> str:
    """What a k means: 'good', 'usable' or 'not to be trusted'."""
    if k <= min(GOOD, limit):
        return "good"
    return "usable" if k <= limit else "not to be trusted"


def _smooth(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Replaces the tail of each column of (S, B), all at most 0, by quantiles of its fit."""
    size = len(log_weights)
    tail = min(size // 5, math.ceil(3 * math.sqrt(size)))
    values, order = log_weights.sort(0)
    cutoff = values[size - tail - 1].exp()
    excess = values[size - tail :].exp() - cutoff
    k, scale = fit_pareto(excess)
    levels = (torch.arange(tail, dtype=k.dtype, device=k.device)[:, None] + 0.5) / tail
    fitted = (cutoff + scale * torch.expm1(-k * torch.log1p(-levels)) / k).log()
    known = k.isfinite() & (scale > 0)
    ending = torch.where(known, fitted.clamp_max(0), values[size - tail :])
    smoothed = torch.cat((values[: size - tail], ending))
    return torch.empty_like(smoothed).scatter_(0, order, smoothed), k


def fit_pareto(x: Tensor) -> tuple[Tensor, Tensor]:
    """Shape k and scale s of the generalised Pareto law P(X > x) = (1 + k x / s)^(-1 / k).

    Bayes' mean over a grid of theta = -k / s with a prior that the data sets: Zhang & Stephens
    (2009), sec. 3; a weak prior then pulls k of few draws to 1/2.

    Args:
        x: (n, B), each column ascending and not negative.

    Returns:
        k and s, both (B,); k is -inf where a column is all zero.
    """
    n = len(x)
    grid = 30 + int(math.sqrt(n))
    tiny = torch.finfo(x.dtype).tiny
    largest, quartile = x[-1], x[int(n / 4 + 0.5) - 1]
    j = torch.arange(1, grid + 1, dtype=x.dtype, device=x.device)[:, None]
    quartile = torch.maximum(quartile, 1e-12 * largest).clamp_min(tiny)
    theta = 1 / largest.clamp_min(tiny) + (1 - (grid / (j - 0.5)).sqrt()) / (3 * quartile)
    shape = _shape(theta, x)
    log_likelihood = n * ((-theta / shape).log() - shape - 1)
    theta = (log_likelihood.softmax(0) * theta).sum(0)
    k = _shape(theta[None], x)[0]
    scale = -k / theta
    k = (n * k + PRIOR_DRAWS * PRIOR_K) / (n + PRIOR_DRAWS)
    return torch.where(largest > 0, k, -math.inf), scale


def _shape(theta: Tensor, x: Tensor) -> Tensor:
    """The k that fits each theta: (m, B) best, the mean of log(1 - theta x)."""
    return torch.stack([torch.log1p(-row * x).mean(0) for row in theta])
