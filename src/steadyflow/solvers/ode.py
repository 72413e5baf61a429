"""Solving dx/dt = f(t, x) from t0 to t1, never evaluating f outside of the interval.

Fixed steps: every method of `tableaus`. Adaptive steps for those with an error estimate:

    accept a step if  |error / (atol + rtol max(|x|, |x'|))|_rms <= 1,   h <- 0.9 h err^(-1/order)

with the norm taken of each part of the state by itself (x and a log-density do not mix), and
either of the whole batch (shared steps) or of each example, which then has steps of its own: its
result does not depend on its neighbours, and it leaves the batch when it has arrived.

Hairer, Norsett & Wanner, "Solving Ordinary Differential Equations I" (1993), sec. II.4.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from steadyflow.solvers.solution import DONE, Solution, SolverError
from steadyflow.solvers.state import Layout
from steadyflow.solvers.tableaus import METHODS, Tableau, tableau

__all__ = ["METHODS", "Solution", "SolverError", "solve", "trajectory"]

Field = Callable[..., Any]
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
ULPS = 16  # a step shorter than so many units in the last place of t goes nowhere


def solve(
    field: Field,
    x: Any,
    t0: float,
    t1: float,
    *,
    method: str = "dopri5",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    steps: int | None = None,
    grid: Sequence[float] | Tensor | None = None,
    per_example: bool = False,
    max_evaluations: int = 10_000,
    args: Sequence[Tensor] = (),
) -> Solution:
    """Carries x from t0 to t1 along the field.

    Args:
        field: field(t, x, *args) gives dx/dt, of x's shape (a tuple for a tuple). t is float64,
            () with shared steps and (batch,) with steps for each example.
        x: (batch, *event), or a tuple of tensors with one batch.
        t0: where to begin.
        t1: where to end; before or after t0.
        method: 'euler', 'midpoint', 'heun', 'rk4', 'bosh3', 'dopri5' or 'tsit5'.
        rtol: tolerated error of a step, relative to the state.
        atol: tolerated error of a step, absolute.
        steps: as many equal steps instead of adaptive ones; methods without an error estimate
            need it, or a grid.
        grid: the times of fixed steps, from t0 to t1.
        per_example: choose the steps of each example by itself, and drop those that arrived.
        max_evaluations: calls of the field after which an adaptive solve ends where it is.
        args: tensors (batch, ...) handed to the field, in step with the examples still under way.

    Returns:
        the solution, whose `status` says whether everybody arrived; gradients flow through it.

    Raises:
        ValueError: for a wrong argument, or a field whose value does not fit its state.

    Example:
        >>> end = solve(lambda t, x: -x, torch.ones(1, 1, dtype=torch.float64), 0.0, 1.0)
        >>> print(f"{end.x.item():.5f}, {end.status}")
        0.36788, done
    """
    scheme = tableau(method)
    _check(t0, t1, rtol, atol, steps, max_evaluations)
    layout = Layout(x)
    y = layout.pack(x)
    run = _Run(field, layout, args, max_evaluations)
    if grid is None and (steps is not None or not scheme.e):
        if steps is None:
            raise ValueError(f"'{method}' has fixed steps: give steps= or grid=")
        grid = [t0 + (t1 - t0) * i / steps for i in range(steps)] + [t1]
    if y.shape[0] == 0 or t0 == t1:
        return run.end(y, [t1] * y.shape[0], 0, 0)
    if grid is not None:
        return _fixed(run, y, _times(grid, t0, t1), scheme)
    if per_example:
        from steadyflow.solvers.per_example import adaptive

        return adaptive(run, y, float(t0), float(t1), scheme, rtol, atol)
    return _shared(run, y, float(t0), float(t1), scheme, rtol, atol)


def trajectory(field: Field, x: Tensor, times: Sequence[float], **options: Any) -> Tensor:
    """The states at several times, (len(times), batch, *event); x is the first of them.

    Raises:
        SolverError: if a part of the way can not be solved.
    """
    states = [x]
    for begin, end in itertools.pairwise(times):
        states.append(solve(field, states[-1], float(begin), float(end), **options).require())
    return torch.stack(states)


class _Run:
    """One solve: the field as it acts on the packed state, and the counts."""

    def __init__(self, field: Field, layout: Layout, args: Sequence[Tensor], limit: int):
        self.field, self.layout, self.args = field, layout, tuple(args)
        self.limit = limit
        self.evaluations = self.work = 0

    def __call__(self, t: float | Tensor, y: Tensor, args: Sequence[Tensor] | None = None):
        if not isinstance(t, Tensor):
            t = torch.full((), t, dtype=self.layout.clock, device=y.device)
        self.evaluations += 1
        self.work += y.shape[0]
        value = self.field(t, self.layout.unpack(y), *(self.args if args is None else args))
        return self.layout.pack_derivative(value, y)

    def end(
        self, y: Tensor, t: Any, steps: Any, rejected: Any, status: str = DONE, unfinished=()
    ) -> Solution:
        """The solution, with counts for each example; single ones hold for all."""
        n = y.shape[0]

        def each(value: Any, dtype: torch.dtype) -> Tensor:
            value = torch.as_tensor(value, dtype=dtype).cpu()
            return value.expand(n) if value.dim() == 0 else value

        return Solution(
            x=self.layout.unpack(y),
            t=each(t, torch.float64),
            evaluations=self.evaluations,
            work=self.work,
            steps=each(steps, torch.int64),
            rejected=each(rejected, torch.int64),
            status=status,
            unfinished=torch.as_tensor(unfinished, dtype=torch.int64),
        )


def combine(weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """sum_j w_j k_j, in one buffer."""
    total: Tensor | None = None
    for weight, stage in zip(weights, stages, strict=False):
        if weight:
            total = stage * weight if total is None else total.add_(stage, alpha=weight)
    assert total is not None
    return total


def advance(
    run: Callable[..., Tensor], t: Any, end: Any, h: Any, y: Tensor, first: Tensor, scheme: Tableau
) -> tuple[Tensor, list[Tensor]]:
    """One step from t to end = t + h: the new state and the stages."""
    stages = [first]
    point = y
    for c, row in zip(scheme.c[1:], scheme.a, strict=True):
        slope = combine(row, stages)
        point = torch.add(y, slope, alpha=h) if isinstance(h, float) else y + h * slope
        stages.append(run(end if c == 1.0 else t, c, point))
    if scheme.first_same_as_last:
        return point, stages
    slope = combine(scheme.b, stages)
    return (torch.add(y, slope, alpha=h) if isinstance(h, float) else y + h * slope), stages


def _fixed(run: _Run, y: Tensor, times: list[float], scheme: Tableau) -> Solution:
    first: Tensor | None = None
    for i, (t, end) in enumerate(itertools.pairwise(times)):
        h = end - t
        first = run(t, y) if first is None else first

        def at(begin: float, c: float, point: Tensor, t=t, h=h) -> Tensor:
            return run(begin if c == 1.0 else t + c * h, point)

        new, stages = advance(at, t, end, h, y, first, scheme)
        bad = ~torch.isfinite(new.detach()).flatten(1).all(1)
        if bad.any():
            return run.end(y, t, i, 0, "not finite", _positions(bad))
        y = new
        first = stages[-1] if scheme.first_same_as_last else None
    return run.end(y, times[-1], len(times) - 1, 0)


def _shared(
    run: _Run, y: Tensor, t: float, t1: float, scheme: Tableau, rtol: float, atol: float
) -> Solution:
    """Adaptive steps, the same for the whole batch."""
    norm = run.layout.norm
    everyone = torch.arange(y.shape[0])
    first = run(t, y)
    if not torch.isfinite(first.detach()).all():
        bad = ~torch.isfinite(first.detach()).flatten(1).all(1)
        return run.end(y, t, 0, 0, "not finite", _positions(bad))
    h = _first_step(run, t, t1, y, first, scheme.order, rtol, atol)
    smallest = ULPS * torch.finfo(run.layout.clock).eps * max(abs(t), abs(t1))
    steps = rejected = 0
    grow = GROW
    while t != t1:
        if run.evaluations + len(scheme.c) - 1 > run.limit:
            return run.end(y, t, steps, rejected, "evaluations", everyone)
        last = abs(h) >= abs(t1 - t)
        end = t1 if last else t + h
        h = end - t

        def at(begin: float, c: float, point: Tensor, t=t, h=h) -> Tensor:
            return run(begin if c == 1.0 else t + c * h, point)

        new, stages = advance(at, t, end, h, y, first, scheme)
        with torch.no_grad():
            error = norm(combine(scheme.e, stages), h, y, new, rtol, atol)
        if error <= 1:
            t, y, first = end, new, stages[-1]
            steps += 1
            h *= min(grow, SAFETY * error ** (-1 / scheme.order)) if error else grow
            grow = GROW
            continue
        rejected += 1
        grow = 1.0
        h *= max(SHRINK, SAFETY * error ** (-1 / scheme.order)) if math.isfinite(error) else SHRINK
        if abs(h) < smallest:
            bad = ~torch.isfinite(new).flatten(1).all(1)
            status = "not finite" if bad.any() else "step"
            return run.end(
                y, t, steps, rejected, status, _positions(bad) if bad.any() else everyone
            )
    return run.end(y, t, steps, rejected)


@torch.no_grad()
def _first_step(
    run: _Run, t: float, t1: float, y: Tensor, slope: Tensor, order: int, rtol: float, atol: float
) -> float:
    """A first step by Hairer's rule, whose probe stays inside of the interval."""
    norm, span = run.layout.norm, abs(t1 - t)
    size, speed = norm(y, 1.0, y, y, rtol, atol), norm(slope, 1.0, y, y, rtol, atol)
    h = 1e-6 if size < 1e-5 or speed < 1e-5 else 0.01 * size / speed
    h = min(h, span)
    end = t1 if h == span else t + math.copysign(h, t1 - t)
    there = run(end, torch.add(y, slope, alpha=end - t))
    bend = norm(there - slope, 1.0, y, y, rtol, atol) / h
    most = max(speed, bend)
    if not math.isfinite(most):
        return math.copysign(min(h, span) * 1e-3, t1 - t)
    longer = max(1e-6, h * 1e-3) if most <= 1e-15 else (0.01 / most) ** (1 / order)
    return math.copysign(min(100 * h, longer, span), t1 - t)


def _positions(mask: Tensor) -> Tensor:
    return mask.nonzero().flatten().cpu()


def _times(grid: Sequence[float] | Tensor, t0: float, t1: float) -> list[float]:
    times = [float(t) for t in grid]
    if len(times) < 2 or times[0] != t0 or times[-1] != t1:
        raise ValueError(f"the grid must begin at t0={t0:g} and end at t1={t1:g}")
    gaps = [b - a for a, b in itertools.pairwise(times)]
    if not (all(g > 0 for g in gaps) or all(g < 0 for g in gaps)):
        raise ValueError("the times of the grid must go one way, each beyond the one before")
    return times


def _check(t0: float, t1: float, rtol: float, atol: float, steps: int | None, limit: int) -> None:
    if not (math.isfinite(t0) and math.isfinite(t1)):
        raise ValueError(f"t0 and t1 must be finite numbers, got {t0} and {t1}")
    if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise ValueError(
            f"rtol and atol must be at least 0, one of them above, got {rtol}, {atol}"
        )
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if limit < 1:
        raise ValueError(f"max_evaluations must be at least 1, got {limit}")
