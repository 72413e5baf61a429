"""The state of an ODE as one tensor: a tensor as it is, a tuple side by side.

A tuple of parts (batch, ...) becomes (batch, n_1 + n_2 + ...). The size of an error is taken of
each part by itself, and the worst part counts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Layout:
    """How a state is packed, and in which arithmetic its time runs.

    Args:
        x: a state: (batch, *event), or a tuple of tensors with the same batch.

    Raises:
        ValueError: if a part is not a finite float tensor of the same batch.
    """

    def __init__(self, x: Any):
        self.parts = tuple(x) if isinstance(x, tuple | list) else (x,)
        self.alone = not isinstance(x, tuple | list)
        for i, part in enumerate(self.parts):
            _check(part, i, self.parts[0])
        if self.alone and x.dim() < 2:
            raise ValueError(f"expected a state (batch, *event), got shape {tuple(x.shape)}")
        self.shapes = [part.shape[1:] for part in self.parts]
        self.sizes = [shape.numel() for shape in self.shapes]
        # float64 where there is any
        self.clock = torch.float32 if self.parts[0].device.type == "mps" else torch.float64
        self._checked = False

    def pack(self, x: Any) -> Tensor:
        """The state as one tensor."""
        if self.alone:
            return x
        return torch.cat(
            [part.reshape(len(part), n) for part, n in zip(x, self.sizes, strict=True)], 1
        )

    def unpack(self, y: Tensor) -> Any:
        """The state in the form that was given."""
        if self.alone:
            return y
        columns = y.split(self.sizes, 1)
        return tuple(
            c.unflatten(1, s) if len(s) > 1 else c if len(s) else c[:, 0]
            for c, s in zip(columns, self.shapes, strict=True)
        )

    def pack_derivative(self, value: Any, y: Tensor) -> Tensor:
        """A value of the field as one tensor; its shapes are checked the first time."""
        if not self._checked:
            self._compare(value, y.shape[0])
            self._checked = True
        if self.alone:
            return value if value.dtype == y.dtype else value.to(y.dtype)
        return torch.cat([v.reshape(len(v), -1).to(y.dtype) for v in value], 1)

    def norm(
        self, error: Tensor, h: float, y: Tensor, new: Tensor, rtol: float, atol: float
    ) -> float:
        """The size of h * error in units of the tolerance: its root mean square over the batch."""
        scaled = self._scaled(error, y, new, rtol, atol)
        if self.alone:
            return abs(h) * float(scaled.square_().mean().sqrt())
        parts = scaled.square_().split(self.sizes, 1)
        return abs(h) * max(float(part.mean().sqrt()) for part in parts if part.numel())

    def norms(self, error: Tensor, y: Tensor, new: Tensor, rtol: float, atol: float) -> Tensor:
        """The size of each example's error in units of the tolerance, (batch,) float64."""
        scaled = self._scaled(error, y, new, rtol, atol).square_()
        if self.alone:
            return scaled.flatten(1).mean(1).sqrt_().double()
        means = [part.mean(1) for part in scaled.split(self.sizes, 1) if part.shape[1]]
        return torch.stack(means).amax(0).sqrt_().double()

    @staticmethod
    def _scaled(error: Tensor, y: Tensor, new: Tensor, rtol: float, atol: float) -> Tensor:
        size = y.abs() if new is y else torch.maximum(y.abs(), new.abs())
        return error / size.mul_(rtol).add_(atol)

    def _compare(self, value: Any, batch: int) -> None:
        values = (value,) if self.alone else tuple(value)
        if len(values) != len(self.parts):
            raise ValueError(
                f"the field gave {len(values)} parts for a state of {len(self.parts)}"
            )
        for v, shape in zip(values, self.shapes, strict=True):
            if not isinstance(v, Tensor) or v.shape != (batch, *shape):
                got = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
                raise ValueError(
                    f"the field must give a derivative of the state's shape {(batch, *shape)}, "
                    f"but gave {got}"
                )


def _check(part: Any, index: int, first: Tensor) -> None:
    where = "the state" if index == 0 else f"part {index} of the state"
    if not isinstance(part, Tensor) or not part.is_floating_point():
        got = part.dtype if isinstance(part, Tensor) else type(part).__name__
        raise ValueError(f"{where} must be a float tensor (batch, *event), got {got}")
    if part.dim() < 1 or part.shape[0] != first.shape[0]:
        raise ValueError(
            f"{where} must have the batch of the first part, {tuple(first.shape[:1])}, "
            f"got shape {tuple(part.shape)}"
        )
    bad = ~torch.isfinite(part.detach().flatten(1) if part.dim() > 1 else part.detach()[:, None])
    if bad.any():
        rows = bad.any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"{where} holds NaN or infinite values in {len(rows)} examples, the first at {rows[0]}"
        )
