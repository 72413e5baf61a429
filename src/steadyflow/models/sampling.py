"""Chains that draw from an energy model, by the names of its samplers.

Among the data they run in standard deviations, u = (y - mean) / std; among the latents of the
generator in z, with the log-determinant (`steadyflow.solvers.mcmc`). They begin at its draws.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steadyflow.errors import unknown
from steadyflow.solvers.mcmc import Chains, latent_energy, run_chains

if TYPE_CHECKING:
    from steadyflow.models.energy import EnergyModel

# name to the method of the chain, and whether it needs the flow of the generator
SAMPLERS: dict[str, tuple[str | None, bool]] = {
    "generator": (None, False),
    "langevin": ("langevin", False),
    "mala": ("mala", False),
    "hmc": ("hmc", False),
    "independence": ("independence", True),
    "latent-mala": ("mala", True),
    "latent-hmc": ("hmc", True),
}


def check_sampler(name: str, flow: bool) -> None:
    """Whether there is such a sampler, and whether it goes with the generator.

    Raises:
        ValueError: if not.
    """
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    if SAMPLERS[name][1] and not flow:
        raise ValueError(f"'{name}' needs the latents of a flow: build it with entropy='exact'")


def run_sampler(
    model: EnergyModel,
    name: str,
    y: Tensor,
    context: Tensor | None,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Chains:
    """Chains of exp(-U / T^2).

    Args:
        model: whose energy.
        name: of the sampler.
        y: where they begin, real-valued data (chains, *event).
        context: (chains, features) or None.
        temperature: T.
        generator: the source of randomness.
        **options: of `run_chains`; the model's number of steps, of which the last is kept,
            without them.

    Returns:
        chains whose draws are real-valued data.
    """
    method, latent = SAMPLERS[name]
    if method is None:
        raise ValueError("'generator' runs no chain: give a sampler that does")
    steps, cold = model.sampler_steps, temperature**-2
    warmup = 0 if method == "independence" else steps
    settings: dict[str, Any] = {
        "steps": steps,
        "warmup": warmup,
        "every": steps,
        "generator": generator,
    }
    settings |= {"method": method, **options}

    def energy(y: Tensor) -> Tensor:
        return cold * model.energy_of(y, context)

    def proposal(n: int) -> tuple[Tensor, Tensor]:
        drawn, _, log_prob = model.weighed_draws(n, context, generator=generator)
        assert log_prob is not None
        return drawn, log_prob

    if method == "independence":
        return run_chains(energy, y, proposal=proposal, **settings)
    coordinates, given = model.normalization, None
    if latent:
        assert model.flow is not None
        coordinates, given = model.flow.bijection, context  # type: ignore[assignment]

    def back(z: Tensor) -> Tensor:
        return coordinates.inverse(z, given)[0]

    target = latent_energy(energy, lambda z: coordinates.inverse(z, given))
    made = run_chains(target, coordinates(y, given)[0], **settings)
    draws = torch.stack([back(z) for z in made.draws])
    return dataclasses.replace(made, draws=draws, last=back(made.last))
