"""The samplers of diffusion models: a denoiser, followed from much noise to none.

All act on y = x_t / a(t) = x_0 + s e and a falling grid of s, with D(y, s) = E[x_0 | y]:

    ddim        y' = D + (s'/s)(y - D)                      Euler's method in s
    heun        the mean of the slopes at both ends         EDM, algorithm 2; Euler's step to 0
    dpm++2m     y' = (s'/s) y + (1 - s'/s) D~               D~ extrapolated from the step before
    dpm++3m     the same with two steps before              exponential integrators in log s
    ancestral   y' ~ p(y_s' | y, x_0 = D)                   DDPM, noise at each step

Song, Meng & Ermon (2021); Karras et al. (2022); Lu et al., "DPM-Solver++" (2022); Ho, Jain &
Abbeel (2020). The time-continuous methods of `ode.solve` apply as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from steadyflow.errors import unknown
from steadyflow.solvers.solution import DONE, Solution

SAMPLERS = ("ddim", "heun", "dpm++2m", "dpm++3m", "ancestral")
GRIDS = ("karras", "log", "uniform")


def noise_grid(
    kind: str, sigma_max: float, sigma_min: float, steps: int, rho: float = 7.0, end: bool = False
) -> list[float]:
    """Falling noise levels, steps + 1 of them, from sigma_max to sigma_min.

    Args:
        kind: 'karras' (even in s^(1/rho)), 'log' (even in log s) or 'uniform'.
        sigma_max: the first.
        sigma_min: the last, or the last but one if the grid goes on to 0.
        steps: how many steps to take.
        rho: of 'karras'.
        end: put 0 at the end.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"noise levels must be above 0 and fall, got {sigma_max} to {sigma_min}")
    n = steps - 1 if end else steps
    shares = [i / n if n else 0.0 for i in range(n + 1)]
    if kind == "karras":
        high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
        levels = [(high + share * (low - high)) ** rho for share in shares]
    elif kind == "log":
        levels = [sigma_max * (sigma_min / sigma_max) ** share for share in shares]
    elif kind == "uniform":
        levels = [sigma_max + share * (sigma_min - sigma_max) for share in shares]
    else:
        raise unknown("noise grid", kind, GRIDS)
    return [sigma_max, *levels[1:-1], *([sigma_min] if n else []), *([0.0] if end else [])]


def sample(
    denoise: Callable[..., Tensor],
    y: Tensor,
    levels: Sequence[float],
    method: str = "dpm++2m",
    *,
    args: Sequence[Tensor] = (),
    generator: torch.Generator | None = None,
) -> Solution:
    """Follows y from the first noise level to the last.

    Args:
        denoise: denoise(y, s, *args) gives E[x_0 | y], with s a float64 scalar tensor.
        y: (batch, *event), noise of the first level on top of data.
        levels: falling noise levels, as of `noise_grid`; only the last may be 0.
        method: 'ddim', 'heun', 'dpm++2m', 'dpm++3m' or 'ancestral'.
        args: handed to the denoiser.
        generator: of the noise of 'ancestral'; torch's global one without it.

    Returns:
        the solution; its `t` is the noise level reached.

    Raises:
        ValueError: for an unknown method, or levels that do not fall.
    """
    if method not in SAMPLERS:
        raise unknown("sampler", method, SAMPLERS)
    levels = [float(s) for s in levels]
    falling = all(a > b >= 0 for a, b in itertools.pairwise(levels))
    if len(levels) < 2 or not falling:
        raise ValueError("noise levels must fall, at least two of them, none below 0")
    calls = 0
    history: list[tuple[float, Tensor]] = []
    reached, bad = levels[0], torch.zeros(len(y), dtype=torch.bool)
    done = 0

    def predict(y: Tensor, s: float) -> Tensor:
        nonlocal calls
        calls += 1
        return denoise(y, torch.full((), s, dtype=torch.float64, device=y.device), *args)

    for s, to in itertools.pairwise(levels):
        data = predict(y, s)
        history = [(s, data), *history[:2]]
        if method == "ddim":
            new = data + (y - data) * (to / s)
        elif method == "heun":
            new = _heun(predict, y, data, s, to)
        elif method == "ancestral":
            new = _ancestral(y, data, s, to, generator)
        else:
            new = _multistep(y, history[: 2 if method == "dpm++2m" else 3], to)
        bad = ~torch.isfinite(new.detach()).flatten(1).all(1).cpu()
        if bad.any():
            break
        y, reached, done = new, to, done + 1
    n = len(y)
    return Solution(
        x=y,
        t=torch.full((n,), reached, dtype=torch.float64),
        evaluations=calls,
        work=calls * n,
        steps=torch.full((n,), done),
        rejected=torch.zeros(n, dtype=torch.int64),
        status="not finite" if bad.any() else DONE,
        unfinished=bad.nonzero().flatten(),
    )


def _heun(
    predict: Callable[[Tensor, float], Tensor], y: Tensor, data: Tensor, s: float, to: float
) -> Tensor:
    slope = (y - data) / s
    new = y + (to - s) * slope
    if to == 0:
        return new
    return y + (to - s) / 2 * (slope + (new - predict(new, to)) / to)


def _ancestral(
    y: Tensor, data: Tensor, s: float, to: float, generator: torch.Generator | None
) -> Tensor:
    kept = (to / s) ** 2
    noise = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device)
    return data + kept * (y - data) + to * math.sqrt(1 - kept) * noise


def _multistep(y: Tensor, history: Sequence[tuple[float, Tensor]], to: float) -> Tensor:
    """DPM-Solver++ of as many orders as there is history; of the first on the step to 0."""
    s, data = history[0]
    if to == 0:
        return data
    h = math.log(s / to)
    new = (to / s) * y - math.expm1(-h) * data
    if len(history) == 1:
        return new
    before = [(a[1] - b[1], math.log(b[0] / a[0]) / h) for a, b in itertools.pairwise(history)]
    (gap, r), *rest = before
    slope = gap / r
    if not rest:
        # the second-order formula of the paper, eq. 10 in "2M"
        return new - math.expm1(-h) * slope / 2
    (gap, q) = rest[0]
    bend = (slope - gap / q) / (r + q)
    slope = slope + bend * r
    phi2 = math.expm1(-h) / h + 1
    # D changes by slope h + bend h^2; with half of this last weight, as is common, the order is 2
    return new + phi2 * slope - (2 * phi2 / h - 1) * bend
