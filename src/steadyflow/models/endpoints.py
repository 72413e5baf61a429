"""The two ends of an ODE flow: data brought to unit variance, and the normal that they end in.

    u = c (x - mean) / std                          variance 1 in the coordinate of the paths
    z ~ N(cos m, cos^2 var + sin^2)                 the moments of the data at the last angle

`ProbabilityFlowModel` is a chain of the first, the ODE, and the second as its base.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steadyflow.bases import Base
from steadyflow.bijections.bijection import (
    Bijection,
    Transformed,
    constant_log_det,
    sum_event,
)


class Normalization(Bijection):
    """One mean and one standard deviation for all pixels, those of the data.

    (A mean and deviation of each pixel would give the noise of black corners infinite weight.)
    """

    mean: Tensor
    std: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("std", torch.ones(1))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Subtracts the mean and divides by the std."""
        return (x - self.mean) / self.std, self._log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Multiplies by the std and adds the mean."""
        return z * self.std + self.mean, -self._log_det(z)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Takes both over the whole batch."""
        wide = x.double()
        if not wide.std() > 0:
            raise ValueError("every pixel of the first batch is the same: there is nothing to fit")
        self.mean.fill_(wide.mean())
        self.std.fill_(wide.std())

    def _log_det(self, x: Tensor) -> Tensor:
        return constant_log_det(-self.std.log(), x) * x.shape[1:].numel()


class Shrinking(Bijection):
    """u = c x: from data with the path's smallest noise to its coordinate of unit variance."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Multiplies."""
        return x * self.factor, self._log_det(x, 1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Divides."""
        return z / self.factor, self._log_det(z, -1)

    def _log_det(self, x: Tensor, sign: int) -> Tensor:
        size = x.shape[1:].numel()
        wide = torch.promote_types(x.dtype, torch.float32)
        return x.new_full((len(x),), sign * size * math.log(self.factor), dtype=wide)


class MatchedNormal(Base):
    """N(cos m, cos^2 var + sin^2) for data of moments m and var, at the path's last angle.

    Where the path ends in pure noise this is the standard normal; where it does not, a standard
    normal would be wrong by what is left of the data.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, event_shape: Sequence[int], angle: float):
        super().__init__(event_shape)
        self.cos, self.sin = math.cos(angle), math.sin(angle)
        self.register_buffer("mean", torch.zeros(self.event_shape))
        self.register_buffer("std", torch.ones(self.event_shape))

    @torch.no_grad()
    def match(self, x: Tensor) -> None:
        """Takes the moments of normalised data x: (batch, *event)."""
        wide = x.double()
        self.mean.copy_(self.cos * wide.mean(0))
        self.std.copy_(torch.sqrt((self.cos * wide.std(0, correction=0)) ** 2 + self.sin**2))

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of z: (batch, *event), shape (batch,)."""
        e = (z - self.mean) / self.std
        constant = constant_log_det(self.std.log() + 0.5 * math.log(2 * math.pi), z)
        return -0.5 * sum_event(e * e) - constant

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws z: (n, *event)."""
        return self.mean + temperature * self.std * self._normal(n, generator)
