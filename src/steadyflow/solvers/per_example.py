"""Adaptive steps of each example by itself; those that have arrived leave the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steadyflow.solvers.ode import GROW, SAFETY, SHRINK, ULPS, advance, combine
from steadyflow.solvers.solution import DONE, Solution
from steadyflow.solvers.tableaus import Tableau


def adaptive(
    run: Any, y: Tensor, t0: float, t1: float, scheme: Tableau, rtol: float, atol: float
) -> Solution:
    """Carries each example of the packed state y from t0 to t1 with steps of its own.

    Returns:
        the solution; an example that can not go on stays where it is, the others arrive.
    """
    way = _Way(run, y, t0, t1)
    norms = run.layout.norms
    first = way.call(way.t, y)
    bad = ~torch.isfinite(first.detach().flatten(1)).all(1)
    if bad.any():
        y, first = way.leave(bad, y, first, status="not finite")
    if not len(way.who):
        return way.solution()
    h = _first_steps(way, y, first, scheme.order, rtol, atol)
    smallest = ULPS * torch.finfo(run.layout.clock).eps * max(abs(t0), abs(t1))
    grow = torch.full_like(h, GROW)
    while True:
        if run.evaluations + len(scheme.c) - 1 > run.limit:
            way.leave(torch.ones_like(way.who, dtype=torch.bool), y, status="evaluations")
            return way.solution()
        rest = t1 - way.t
        last = h.abs() >= rest.abs()
        end = torch.where(last, t1, way.t + h)
        h = end - way.t
        column = h.to(y.dtype).view(-1, *(1,) * (y.dim() - 1))

        def at(begin: Tensor, c: float, point: Tensor, h: Tensor = h) -> Tensor:
            return way.call(begin if c == 1.0 else begin + c * h, point)

        new, stages = advance(at, way.t, end, column, y, first, scheme)
        with torch.no_grad():
            error = norms(combine(scheme.e, stages).mul_(column), y, new, rtol, atol)
            accepted = error <= 1
            factor = (SAFETY * error ** (-1 / scheme.order)).nan_to_num(SHRINK, posinf=GROW)
            factor = torch.minimum(factor.clamp(SHRINK, GROW), grow)
        if accepted.all():
            y, first, way.t = new, stages[-1], end
        else:
            mask = accepted.view(-1, *(1,) * (y.dim() - 1))
            y = torch.where(mask, new, y)
            first = torch.where(mask, stages[-1], first)
            way.t = torch.where(accepted, end, way.t)
        way.count(accepted)
        h = h * factor
        grow = torch.where(accepted, GROW, 1.0)
        arrived = accepted & last
        stuck = ~accepted & (h.abs() < smallest)
        if arrived.any():
            y, first, h, grow, stuck = way.leave(arrived, y, first, h, grow, stuck)
        if stuck.any():
            y, first, h, grow = way.leave(stuck, y, first, h, grow, status="step")
        if not len(way.who):
            return way.solution()


class _Way:
    """Who is still under way, where they are, and what those who left had reached."""

    def __init__(self, run: Any, y: Tensor, t0: float, t1: float):
        self.run, self.t1, self.batch = run, t1, y.shape[0]
        self.who = torch.arange(self.batch, device=y.device)
        self.t = torch.full((self.batch,), t0, dtype=run.layout.clock, device=y.device)
        self.args = run.args
        self.steps = torch.zeros(self.batch, dtype=torch.int64, device=y.device)
        self.rejected = torch.zeros_like(self.steps)
        self.left: list[tuple[Tensor, Tensor, Tensor]] = []
        self.statuses: list[tuple[str, Tensor]] = []

    def call(self, t: Tensor, y: Tensor) -> Tensor:
        """The field for those under way."""
        return self.run(t, y, self.args)

    def count(self, accepted: Tensor) -> None:
        """Adds a step to those under way."""
        self.steps.index_add_(0, self.who, accepted.long())
        self.rejected.index_add_(0, self.who, (~accepted).long())

    def leave(self, mask: Tensor, y: Tensor, *rest: Tensor, status: str = DONE) -> list[Tensor]:
        """Takes some out of the batch; gives y and the rest for those who stay."""
        gone, stay = mask.nonzero().flatten(), (~mask).nonzero().flatten()
        self.left.append((self.who[gone], y[gone], self.t[gone]))
        if status != DONE:
            self.statuses.append((status, self.who[gone].cpu()))
        self.who, self.t = self.who[stay], self.t[stay]
        self.args = tuple(a[stay] for a in self.args)
        return [value[stay] for value in (y, *rest)]

    def solution(self) -> Solution:
        """Everybody in the order in which they came."""
        who, states, times = (torch.cat(parts) for parts in zip(*self.left, strict=True))
        order = who.argsort()
        status, unfinished = DONE, torch.zeros(0, dtype=torch.int64)
        if self.statuses:
            status = self.statuses[0][0]
            unfinished = torch.cat([rows for _, rows in self.statuses]).sort().values
        return self.run.end(
            states[order], times[order], self.steps, self.rejected, status, unfinished
        )


@torch.no_grad()
def _first_steps(
    way: _Way, y: Tensor, slope: Tensor, order: int, rtol: float, atol: float
) -> Tensor:
    """The first step of each example by Hairer's rule, probed inside of the interval."""
    norms = way.run.layout.norms
    span = (way.t1 - way.t).abs()
    sign = torch.sign(way.t1 - way.t)
    size, speed = norms(y, y, y, rtol, atol), norms(slope, y, y, rtol, atol)
    h = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed)
    h = torch.minimum(h, span)
    end = torch.where(h == span, torch.as_tensor(way.t1, dtype=h.dtype), way.t + sign * h)
    column = (sign * h).to(y.dtype).view(-1, *(1,) * (y.dim() - 1))
    bend = norms(way.call(end, y + column * slope) - slope, y, y, rtol, atol) / h
    most = torch.maximum(speed, bend)
    longer = torch.where(most <= 1e-15, (h * 1e-3).clamp_min(1e-6), (0.01 / most) ** (1 / order))
    step = torch.minimum(torch.minimum(100 * h, longer), span)
    return sign * torch.where(torch.isfinite(step), step, 1e-3 * h)
