"""Annealed importance sampling: log Z of an energy, from a distribution that can be drawn from.

    Z = int exp(-U(x)) dx          f_b(x) = p(x)^(1 - b) exp(-b U(x)),   0 = b_0 < ... < b_K = 1
    x_0 ~ p,   x_k ~ a step of a Markov chain that leaves f_b_k as it is
    log w = sum_k (b_k+1 - b_k) [ -U(x_k) - log p(x_k) ]          E[w] = Z

Each chain gives one weight, whose mean is Z whatever the chains' steps; the more temperatures, the
less it scatters. With p the prior and -U the logarithm of prior times likelihood, Z is the
evidence. Neal, "Annealed importance sampling" (2001), eq. 1-11.

Step sizes that follow their own chains would spoil E[w] = Z: they are found, one for each
temperature, by chains before, which are thrown away.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Protocol

import torch
from torch import Tensor

from steadyflow.errors import UsageError, unknown
from steadyflow.solvers.markov_kernels import KERNELS, Energy, State
from steadyflow.solvers.mcmc import GAIN, TARGETS

METHODS = ("hmc", "mala")
POOR = 0.05  # of the chains, as effective sample size, below which the error bar means little


class Drawable(Protocol):
    """What can be drawn from and knows its density: a `Base`, a `Flow`, a model."""

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws x: (n, *event)."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of x: (n, *event), shape (n,)."""


@dataclasses.dataclass(frozen=True)
class Annealed:
    """What annealed importance sampling found.

    Attributes:
        log_weights: log w of each chain, float64 (chains,).
        draws: where the chains ended, (chains, *event): draws of exp(-U) / Z with these weights.
        acceptance: the mean acceptance at each temperature, (temperatures - 1,).
    """

    log_weights: Tensor
    draws: Tensor
    acceptance: Tensor

    @property
    def log_z(self) -> float:
        """The estimate of log Z; that of Z has no bias, its logarithm is low on average."""
        return float(self.log_weights.logsumexp(0)) - math.log(len(self.log_weights))

    @property
    def standard_error(self) -> float:
        """Of log Z, by the scatter of the weights."""
        relative = (self.log_weights - self.log_weights.max()).exp()
        return float(relative.std() / relative.mean()) / math.sqrt(len(relative))

    @property
    def effective_sample_size(self) -> float:
        """How many draws of equal weight are worth as much."""
        relative = (self.log_weights - self.log_weights.max()).exp()
        return float(relative.sum().square() / relative.square().sum())

    def __str__(self) -> str:
        text = (
            f"log Z = {self.log_z:.3f} +- {self.standard_error:.3f} from {len(self.draws)} "
            f"chains: effective sample size {self.effective_sample_size:,.0f}, "
            f"acceptance {float(self.acceptance.mean()):.2f}"
        )
        if self.effective_sample_size < POOR * len(self.draws):
            text += "; too few chains carry the weight: give more temperatures"
        return text


def anneal(
    energy: Energy,
    base: Drawable,
    *,
    chains: int = 500,
    temperatures: int = 100,
    method: str = "hmc",
    moves: int = 1,
    leapfrog: int = 5,
    step_size: float = 0.5,
    power: float = 2.0,
    generator: torch.Generator | None = None,
) -> Annealed:
    """Estimates log Z of exp(-U) by chains that go from p to it.

    Args:
        energy: U, acts on each chain by itself; its constant is part of log Z.
        base: p, whose support holds that of exp(-U).
        chains: how many, each by itself.
        temperatures: K.
        method: 'hmc' or 'mala'.
        moves: steps of the chain at each temperature.
        leapfrog: L of HMC.
        step_size: h to begin with, before it follows the acceptance.
        power: b_k = (k / K)^power; above 1, more of the temperatures are near p.
        generator: the source of randomness; torch's global one without it.

    Raises:
        UsageError: for an unknown method or numbers out of range, or where draws of p have an
            energy that is not finite.

    Example:
        >>> from steadyflow.bases import StandardNormal
        >>> generator = torch.Generator().manual_seed(0)
        >>> wide = lambda x: x.square().sum(1) / 8  # Z = 8 pi
        >>> found = anneal(wide, StandardNormal((2,)), chains=200, generator=generator)
        >>> bool(abs(found.log_z - math.log(8 * math.pi)) < 4 * found.standard_error)
        True
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if min(chains, temperatures, moves, leapfrog) < 1 or chains < 2:
        raise UsageError(
            "annealing needs two chains or more, and at least 1 temperature, move and leapfrog "
            f"step: got chains={chains}, temperatures={temperatures}, moves={moves}, "
            f"leapfrog={leapfrog}"
        )
    if not (0 < step_size < math.inf and 0 < power < math.inf):
        raise UsageError(f"step_size and power must be above 0, got {step_size} and {power}")
    powers = [(k / temperatures) ** power for k in range(temperatures + 1)]
    path = _Path(
        energy, base, powers, method, moves, {"leapfrog": leapfrog, "generator": generator}
    )
    sizes = path.tuned(chains, step_size, generator)
    return path.run(chains, sizes, generator)


@dataclasses.dataclass(frozen=True)
class _Path:
    """The way from p to exp(-U)."""

    energy: Energy
    base: Drawable
    powers: list[float]
    method: str
    moves: int
    options: dict[str, Any]

    def run(self, chains: int, sizes: list[float], generator: torch.Generator | None) -> Annealed:
        """The chains, with a step size for each temperature."""
        x = self._start(chains, generator)
        log_weights = torch.zeros(chains, dtype=torch.float64, device=x.device)
        acceptance = []
        for k, power in enumerate(self.powers[1:]):
            log_weights += (power - self.powers[k]) * self._gap(x)
            if power < 1:
                x, rate = self._move(x, power, sizes[k])
                acceptance.append(rate)
        return Annealed(log_weights, x, torch.tensor(acceptance, dtype=torch.float64))

    def tuned(self, chains: int, h: float, generator: torch.Generator | None) -> list[float]:
        """A step size for each temperature, by chains that are thrown away."""
        x, sizes, target = self._start(chains, generator), [], TARGETS[self.method]
        assert target is not None
        for power in self.powers[1:-1]:
            sizes.append(h)
            x, rate = self._move(x, power, h)
            h *= math.exp(GAIN / 4 * (rate - target))
        return sizes

    def _start(self, chains: int, generator: torch.Generator | None) -> Tensor:
        with torch.no_grad():
            x = self.base.sample(chains, generator=generator)
        bad = int((~self._gap(x).isfinite()).sum())
        if bad:
            raise UsageError(f"the energy is not finite at {bad} of {chains} draws of the base")
        return x

    @torch.no_grad()
    def _gap(self, x: Tensor) -> Tensor:
        return -(self.energy(x) + self.base.log_prob(x)).double()

    def _move(self, x: Tensor, power: float, h: float) -> tuple[Tensor, float]:
        """Steps that leave the density of a power as it is, and their mean acceptance."""

        def between(x: Tensor) -> Tensor:
            return power * self.energy(x) - (1 - power) * self.base.log_prob(x)

        state, rate = State.at(between, x), 0.0
        for _ in range(self.moves):
            state, probability = KERNELS[self.method](between, state, h, **self.options)
            rate += float(probability.mean()) / self.moves
        return state.x, rate
