"""The normalising constant of an energy from weighted draws, and what is known of its error.

log Z >= E_p[-U - log p]                 ELBO, in the mean over draws x ~ p
log Z ~  log mean_i exp(-U(x_i)) / p(x_i)
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steadyflow.evaluation.importance import importance_weights

if TYPE_CHECKING:
    from steadyflow.models.energy import EnergyModel

TRUSTED = 0.7  # Pareto k
MANY, CHUNK = 10_000, 2000  # draws for a log Z that is kept, and at once


@dataclasses.dataclass(frozen=True)
class LogNormalizer:
    """An estimate of log Z.

    Attributes:
        value: log mean of the weights; in the mean below the truth.
        standard_error: of the value.
        effective_sample_size: of the weights.
        draws: how many.
        elbo: the mean log-weight, in the mean further below.
        elbo_error: its standard error.
        pareto_k: shape of the weights' tail; above 0.7 the estimate is not to be trusted.
    """

    value: float
    standard_error: float
    effective_sample_size: float
    draws: int
    elbo: float
    elbo_error: float
    pareto_k: float

    def __str__(self) -> str:
        trust = "" if self.pareto_k <= TRUSTED else ", NOT to be trusted"
        return (
            f"log Z = {self.value:.4f} ± {self.standard_error:.4f} nats (estimate), ELBO "
            f"{self.elbo:.4f} ± {self.elbo_error:.4f}; {self.draws:,} draws are worth "
            f"{self.effective_sample_size:,.0f}, Pareto k {self.pareto_k:.2f}{trust}"
        )


def log_normalizer(log_weights: Tensor) -> LogNormalizer:
    """The estimate from log-weights -U(x) - log p(x) of draws x ~ p: (draws,).

    Example:
        >>> import torch
        >>> x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
        >>> found = log_normalizer(0.2 * x)  # the truth is 0.2^2 / 2
        >>> round(found.value, 2), found.elbo < found.value
        (0.02, True)
    """
    found, size = importance_weights(log_weights), len(log_weights)
    known = log_weights.double()
    return LogNormalizer(
        value=float(found.log_mean),
        standard_error=float(found.log_mean_error),
        effective_sample_size=float(found.effective_sample_size),
        draws=size,
        elbo=float(known.mean()),
        elbo_error=float(known.std() / math.sqrt(size)),
        pareto_k=float(found.pareto_k),
    )


@torch.no_grad()
def estimate_log_normalizer(
    model: EnergyModel,
    context: Tensor | None,
    draws: int,
    generator: torch.Generator | None,
) -> LogNormalizer:
    """The estimate of a model from draws of its generator; see `EnergyModel.log_normalizer`."""
    found = []
    for start in range(0, draws, CHUNK):
        n = min(CHUNK, draws - start)
        rows = model.condition(context, n)
        y, _, log_prob = model.weighed_draws(n, rows, generator=generator)
        if log_prob is None:
            raise ValueError("log Z needs a generator whose density is known: a flow")
        found.append(-model.energy_of(y, rows) - log_prob)
    return log_normalizer(torch.cat(found))


def in_words(log_z: Tensor, error: Tensor, pareto_k: Tensor) -> str:
    """What a likelihood with these estimates of log Z is, each (classes,), and how well known."""
    if not log_z.isfinite().all():
        return "log q(x) = -U(x) - log Z, where log Z has not been estimated yet"
    trust = ""
    if float(pareto_k.max()) > TRUSTED:
        trust = ", an error not to be trusted: the generator misses parts of the energy"
    return (
        "estimate of log q(x) = -U(x) - log Z, by importance sampling from the generator: "
        f"log Z is known to {float(error.max()):.3f} nats{trust}"
    )
