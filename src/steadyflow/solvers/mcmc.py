"""Markov chains that draw from q(x) ~ exp(-U(x)).

    x_0 -> x_1 -> ...     a step is a kernel: Langevin, MALA, HMC, independence (`markov_kernels`)
    z_0 -> z_1 -> ...     the same in the latents of a bijection x = G(z), whose target is that of
                          z, -log pi(z) = U(G(z)) - log|det dG/dz|: see `latent_energy`

Without the log-determinant the draws are from something else. Step sizes follow the acceptance
during the warm-up by Robbins-Monro: Andrieu & Thoms, "A tutorial on adaptive MCMC" (2008),
algorithm 4.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steadyflow.errors import UsageError, unknown
from steadyflow.solvers.chains import effective_sample_size, split_r_hat
from steadyflow.solvers.markov_kernels import KERNELS, Energy, Proposal, State

# the acceptance that the step size is adapted to: optimal in high dimension for MALA (Roberts &
# Rosenthal 1998), robust for HMC (Betancourt, Byrne & Girolami 2014)
TARGETS = {"langevin": None, "mala": 0.574, "hmc": 0.8, "independence": None}
GAIN = 2.0  # of the adaptation
LOWEST, HIGHEST = 0.01, 0.999  # acceptance that is no good sign


@dataclasses.dataclass(frozen=True)
class Chains:
    """What several chains drew after their warm-up.

    Attributes:
        draws: (kept, chains, *event).
        last: the last states, (chains, *event).
        energy: of the draws, (kept, chains).
        acceptance: the mean share of accepted proposals of each chain, (chains,).
        step_size: h after the adaptation; 0 where there is none.
    """

    draws: Tensor
    last: Tensor
    energy: Tensor
    acceptance: Tensor
    step_size: float

    @property
    def r_hat(self) -> Tensor:
        """Split R-hat of every variable, (*event); above 1.01 the chains have not mixed."""
        return split_r_hat(self.draws)

    @property
    def effective_sample_size(self) -> Tensor:
        """How many independent draws are worth as much, of every variable, (*event)."""
        return effective_sample_size(self.draws)

    def __str__(self) -> str:
        kept, chains = self.draws.shape[:2]
        return (
            f"{chains} chains of {kept} draws: acceptance {float(self.acceptance.mean()):.3f}, "
            f"R-hat at most {float(self.r_hat.max()):.3f}, effective sample size at least "
            f"{float(self.effective_sample_size.min()):,.0f}"
        )


def run_chains(
    energy: Energy,
    x: Tensor,
    *,
    method: str = "mala",
    steps: int = 1000,
    warmup: int = 500,
    step_size: float = 0.1,
    adapt: bool = True,
    leapfrog: int = 10,
    every: int = 1,
    proposal: Proposal | None = None,
    generator: torch.Generator | None = None,
) -> Chains:
    """Runs a chain from each of some points, all at once.

    Args:
        energy: U, acts on each chain by itself; a constant of it does not matter.
        x: where the chains begin, (chains, *event).
        method: 'langevin', 'mala', 'hmc' or 'independence'.
        steps: of each chain after the warm-up.
        warmup: steps before, which are forgotten.
        step_size: h, to begin with.
        adapt: bring the acceptance of MALA and HMC to its optimum during the warm-up; h is then
            left alone, since a chain that adapts on is not a Markov chain.
        leapfrog: L of HMC.
        every: keep each so many-th state.
        proposal: p of 'independence', such as `flow.sample_with_log_prob`.
        generator: the source of randomness; torch's global one without it.

    Returns:
        the draws and how well the chains mixed.

    Raises:
        UsageError: for an unknown method or numbers out of range, or if a chain begins where the
            energy is not finite.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> start = torch.zeros(50, 2)
        >>> chains = run_chains(lambda x: x.square().sum(1) / 2, start, generator=generator)
        >>> print(round(float(chains.draws.var()), 1), bool((chains.r_hat < 1.02).all()))
        1.0 True
    """
    _check(method, x, steps, warmup, step_size, leapfrog, every, proposal)
    options: dict[str, Any] = {"leapfrog": leapfrog, "proposal": proposal, "generator": generator}
    kernel, target = KERNELS[method], TARGETS[method]
    state = State.at(energy, x.detach().clone(), gradient=method != "independence")
    _check_start(state)
    draws, energies = [], []
    accepted = x.new_zeros(len(x), dtype=torch.float64)
    h = step_size
    for step in range(warmup + steps):
        state, probability = kernel(energy, state, h, **options)
        if step < warmup:
            if adapt and target is not None:
                h *= math.exp(GAIN * (float(probability.mean()) - target) / (1 + step) ** 0.6)
            continue
        accepted += probability
        if (step - warmup + 1) % every == 0:
            draws.append(state.x)
            energies.append(state.energy)
    rate = accepted / max(steps, 1)
    if method != "langevin":
        _warn(method, float(rate.mean()), h)
    return Chains(
        draws=torch.stack(draws),
        last=state.x,
        energy=torch.stack(energies),
        acceptance=rate,
        step_size=0.0 if method == "independence" else h,
    )


def latent_energy(energy: Energy, decode: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Energy:
    """The energy of z whose x = G(z) has the given energy: U(G(z)) - log|det dG/dz|.

    Args:
        energy: U of x.
        decode: z to x and log|det dG/dz|, such as `flow.bijection.inverse`.

    Returns:
        an energy of z; decode what is drawn with it.
    """

    def of_latents(z: Tensor) -> Tensor:
        x, log_det = decode(z)
        return energy(x) - log_det

    return of_latents


def meg_compat(energy: Energy, decode: Callable[[Tensor], Any]) -> Energy:
    """The latent energy of the public code of MEG, without the log-determinant: not exact.

    Its chains draw from exp(-U(G(z))) as a density of z. For comparisons only.
    """

    def of_latents(z: Tensor) -> Tensor:
        decoded = decode(z)
        return energy(decoded[0] if isinstance(decoded, tuple) else decoded)

    return of_latents


def _check(
    method: str,
    x: Tensor,
    steps: int,
    warmup: int,
    step_size: float,
    leapfrog: int,
    every: int,
    proposal: Any,
) -> None:
    if method not in KERNELS:
        raise unknown("method", method, KERNELS)
    if x.dim() < 2 or not len(x) or not x.is_floating_point():
        raise UsageError(
            "chains begin at real points of shape (chains, *event), at least one, got "
            f"{x.dtype} of shape {tuple(x.shape)}"
        )
    if steps < every or warmup < 0 or leapfrog < 1 or every < 1:
        raise UsageError(
            "steps must be at least 'every', which with leapfrog must be at least 1, and warmup "
            f"at least 0, got steps={steps}, every={every}, leapfrog={leapfrog}, warmup={warmup}"
        )
    if not 0 < step_size < math.inf:
        raise UsageError(f"step_size must be a finite number above 0, got {step_size}")
    if method == "independence" and proposal is None:
        raise UsageError("'independence' needs a proposal, such as flow.sample_with_log_prob")


def _check_start(state: State) -> None:
    if state.energy.shape != (len(state.x),):
        raise UsageError(
            f"the energy of {len(state.x)} points must have shape ({len(state.x)},), "
            f"got {tuple(state.energy.shape)}"
        )
    bad = (~state.energy.isfinite()).nonzero().flatten()
    if len(bad):
        first = ", ".join(map(str, bad[:5].tolist()))
        raise UsageError(f"the energy is not finite where chains begin: chains {first}")


def _warn(method: str, rate: float, h: float) -> None:
    if LOWEST <= rate <= HIGHEST:
        return
    why = "next to nothing is accepted" if rate < LOWEST else "next to everything is accepted"
    cure = {
        "independence": "the proposal does not fit the energy" if rate < LOWEST else "",
    }.get(method, f"give a {'smaller' if rate < LOWEST else 'larger'} step_size (it is {h:.3g})")
    if cure:
        warnings.warn(f"{method}: {why} ({rate:.2%}): {cure}", stacklevel=3)
