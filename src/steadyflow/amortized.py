"""Amortised variational inference: one conditional flow as the posterior of every data set.

    L(theta) = E_{x ~ data} E_{z ~ q(.|x)} [ log q(z|x) - log p(x, z) ]
             = E_x [ KL(q(.|x) | p(.|x)) - log p(x) ]

-L is a lower bound on the mean log-evidence, equal to it if q is the posterior. log p(x, z), the
log-density of the user's own model, needs no normalisation in z and is differentiated in z. What
the fit is worth is told by importance weights of fresh draws: their Pareto k, not the loss, says
whether q has missed a mode or a tail (`steadyflow.evaluation.importance`).

Rezende & Mohamed, "Variational Inference with Normalizing Flows" (2015), eq. 15; Yao, Vehtari,
Simpson & Gelman, "Yes, but Did It Work?: Evaluating Variational Inference" (2018), for k.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steadyflow.errors import TrainingError, UsageError
from steadyflow.evaluation.access import at_rest, bring
from steadyflow.evaluation.importance import ImportanceWeights, importance_weights
from steadyflow.models.model import FlowModel

if TYPE_CHECKING:
    from steadyflow.training.guard import NonFiniteGuard
    from steadyflow.training.options import TrainingOptions

LogJoint = Callable[[Tensor, Tensor], Tensor]
SHOWN = 200  # data sets whose posteriors are judged after the fit


@dataclasses.dataclass(frozen=True)
class PosteriorFit:
    """What `fit_posterior` found.

    Attributes:
        model: the conditional flow q(z|x), trained in place, in eval mode.
        bounds: minus the loss of every step: a lower bound on the mean log-evidence, nats.
        weights: of 1000 fresh draws for each of up to 200 of the x; print it.
        steps: steps done.
        skipped: steps skipped because they were not finite.
        seconds: that the fit took.
    """

    model: FlowModel
    bounds: list[float]
    weights: ImportanceWeights
    steps: int
    skipped: int
    seconds: float

    def __str__(self) -> str:
        tail = [b for b in self.bounds[-max(1, len(self.bounds) // 20) :] if math.isfinite(b)]
        bound = math.fsum(tail) / max(len(tail), 1)
        evidence = float(self.weights.log_mean.mean())
        return (
            f"{self.steps:,} steps in {self.seconds:.0f} s\n"
            f"mean log-evidence: at least {bound:.3f}, by importance weights {evidence:.3f} nats\n"
            f"{self.weights}"
        )


def fit_posterior(
    model: FlowModel, log_joint: LogJoint, x: Tensor, *, draws: int = 1, **options: Any
) -> PosteriorFit:
    """Fits q(z|x) to the posteriors of p(x, z) for all x at once, by reverse KL.

    Args:
        model: a conditional flow over z, with context_features = the length of one x. Draws must
            be cheap and differentiable: RealNVP or SplineFlow(architecture='coupling').
        log_joint: log p(x, z) from z: (batch, d) and x: (batch, features), (batch,) in nats.
        x: (N, features), data sets (or their summaries) that posteriors are wanted for.
        draws: of z for each x of a batch.
        **options: values of `TrainingOptions`: steps, epochs or minutes, batch_size,
            learning_rate, warmup, schedule, clip, weight_decay, betas, ema and seed.

    Raises:
        UsageError: if the model or x are not of this kind, or an option is out of its range.
        TrainingError: if losses that are not finite persist.

    Example:
        >>> from steadyflow import RealNVP
        >>> def log_joint(z, x):  # z ~ N(0, I), x ~ N(z, 1)
        ...     return -(z**2).sum(1) / 2 - ((x - z) ** 2).sum(1) / 2
        >>> q = RealNVP(event_shape=(2,), context_features=2, couplings=2, hidden_features=(16,))
        >>> x = 1.4 * torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> fit = fit_posterior(q, log_joint, x, steps=20)
        >>> len(fit.bounds), fit.weights.pareto_k.shape
        (20, torch.Size([200]))
    """
    from steadyflow.training.options import TrainingOptions
    from steadyflow.training.randomness import own_randomness

    settings = TrainingOptions.of(**options)
    _check(model, x, draws)
    x = bring(model, x)
    model.standardize_context(x)
    began = time.monotonic()
    with own_randomness(settings.seed):
        bounds, guard = _descend(model, log_joint, x, draws, settings)
        weights = posterior_weights(model, log_joint, x[:SHOWN], seed=settings.seed)
    return PosteriorFit(
        model=model.eval(),
        bounds=bounds,
        weights=weights,
        steps=len(bounds),
        skipped=guard.skipped,
        seconds=time.monotonic() - began,
    )


def posterior_weights(
    model: FlowModel, log_joint: LogJoint, x: Tensor, *, draws: int = 1000, seed: int = 0
) -> ImportanceWeights:
    """Importance weights p(x, z) / q(z|x) of draws z ~ q(.|x): (draws, N).

    Their log_mean estimates log p(x) of each x, their pareto_k says how far to trust that and q.

    Args:
        model: the conditional flow q(z|x).
        log_joint: as for `fit_posterior`.
        x: (N, features).
        draws: for each x.
        seed: of the draws.
    """
    x = bring(model, x)
    ratios = []
    with at_rest(model, seed):
        for row in x:
            many = row.expand(draws, -1)
            z, log_q = model.sample_with_log_prob(draws, many)
            ratios.append(log_joint(z, many) - log_q)
    return importance_weights(torch.stack(ratios, 1))


def reverse_kl(model: FlowModel, log_joint: LogJoint, x: Tensor, draws: int = 1) -> Tensor:
    """The mean of log q(z|x) - log p(x, z) over x: (batch, features) and draws, a scalar."""
    many = x.repeat_interleave(draws, 0)
    z, log_q = model.sample_with_log_prob(len(many), many)
    log_p = log_joint(z, many)
    if log_p.shape != log_q.shape:
        raise UsageError(
            f"log_joint must give one number for each row of z and x, shape {tuple(log_q.shape)}, "
            f"got {tuple(log_p.shape)}"
        )
    return (log_q - log_p).mean()


def _descend(
    model: FlowModel, log_joint: LogJoint, x: Tensor, draws: int, options: TrainingOptions
) -> tuple[list[float], NonFiniteGuard]:
    """Adam on the reverse KL; leaves the averaged weights in the model."""
    from steadyflow.training.averaging import WeightAverage
    from steadyflow.training.budget import Budget, learning_rate
    from steadyflow.training.guard import NonFiniteGuard
    from steadyflow.training.randomness import seed_everything

    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=0.0, betas=options.betas, weight_decay=options.weight_decay
    )
    average, guard = WeightAverage(weights, options.ema), NonFiniteGuard()
    size = min(options.batch_size, len(x))
    budget = Budget.of(options, math.ceil(len(x) / size))
    bounds: list[float] = []
    began, progress = time.monotonic(), 0.0
    model.train()
    while progress < 1:
        seed_everything(options.seed, len(bounds))
        rate = learning_rate(options, len(bounds), progress)
        optimizer.param_groups[0]["lr"] = rate
        batch = x[_rows(len(x), size, len(bounds), options.seed).to(x.device)]
        loss = reverse_kl(model, log_joint, batch, draws)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(weights, options.clip or math.inf)
        bounds.append(-loss.item())
        finite = math.isfinite(bounds[-1]) and bool(norm.isfinite())
        if finite:
            optimizer.step()
            average.update()
        optimizer.zero_grad()
        guard.saw(finite)
        if guard.hopeless:
            raise TrainingError(guard.explanation(rate))
        progress = budget.progress(len(bounds), time.monotonic() - began)
    for weight, mean in zip(average.weights, average.means, strict=True):
        weight.copy_(mean)
    return bounds, guard


def _rows(n: int, size: int, step: int, seed: int) -> Tensor:
    """The rows of a step: every row once in each pass, in an order of its own."""
    from steadyflow.training.randomness import mix

    per_pass = math.ceil(n / size)
    generator = torch.Generator().manual_seed(mix(seed, step // per_pass))
    start = step % per_pass * size
    return torch.randperm(n, generator=generator)[start : start + size]


def _check(model: FlowModel, x: Tensor, draws: int) -> None:
    if not isinstance(model, FlowModel) or model.context_features is None:
        raise UsageError(
            f"fit_posterior needs a conditional flow, built with context_features={x.shape[-1]}"
        )
    if x.dim() != 2 or x.shape[1] != model.context_features:
        raise UsageError(
            f"x must have shape (N, {model.context_features}), as the model's context_features "
            f"say, got {tuple(x.shape)}"
        )
    if not x.isfinite().all():
        raise UsageError("x holds NaN or infinite values: remove or fill them first")
    if draws < 1:
        raise UsageError(f"draws must be at least 1, got {draws}")
