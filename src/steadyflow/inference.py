"""Fitting a flow to a density that is known up to a constant: variational inference.

    minimise KL(q | p) + log Z = E_{x ~ q} [ log q(x) - log p~(x) ]          p = p~ / Z

with draws x = f^-1(z; theta) that carry gradients (Rezende & Mohamed, "Variational Inference with
Normalizing Flows", 2015). At first the target is p~^b with b < 1, which is flatter, so that the
flow finds more than one mode before it commits itself. What the fit is worth is said by importance
weights of fresh draws: their effective sample size, Pareto k, and the log-evidence log Z.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steadyflow.errors import TrainingError, UsageError
from steadyflow.evaluation.importance import ImportanceWeights, importance_weights
from steadyflow.models.flow_model import FlowModel

if TYPE_CHECKING:
    from steadyflow.training.guard import NonFiniteGuard
    from steadyflow.training.options import TrainingOptions

LogDensity = Callable[[Tensor], Tensor]
COLDEST = 0.1  # the power of the target at the first step


@dataclass(frozen=True)
class DensityFit:
    """What `fit_log_density` gave.

    Attributes:
        model: the flow q with its averaged weights, in eval mode.
        elbo: mean of log p~ - log q over fresh draws, in nats: a lower bound on log Z.
        standard_error: of `elbo`.
        weights: of those draws, as judged by their tail; see `ImportanceWeights`.
        draws: the draws that they belong to, (S, D).
        history: (step, loss) on the way, the loss being the mean of log q - log p~.
        steps: steps done.
        skipped: how many of them were skipped because the loss was not finite.
        seconds: how long it took.
    """

    model: FlowModel
    elbo: float
    standard_error: float
    weights: ImportanceWeights
    draws: Tensor
    history: list[tuple[int, float]]
    steps: int
    skipped: int
    seconds: float

    @property
    def log_evidence(self) -> float:
        """The log of Z, by importance sampling."""
        return float(self.weights.log_mean)

    def __str__(self) -> str:
        error = float(self.weights.log_mean_error)
        return (
            f"ELBO {self.elbo:.3f} ± {self.standard_error:.3f} nats, "
            f"log-evidence {self.log_evidence:.3f} ± {error:.3f}\n{self.weights}"
        )


def fit_log_density(
    log_density: LogDensity,
    model: FlowModel | int,
    *,
    steps: int = 2000,
    batch_size: int = 256,
    rate: float = 2e-3,
    flat: float = 0.3,
    start: Tensor | None = None,
    draws: int = 4000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> DensityFit:
    """Fits a flow to an unnormalised log-density by reverse KL.

    Args:
        log_density: maps x (batch, D) to log p~ (batch,), differentiably; -inf is not allowed:
            give the model the bounds of x instead (`columns`).
        model: an unconditional model of vectors whose draws are quick, such as
            `SplineFlow(architecture="coupling")` or `MAF(orientation="sampling")`, trained in
            place; or the number of variables D, for the first of them.
        steps: updates of the weights.
        batch_size: draws of one update.
        rate: the highest learning rate; see `TrainingOptions` for how it rises and falls.
        flat: the share of the steps in which the target's power rises from 0.1 to 1.
        start: points (n, D) from about where the density lies, draws of the prior for example: the
            flow starts there. Without them it starts around 0 with standard deviation 1.
        draws: fresh draws on which the result is judged.
        seed: of everything random.
        progress: called with (steps done, steps in all).
        **options: more of `TrainingOptions`: clip, ema, betas, warmup.

    Raises:
        UsageError: for a model that is conditional or gives no draws with gradients, or a
            log_density that gives another shape.
        TrainingError: if losses that are not finite persist.

    Example:
        >>> import torch
        >>> normal = torch.distributions.Normal(torch.tensor([1.0, -2.0]), 0.5)
        >>> found = fit_log_density(lambda x: normal.log_prob(x).sum(1) + 3.0, 2, steps=150)
        >>> bool(abs(found.log_evidence - 3.0) < 0.1)
        True
    """
    from steadyflow.training.options import TrainingOptions
    from steadyflow.training.randomness import own_randomness

    settings = TrainingOptions(
        steps=steps, batch_size=batch_size, learning_rate=rate, seed=seed, **options
    )
    if not 0 <= flat < 1:
        raise UsageError(f"flat is a share of the steps, from 0 to below 1, got {flat}")
    with own_randomness(seed):
        model = _default(model) if isinstance(model, int) else model
        _check(model)
        if start is not None:
            model.initialize(start)
        return _run(log_density, model, settings, flat, draws, progress)


def _run(
    log_density: LogDensity,
    model: FlowModel,
    settings: TrainingOptions,
    flat: float,
    draws: int,
    progress: Callable[[int, int], None] | None,
) -> DensityFit:
    began = time.monotonic()

    def terms(step: int) -> tuple[Tensor, Tensor]:
        x, log_q = model.sample_with_log_prob(settings.batch_size)
        return log_q, _evaluated(log_density, x)

    history, guard = descend(model, terms, settings, flat, progress)
    with torch.no_grad():
        x, log_q = model.sample_with_log_prob(draws)
        ratios = _evaluated(log_density, x).double() - log_q.double()
    return DensityFit(
        model=model,
        elbo=float(ratios.mean()),
        standard_error=float(ratios.std() / math.sqrt(draws)),
        weights=importance_weights(ratios),
        draws=x,
        history=history,
        steps=int(settings.budget["steps"]),
        skipped=guard.skipped,
        seconds=time.monotonic() - began,
    )


def descend(
    model: FlowModel,
    terms: Callable[[int], tuple[Tensor, Tensor]],
    settings: TrainingOptions,
    flat: float,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[tuple[int, float]], NonFiniteGuard]:
    """Minimises the mean of log q - log p; leaves the averaged weights in the model, in eval mode.

    Args:
        model: q.
        terms: gives log q and log p of fresh draws, (batch,) each, for the number of a step.
        settings: steps, learning rate and the like.
        flat: the share of the steps in which the power of p rises.
        progress: called with (steps done, steps in all).

    Returns:
        (step, loss) on the way, and the count of what was skipped.

    Raises:
        TrainingError: if losses that are not finite persist.
    """
    from steadyflow.training.averaging import WeightAverage
    from steadyflow.training.budget import Budget, learning_rate
    from steadyflow.training.guard import NonFiniteGuard

    steps = int(settings.budget["steps"])
    budget, guard = Budget.of(settings, 1), NonFiniteGuard()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, betas=settings.betas)
    average = WeightAverage(trained, settings.ema)
    history = []
    model.train()
    for step in range(steps):
        done = budget.progress(step, 0.0)
        optimizer.param_groups[0]["lr"] = learning_rate(settings, step, done)
        power = 1.0 if done >= flat else COLDEST + (1 - COLDEST) * done / flat
        log_q, log_p = terms(step)
        (log_q - power * log_p).mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, settings.clip or math.inf)
        loss = float((log_q - log_p).mean().detach())
        finite = math.isfinite(loss) and bool(norm.isfinite())
        if finite:
            optimizer.step()
            average.update()
        optimizer.zero_grad()
        guard.saw(finite)
        if guard.hopeless:
            raise TrainingError(_hopeless(guard, settings.learning_rate))
        if step % settings.log_every == 0:
            history.append((step, loss))
        if progress is not None:
            progress(step + 1, steps)
    with torch.no_grad():
        for weight, mean in zip(average.weights, average.means, strict=True):
            weight.copy_(mean)
    model.eval()
    return history, guard


def _default(dimensions: int) -> FlowModel:
    from steadyflow.models import SplineFlow

    if dimensions == 1:
        return SplineFlow(event_shape=[1], orientation="sampling")
    return SplineFlow(event_shape=[dimensions], architecture="coupling")


def _check(model: FlowModel) -> None:
    if len(model.event_shape) != 1 or not hasattr(model, "sample_with_log_prob"):
        raise UsageError("fit_log_density needs a flow on vectors, such as SplineFlow or RealNVP")
    if model.num_classes is not None or model.context_features is not None:
        raise UsageError("fit_log_density fits one density: give it a model without conditions")
    if model.likelihood == "bound":
        raise UsageError("the density of integers has no gradient: give columns without width")


def _evaluated(log_density: LogDensity, x: Tensor) -> Tensor:
    values = log_density(x)
    if values.shape != x.shape[:1]:
        raise UsageError(
            f"log_density must give one number for each of {len(x)} rows, but it gives the shape "
            f"{tuple(values.shape)}"
        )
    return values


def _hopeless(guard: NonFiniteGuard, rate: float) -> str:
    return (
        f"{guard.explanation(rate).partition(':')[0]}: the log-density must be finite with finite "
        "gradients wherever the flow draws; where it is zero outside of bounds, give the model "
        "these bounds (columns), and start= points from inside"
    )
