"""Increasing curves on a box, with straight tails.

    z = f(x)                                 |x| <= B
    z = f(+-B) + f'(+-B) (x -+ B)            outside, so that value and slope are continuous

The inverse is bisection speeded up by Newton's steps, from the box or, beyond it, from a bracket
that the tail's own straight line gives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steadyflow.bijections.bijection import Transformed, sum_event
from steadyflow.bijections.roots import invert
from steadyflow.bijections.transforms import Transform


class Boxed(Transform):
    """A curve on [-bound, bound] with straight tails; a subclass gives its value and slope.

    Args:
        bound: half the width of the box, B.
    """

    def __init__(self, bound: float):
        if not bound > 0:
            raise ValueError(f"the bound of a box must be positive, got {bound}")
        self.bound = float(bound)

    def forward(self, x: Tensor, parameters: Tensor) -> Transformed:
        """Maps x: (batch, channels, *rest)."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        z, log_slope = self._value(wide, *self._coefficients(wide, parameters))
        return z.to(x.dtype), sum_event(log_slope)

    def inverse(self, z: Tensor, parameters: Tensor) -> Transformed:
        """Maps back, by iteration inside the box."""
        wide = z.to(torch.promote_types(z.dtype, torch.float32))
        coefficients = self._coefficients(wide, parameters)
        low, high = self._bracket(wide, *coefficients)
        x, log_slope = invert(self._value, wide, low, high, *coefficients)
        return x.to(z.dtype), -sum_event(log_slope)

    def _coefficients(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, ...]:
        """What `_inside` takes, from the conditioner's raw numbers."""
        raise NotImplementedError

    def _inside(self, x: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Value and slope in the box."""
        raise NotImplementedError

    def _value(self, x: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Value and log-slope everywhere."""
        near = x.clamp(-self.bound, self.bound)
        value, slope = self._inside(near, *coefficients)
        return value + (x - near) * slope, slope.log()

    @torch.no_grad()
    def _bracket(self, z: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """The box, drawn out to the root of the tail's line where z is beyond its edge."""
        edge = torch.full_like(z, self.bound)
        bottom, first = self._inside(-edge, *coefficients)
        top, last = self._inside(edge, *coefficients)
        low = -edge + (z - bottom).clamp(max=0) / first
        return low, edge + (z - top).clamp(min=0) / last
