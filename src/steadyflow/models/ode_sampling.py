"""From noise to data along a model's ODE, by the solvers of ODEs or the samplers of diffusion.

    dopri5, tsit5, ...    du/dphi = v in the angle, to the model's tolerance
    euler, heun, ...      dx/dt in the path's own time, in equal steps: straight paths take one
    ddim, dpm++2m, ...    E[data | y] in the noise level s = tan(phi), y = u / cos(phi)

The first are those whose tableau estimates its error; without one there is nothing to adapt to.
What the samplers of diffusion are is in `steadyflow.solvers.samplers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steadyflow.bijections import Chain
from steadyflow.bijections.discrete_ode import EulerSteps
from steadyflow.errors import unknown
from steadyflow.flow import Flow
from steadyflow.models.endpoints import Shrinking
from steadyflow.paths import rows
from steadyflow.solvers import samplers, solve
from steadyflow.solvers.tableaus import METHODS

if TYPE_CHECKING:
    from steadyflow.models.probability_flow import ProbabilityFlowModel

DIFFUSION_SAMPLERS = {
    "ddim": "ddim",
    "edm": "heun",
    "dpm++2m": "dpm++2m",
    "dpm++3m": "dpm++3m",
    "ancestral": "ancestral",
}
NOISE_RANGE = (0.002, 80.0)  # of the samplers that want finite noise: EDM's, for unit variance
Field = Callable[..., Tensor]  # v of (angle, u, *context)


def check_sampler(sampler: str) -> None:
    """Whether there is such a sampler.

    Raises:
        ValueError: if not.
    """
    if sampler not in DIFFUSION_SAMPLERS and sampler not in METHODS:
        raise unknown("sampler", sampler, (*DIFFUSION_SAMPLERS, *METHODS))


def follow(
    model: ProbabilityFlowModel,
    z: Tensor,
    context: Tensor | None,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Latents z: (n, *event) to normalised data.

    Args:
        model: whose ODE.
        z: draws of the model's base.
        context: (n, features) as the network takes it, or None.
        sampler: the model's own without it.
        steps: of samplers with fixed steps; the model's own number without it.
        guidance: how far towards the context; the model's own without it.
        generator: the source of randomness, for samplers that add noise.
    """
    sampler, steps = sampler or model.sampler, steps or model.steps
    strength = model.guidance if guidance is None else guidance
    args = () if context is None else (context,)
    check_sampler(sampler)

    def field(angle: Tensor, u: Tensor, *given: Tensor) -> Tensor:
        return model.guided(angle, u, given[0] if given else None, strength)

    if sampler in DIFFUSION_SAMPLERS:
        return _by_noise_level(model, field, z, args, sampler, steps, generator)
    if METHODS[sampler].e:
        low, high = model.ode.t0, model.ode.t1
        options = {**model.ode._options(z.dtype), "method": sampler}
        return solve(field, z, high, low, args=args, **options).require() / math.cos(low)
    return _in_own_time(model, field, z, args, sampler, steps)


def discretized(model: ProbabilityFlowModel, steps: int) -> Flow:
    """The DDIM sampler of so many steps as a flow; see `ProbabilityFlowModel.discrete`."""
    smallest, largest = _noise_range(model)
    levels = samplers.noise_grid("karras", largest, smallest, steps)

    def noise(s: Tensor, y: Tensor, context: Tensor | None) -> Tensor:
        angle = torch.atan(s)
        cos, sin = float(torch.cos(angle)), float(torch.sin(angle))
        return sin * cos * y + cos * model.guided(angle, cos * y, context, 1.0)

    size = math.hypot(1, largest)
    parts = Chain(model.normalization, EulerSteps(noise, levels), Shrinking(1 / size))
    return Flow(parts, model.event_shape, model.flow.base, model.flow.dequantization)


def _noise_range(model: ProbabilityFlowModel) -> tuple[float, float]:
    """The smallest and the largest s/a of the samplers that want finite noise."""
    low, high = math.tan(model.ode.t0), NOISE_RANGE[1]
    if model.ode.t1 < math.pi / 2:
        high = min(math.tan(model.ode.t1), high)
    return max(low, NOISE_RANGE[0]), high


def _by_noise_level(
    model: ProbabilityFlowModel,
    field: Field,
    z: Tensor,
    args: tuple[Tensor, ...],
    sampler: str,
    steps: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Through EDM's noise levels, the last of which is 0."""

    def denoise(y: Tensor, s: Tensor, *given: Tensor) -> Tensor:
        angle = torch.atan(s)
        cos, sin = rows(torch.cos(angle), y), rows(torch.sin(angle), y)
        u = cos * y
        return cos * u - sin * field(angle, u, *given)

    smallest, largest = _noise_range(model)
    levels = samplers.noise_grid("karras", largest, smallest, steps, end=True)
    y, kind = z * math.hypot(1, largest), DIFFUSION_SAMPLERS[sampler]
    return samplers.sample(denoise, y, levels, kind, args=args, generator=generator).require()


def _in_own_time(
    model: ProbabilityFlowModel,
    field: Field,
    z: Tensor,
    args: tuple[Tensor, ...],
    method: str,
    steps: int,
) -> Tensor:
    """Equal steps in the path's own time, in which straight paths take one."""
    path = model.path

    def velocity(t: Tensor, x: Tensor, *given: Tensor) -> Tensor:
        a, s = path.scales(t)
        da, ds = path.rates(t)
        size = torch.hypot(a, s)
        u = x / rows(size, x)
        v = field(torch.atan2(s, a), u, *given)
        cos, sin = rows(a / size, x), rows(s / size, x)
        data, noise = cos * u - sin * v, sin * u + cos * v
        return rows(da, x) * data + rows(ds, x) * noise

    x = z * float(path.size(path.t_max))
    done = solve(
        velocity, x, path.t_max, path.t_min, method=method, steps=steps, args=args
    ).require()
    return done / float(path.scales(path.check(path.t_min))[0])
