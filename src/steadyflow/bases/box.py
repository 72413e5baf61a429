"""A uniform box: the base of flows on intervals and on tori.

    log p(z) = -sum_i log(high_i - low_i)   inside,   -inf outside

With `CircularSpline` on [-pi, pi) it gives densities on circles and tori: Rezende et al.,
"Normalizing Flows on Tori and Spheres" (2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steadyflow.bases.base import Base
from steadyflow.bijections.bijection import sum_event
from steadyflow.errors import UsageError


class UniformBox(Base):
    """z_i uniform in [low, high).

    Temperature scales the box about its middle; above 1 it is refused, since draws would leave the
    box. The bijection before it must end inside of the box.

    Args:
        event_shape: of one latent.
        low: the lower end of every variable.
        high: the upper end.

    Example:
        >>> import math
        >>> base = UniformBox((2,), -math.pi, math.pi)
        >>> base.log_prob(torch.tensor([[0.0, 3.0], [0.0, 4.0]]))
        tensor([-3.6758,    -inf])
    """

    def __init__(self, event_shape: Sequence[int], low: float = 0.0, high: float = 1.0):
        super().__init__(event_shape)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"a box needs two finite ends, low < high, got {low} and {high}")
        self.low, self.high = float(low), float(high)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of z: (batch, *event), shape (batch,)."""
        inside = ((z >= self.low) & (z <= self.high)).flatten(1).all(1)
        # 0 times z: a sum of the right shape and type, with a gradient of zero
        value = sum_event(0 * z) - math.prod(self.event_shape) * math.log(self.high - self.low)
        return torch.where(inside, value, -math.inf)

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws z: (n, *event).

        Raises:
            UsageError: for a temperature above 1.
        """
        if temperature > 1:
            raise UsageError(
                f"draws of a uniform box at temperature {temperature} would leave the box: "
                "use at most 1"
            )
        middle, width = (self.low + self.high) / 2, self.high - self.low
        return middle + temperature * width * (self._uniform(n, generator) - 0.5)
