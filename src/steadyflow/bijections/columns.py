"""The columns of a table, as they are: constant, spread over a grid, bounded, or plain numbers.

    constant v:      left out; p = 1 at v and 0 elsewhere
    grid, step w:    y = x + w (u - 1/2), u ~ U[0, 1)        dequantization
    in (a, b):       z = log (y - a) - log (b - y),  or log (y - a), or -log (b - y)

A density of integers, or of any column in which values recur, has no largest likelihood: the flow
could put ever narrower spikes on them. Noise over half a step to either side fills the grid, and
with the density p of y

    log q(x) = log E_u p(x + w (u - 1/2)) >= E_u log p(y)                        (Jensen)

is a bound on a proper density q in the user's units; for integers (w = 1) q(x) is their
probability. Theis, van den Oord & Bethge, "A note on the evaluation of generative models" (2016).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.bijections.bijection import Bijection, Shape, Transformed, same_shape, sum_event
from steadyflow.tracing import recording

KEYS = {"name", "value", "width", "origin", "low", "high"}


class Columns(nn.Module):
    """What stands before a flow on a table: takes rows to reals y, and back.

    Rows that can not be, with another value in a constant column or outside of bounds, have the
    log-probability -inf.

    Args:
        columns: a mapping for each column of the table, with 'name' for messages and, where it
            applies, 'value' of a constant column, 'width' of the grid and 'origin' (a point of
            it; without one draws are not put back on the grid), and bounds 'low' and 'high'.

    Attributes:
        size: how many columns are left to the flow.

    Example:
        >>> import torch
        >>> columns = Columns([{"name": "age", "width": 1.0, "origin": 0.0}, {"value": 3.0}])
        >>> y, change = columns(torch.tensor([[41.0, 3.0], [7.0, 4.0]]))
        >>> y.shape, change
        (torch.Size([2, 1]), tensor([0., -inf]))
        >>> columns.inverse(torch.tensor([[41.3]]))
        tensor([[41.,  3.]])
    """

    kept: Tensor
    place: Tensor
    value: Tensor
    constant: Tensor
    width: Tensor
    origin: Tensor
    on_grid: Tensor
    low: Tensor
    high: Tensor
    inside: Tensor

    def __init__(self, columns: Sequence[Mapping[str, Any]]):
        super().__init__()
        given = [dict(column) for column in columns]
        self.names = [str(c.get("name", i)) for i, c in enumerate(given)]
        for name, column in zip(self.names, given, strict=True):
            _check(name, column)
        kept = [i for i, column in enumerate(given) if "value" not in column]
        constant = [i for i in range(len(given)) if i not in kept]
        if not kept:
            raise ValueError("all columns are constant: there is no density to learn")
        self.size = len(kept)
        of = [given[i] for i in kept]
        self._numbers("width", [c.get("width", 0.0) for c in of])
        self._numbers("origin", [c.get("origin", 0.0) for c in of])
        self._numbers("low", [c.get("low", -math.inf) for c in of])
        self._numbers("high", [c.get("high", math.inf) for c in of])
        self._numbers("value", [given[i]["value"] for i in constant])
        self._numbers("inside", [_inside(c) for c in of])
        self._places("kept", kept)
        self._places("constant", constant)
        self._places("place", sorted(range(len(given)), key=[*kept, *constant].__getitem__))
        grid = [c.get("width", 0.0) > 0 and "origin" in c for c in of]
        self.register_buffer("on_grid", torch.tensor(grid), persistent=False)
        self.noisy = bool((self.width > 0).any())
        self.bounded = bool((self.low > -math.inf).any() or (self.high < math.inf).any())

    @property
    def exact(self) -> bool:
        """Whether no noise is added, so that log_prob is exact."""
        return not self.noisy

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Rows x: (batch, columns) to reals y: (batch, size), with fresh noise at every call.

        Returns:
            y, measured from `origin`, and the change of log_prob: 0, or -inf for rows that can
            not be.

        Raises:
            ValueError: for a value that is missing or infinite, with its column.
        """
        self._refuse_gaps(x)
        y = self.middle(x)
        change = x.new_zeros(len(x), dtype=torch.promote_types(x.dtype, torch.float32))
        if self.noisy:
            noise = torch.rand(y.shape, dtype=y.dtype, device=y.device) - 0.5
            y = torch.addcmul(y, noise, self.width.to(y.dtype))
        if len(self.constant):
            values = x.index_select(1, self.constant)
            change = change.masked_fill((values != self.value.to(x.dtype)).any(1), -math.inf)
        if self.bounded:
            fits = (y > self._from_origin(self.low, y)) & (y < self._from_origin(self.high, y))
            y = torch.where(fits, y, self.inside.to(y.dtype))
            change = change.masked_fill(~fits.all(1), -math.inf)
        return y, change

    def middle(self, x: Tensor) -> Tensor:
        """Rows without noise, measured from `origin`: (batch, columns) to (batch, size)."""
        return x.index_select(1, self.kept) - self.origin.to(x.dtype)

    def restore(self, y: Tensor) -> Tensor:
        """Reals y: (batch, size) as rows (batch, columns), not put back on their grids."""
        constant = self.value.to(y.dtype).expand(len(y), -1)
        return torch.cat((y + self.origin.to(y.dtype), constant), 1).index_select(1, self.place)

    def inverse(self, y: Tensor) -> Tensor:
        """Reals y: (batch, size) to rows (batch, columns), on their grids."""
        if self.noisy:
            step = torch.where(self.on_grid, self.width, 1.0).to(y.dtype)
            y = torch.where(self.on_grid, torch.round(y / step) * step, y)
        return self.restore(y)

    def output_shape(self, event_shape: Shape) -> Shape:
        """The shape of y for that of x; fails on another number of columns."""
        if tuple(event_shape) != (len(self.names),):
            raise ValueError(
                f"{len(self.names)} columns were described, but the event shape is "
                f"{list(event_shape)}"
            )
        return (self.size,)

    def bijections(self) -> list[Bijection]:
        """What the flow on y begins with: `Interval` where there are bounds."""
        if not self.bounded:
            return []
        origin = self.origin
        return [Interval((self.low - origin).tolist(), (self.high - origin).tolist())]

    def extra_repr(self) -> str:
        """How many columns of which kind, for the printed model."""
        spread = int((self.width > 0).sum())
        return f"columns={len(self.names)}, constant={len(self.constant)}, spread={spread}"

    def _from_origin(self, edge: Tensor, y: Tensor) -> Tensor:
        return (edge - self.origin).to(y.dtype)

    def _refuse_gaps(self, x: Tensor) -> None:
        if recording() or bool(x.isfinite().all()):
            return
        row, column = (~x.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"column '{self.names[column]}' has the value {x[row, column].item()} in row "
            f"{row + 1}: fill in missing values, or leave out those rows"
        )

    def _numbers(self, name: str, values: list[float]) -> None:
        tensor = torch.tensor(values, dtype=torch.float64)
        self.register_buffer(name, tensor, persistent=False)

    def _places(self, name: str, values: list[int]) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.int64), persistent=False)


