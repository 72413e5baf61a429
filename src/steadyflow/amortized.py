"""Amortised variational inference: one conditional flow as the posterior of every data set.

    L(theta) = E_{x ~ data} E_{z ~ q(.|x)} [ log q(z|x) - log p(x, z) ]
             = E_x [ KL(q(.|x) | p(.|x)) - log p(x) ]

-L is a lower bound on the mean log-evidence, equal to it if q is the posterior. log p(x, z), the
log-density of the user's own model, needs no normalisation in z and is differentiated in z. What
the fit is worth is told by importance weights of fresh draws: their Pareto k, not the loss, says
whether q has missed a tail (`steadyflow.evaluation.importance`). For a single density see
`steadyflow.inference`, whose loop this is.

Rezende & Mohamed, "Variational Inference with Normalizing Flows" (2015), eq. 15; Yao, Vehtari,
Simpson & Gelman, "Yes, but Did It Work?: Evaluating Variational Inference" (2018), for k.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steadyflow.errors import UsageError
from steadyflow.evaluation.access import at_rest, bring
from steadyflow.evaluation.importance import ImportanceWeights, importance_weights
from steadyflow.inference import descend
from steadyflow.models.flow_model import FlowModel

LogJoint = Callable[[Tensor, Tensor], Tensor]
JUDGED, DRAWS = 200, 1000  # how many x are judged after a fit, and draws for each


@dataclass(frozen=True)
class PosteriorFit:
    """What `fit_posterior` gave.

    Attributes:
        model: the conditional flow q(z|x) with its averaged weights, in eval mode.
        elbo: mean of log p(x, z) - log q(z|x) over fresh draws for up to 200 of the x, in nats: a
            lower bound on their mean log-evidence.
        weights: of those draws, (1000, x): print it.
        history: (step, loss) on the way, the loss being the mean of log q - log p.
        steps: steps done.
        skipped: how many of them were skipped because the loss was not finite.
        seconds: how long it took.
    """

    model: FlowModel
    elbo: float
    weights: ImportanceWeights
    history: list[tuple[int, float]]
    steps: int
    skipped: int
    seconds: float

    def __str__(self) -> str:
        evidence = float(self.weights.log_mean.mean())
        return f"mean ELBO {self.elbo:.3f} nats, mean log-evidence {evidence:.3f}\n{self.weights}"


def fit_posterior(
    log_joint: LogJoint,
    model: FlowModel,
    x: Tensor,
    *,
    steps: int = 2000,
    batch_size: int = 256,
    draws: int = 1,
    rate: float = 2e-3,
    flat: float = 0.3,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> PosteriorFit:
    """Fits q(z|x) to the posteriors of p(x, z) for all x at once, by reverse KL.

    Args:
        log_joint: log p(x, z) from z: (batch, d) and x: (batch, features), (batch,) in nats.
        model: a conditional flow over z, with context_features = the length of one x, trained in
            place. Its draws must be quick: `SplineFlow(architecture="coupling")`, RealNVP or
            `MAF(orientation="sampling")`.
        x: (N, features), data sets (or their summaries) that posteriors are wanted for.
        steps: updates of the weights.
        batch_size: how many x are in one update.
        draws: of z for each of them.
        rate: the highest learning rate; see `TrainingOptions` for how it rises and falls.
        flat: the share of the steps in which the power of p(x, z) rises from 0.1 to 1, so that q
            finds more than one mode before it commits itself.
        seed: of everything random.
        progress: called with (steps done, steps in all).
        **options: more of `TrainingOptions`: clip, ema, betas, warmup.

    Raises:
        UsageError: if the model or x are not of this kind, or log_joint gives another shape.
        TrainingError: if losses that are not finite persist.

    Example:
        >>> from steadyflow import RealNVP
        >>> def log_joint(z, x):  # z ~ N(0, I), x ~ N(z, 1)
        ...     return -(z**2).sum(1) / 2 - ((x - z) ** 2).sum(1) / 2
        >>> q = RealNVP(event_shape=(2,), context_features=2, couplings=2, hidden_features=(16,))
        >>> x = 1.4 * torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> fit_posterior(log_joint, q, x, steps=20).weights.pareto_k.shape
        torch.Size([200])
    """
    from steadyflow.training.options import TrainingOptions
    from steadyflow.training.randomness import own_randomness

    settings = TrainingOptions(
        steps=steps, batch_size=batch_size, learning_rate=rate, seed=seed, **options
    )
    _check(model, x, draws, flat)
    x, began = bring(model, x), time.monotonic()
    model.standardize_context(x)

    def terms(step: int) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(x), (batch_size,)).to(x.device)
        return _terms(log_joint, model, x[rows].repeat_interleave(draws, 0))

    with own_randomness(seed):
        history, guard = descend(model, terms, settings, flat, progress)
    ratios = log_ratios(log_joint, model, x[:JUDGED], seed=seed)
    return PosteriorFit(
        model=model,
        elbo=float(ratios.mean()),
        weights=importance_weights(ratios),
        history=history,
        steps=steps,
        skipped=guard.skipped,
        seconds=time.monotonic() - began,
    )


def posterior_weights(
    log_joint: LogJoint, model: FlowModel, x: Tensor, *, draws: int = DRAWS, seed: int = 0
) -> ImportanceWeights:
    """Importance weights p(x, z) / q(z|x) of draws z ~ q(.|x): (draws, N).

    Their log_mean estimates log p(x) of each x, their pareto_k says how far to trust that and q.

    Args:
        log_joint: as for `fit_posterior`.
        model: the conditional flow q(z|x).
        x: (N, features).
        draws: for each x.
        seed: of the draws.
    """
    return importance_weights(log_ratios(log_joint, model, x, draws=draws, seed=seed))


def log_ratios(
    log_joint: LogJoint, model: FlowModel, x: Tensor, *, draws: int = DRAWS, seed: int = 0
) -> Tensor:
    """Log p(x, z) - log q(z|x) of draws z ~ q(.|x), (draws, N) in float64; see there."""
    x, found = bring(model, x), []
    with at_rest(model, seed):
        for row in x:
            log_q, log_p = _terms(log_joint, model, row.expand(draws, -1))
            found.append(log_p.double() - log_q.double())
    return torch.stack(found, 1)


def _terms(log_joint: LogJoint, model: FlowModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """The pair log q(z|x), log p(x, z) of one draw z for each row of x."""
    z, log_q = model.sample_with_log_prob(len(x), x)
    log_p = log_joint(z, x)
    if log_p.shape != log_q.shape:
        raise UsageError(
            f"log_joint must give one number for each of {len(x)} rows, but it gives the shape "
            f"{tuple(log_p.shape)}"
        )
    return log_q, log_p


def _check(model: FlowModel, x: Tensor, draws: int, flat: float) -> None:
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
    if draws < 1 or not 0 <= flat < 1:
        raise UsageError(
            f"draws must be at least 1 and flat from 0 to below 1, got {draws} and {flat}"
        )
