"""Fixed points x = f(x), for each example of a batch to its own tolerance.

    plain       x <- f(x)
    Anderson    x <- f(x) - dF g,   g = argmin |r - dR g|         r = f(x) - x
    error       |f(x) - x*| <= L / (1 - L) |r|                    where f contracts by L < 1

Anderson's step is the secant method in the space of the last few steps; where it does not shorten
an example's residual, that example goes on with a plain step, which a contraction never lengthens.
Examples that have arrived are left out of further evaluations of f, and no example depends on its
neighbours. Walker & Ni, "Anderson Acceleration for Fixed-Point Iterations" (2011).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from steadyflow.errors import unknown

METHODS = ("anderson", "plain")
FLOOR = 2  # roundings of x below which a residual means nothing
NOISE = 200  # roundings of x within which a residual that stands still is the arithmetic's
PATIENCE = 6  # iterations without a smaller residual that are standing still
FLAT = 1e-12  # relative regularisation of Anderson's least squares


@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """Where an iteration arrived.

    Attributes:
        value: (batch, *event), f of the iterate with the smallest residual.
        residual: root mean square of f(x) - x at that iterate, (batch,).
        error: the bound L / (1 - L) on the root mean square error of `value`, (batch,).
        converged: whether the tolerance was reached, (batch,).
        iterations: evaluations of f that each example took, (batch,).
        evaluations: calls of f.
    """

    value: Tensor
    residual: Tensor
    error: Tensor
    converged: Tensor
    iterations: Tensor
    evaluations: int

    @property
    def ok(self) -> bool:
        """Whether every example arrived."""
        return bool(self.converged.all())


@torch.no_grad()
def fixed_point(
    f: Callable[..., Tensor],
    start: Tensor,
    args: tuple[Tensor | None, ...] = (),
    *,
    tolerance: float,
    contraction: float = 0.0,
    method: str = "anderson",
    memory: int = 5,
    max_iterations: int = 200,
) -> FixedPoint:
    """Iterates until each example's error is at most tolerance * (1 + its root mean square).

    Args:
        f: f(x, *args) like x: (batch, *event), each example by itself.
        start: where to begin, (batch, *event).
        args: tensors with a row for each example, or None.
        tolerance: on the error of the result; not below what the arithmetic can give.
        contraction: L, by which f contracts (in the 2-norm); 0 takes the residual for the error.
        method: 'anderson' or 'plain'.
        memory: steps that Anderson's method looks back.
        max_iterations: evaluations of f.
    """
    if method not in METHODS:
        raise unknown("fixed-point method", method, METHODS)
    if not 0 <= contraction < 1:
        raise ValueError(f"the contraction must be from 0 to below 1, got {contraction}")
    eps = torch.finfo(start.dtype).eps
    aim = max(tolerance * (1 - contraction) / max(contraction, 0.5), FLOOR * eps)
    n, wide = len(start), torch.promote_types(start.dtype, torch.float32)
    value = start.clone()
    residual = start.new_full((n,), torch.inf, dtype=wide)
    converged = torch.zeros(n, dtype=torch.bool, device=start.device)
    iterations = torch.zeros(n, dtype=torch.long, device=start.device)
    where = torch.arange(n, device=start.device)  # the examples still on their way
    x, history, evaluations = start, _History(memory if method == "anderson" else 0), 0
    stalled = iterations.clone()
    while len(where) and evaluations < max_iterations:
        image = f(x, *args)
        evaluations += 1
        iterations[where] += 1
        difference = image - x
        size = _rms(difference)
        better = size < residual[where]
        value[where[better]], residual[where[better]] = image[better], size[better]
        stalled = torch.where(better, 0, stalled + 1)
        unit = 1 + _rms(value[where])
        still = (stalled >= PATIENCE) & (residual[where] <= NOISE * eps * unit)
        done = (residual[where] <= aim * unit) | still
        converged[where[done]] = True
        x = history.next(value[where], image, difference, better)
        keep = (~done).nonzero().flatten()
        if len(keep) < len(where):
            where, x, stalled = where[keep], x[keep], stalled[keep]
            args = tuple(None if a is None else a[keep] for a in args)
            history.keep(keep)
    factor = contraction / (1 - contraction) if contraction else 1.0
    return FixedPoint(value, residual, factor * residual, converged, iterations, evaluations)


class _History:
    """The last differences of residuals and images; with a memory of 0, the plain iteration."""

    def __init__(self, memory: int):
        self.memory = memory
        self.last: tuple[Tensor, Tensor] | None = None
        self.residuals: list[Tensor] = []
        self.images: list[Tensor] = []

    def next(self, best: Tensor, image: Tensor, residual: Tensor, better: Tensor) -> Tensor:
        """The next iterate of each example, (batch, *event)."""
        if not self.memory:
            return image
        flat, of_image = residual.flatten(1), image.flatten(1)
        if self.last is not None:
            # an example that got no better forgets its steps: what is zero takes no part
            fresh = better[:, None]
            known = [d * fresh for d in (*self.residuals, flat - self.last[0])]
            self.residuals = known[-self.memory :]
            known = [d * fresh for d in (*self.images, of_image - self.last[1])]
            self.images = known[-self.memory :]
        self.last = (flat, of_image)
        if not self.residuals:
            return image
        step = of_image - self._correction(flat)
        return torch.where(better[:, None], step, best.flatten(1)).view_as(image)

    def _correction(self, residual: Tensor) -> Tensor:
        known = torch.stack(self.residuals, 1).double()
        gram = known @ known.mT
        diagonal = gram.diagonal(dim1=1, dim2=2)
        least = FLAT * diagonal.amax(1, keepdim=True) + torch.finfo(torch.float64).tiny
        gram = gram + torch.diag_embed(least.expand_as(diagonal))
        weights = torch.linalg.solve(gram, known @ residual.double()[:, :, None])
        return (weights.mT.to(residual.dtype) @ torch.stack(self.images, 1))[:, 0]

    def keep(self, rows: Tensor) -> None:
        if self.last is not None:
            self.last = (self.last[0][rows], self.last[1][rows])
            self.residuals = [d[rows] for d in self.residuals]
            self.images = [d[rows] for d in self.images]


def _rms(x: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    flat = x.flatten(1).to(wide)
    return flat.square().mean(1).sqrt() if flat.shape[1] else flat.new_zeros(len(x))