class Interval(Bijection):
    """Variables with bounds to the whole line: logit between two, logarithm from one.

        z = log (x - a) - log (b - x)         log dz/dx = log (b - a) - log (x - a) - log (b - x)
        z = log (x - a)                       log dz/dx = -log (x - a)
        z = -log (b - x)                      log dz/dx = -log (b - x)
        z = x                                 where there is no bound

    Args:
        low: a of each variable; -inf for none.
        high: b of each variable; inf for none.
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: Sequence[float], high: Sequence[float]):
        super().__init__()
        a, b = (torch.tensor(edge, dtype=torch.float64) for edge in (low, high))
        if not bool((a < b).all()):
            raise ValueError(f"each lower bound must lie below its upper one: {low}, {high}")
        self.register_buffer("low", a, persistent=False)
        self.register_buffer("high", b, persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """From inside the bounds to the whole line."""
        below, above = self._sides()
        from_low = torch.log(torch.where(below, x - self._finite(self.low, x), 1.0))
        to_high = torch.log(torch.where(above, self._finite(self.high, x) - x, 1.0))
        z = torch.where(below | above, from_low - to_high, x)
        return z, sum_event(self._log_span(x) - from_low - to_high)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """From the whole line to inside the bounds."""
        below, above = self._sides()
        low, high = self._finite(self.low, z), self._finite(self.high, z)
        # log (x - a) and log (b - x)
        log_span = self._log_span(z)
        both = below & above
        from_low = torch.where(both, log_span + F.logsigmoid(z), torch.where(below, z, 0.0))
        to_high = torch.where(both, log_span + F.logsigmoid(-z), torch.where(above, -z, 0.0))
        # from the nearer end, so that no digit is lost
        near_low = below & (~above | (z < 0))
        x = torch.where(near_low, low + from_low.exp(), high - to_high.exp())
        x = torch.where(below | above, x, z)
        return x, sum_event(from_low + to_high - log_span)

    def output_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another size."""
        return same_shape(self, self.low.shape, event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another size."""
        return same_shape(self, self.low.shape, event_shape)

    def _sides(self) -> tuple[Tensor, Tensor]:
        return self.low > -math.inf, self.high < math.inf

    def _finite(self, edge: Tensor, x: Tensor) -> Tensor:
        return torch.where(edge.isfinite(), edge, 0.0).to(x.dtype)

    def _log_span(self, x: Tensor) -> Tensor:
        below, above = self._sides()
        return torch.where(below & above, self.high - self.low, 1.0).log().to(x.dtype)


def _check(name: str, column: Mapping[str, Any]) -> None:
    if unknown := set(column) - KEYS:
        raise ValueError(
            f"column '{name}': {sorted(unknown)} is not known of columns, only {sorted(KEYS)} are"
        )
    if not column.get("width", 1.0) > 0:
        raise ValueError(f"column '{name}': its width must be positive, got {column['width']}")
    if not column.get("low", -math.inf) < column.get("high", math.inf):
        raise ValueError(
            f"column '{name}': its lower bound {column['low']} must lie below {column['high']}"
        )


def _inside(column: Mapping[str, Any]) -> float:
    """Any value between the bounds, from the origin."""
    low, high = column.get("low", -math.inf), column.get("high", math.inf)
    if math.isinf(low) and math.isinf(high):
        return 0.0
    middle = high - 1 if math.isinf(low) else low + 1 if math.isinf(high) else (low + high) / 2
    return middle - column.get("origin", 0.0)
