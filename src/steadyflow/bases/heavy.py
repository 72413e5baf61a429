"""Student's t, for data with heavy tails.

    log p(z) = sum_i [ log G((v+1)/2) - log G(v/2) - log(pi v)/2 - (v+1)/2 log(1 + z_i^2 / v) ]

A flow whose layers stretch distances by bounded factors keeps the tails of its base: from a normal
it makes no power law. Jaini, Kobyzev, Yu & Brubaker, "Tails of Lipschitz Triangular Flows" (2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from steadyflow.bases.base import Base
from steadyflow.bijections.bijection import sum_event


class StudentT(Base):
    """z_i ~ t(v_i), each variable with its own learned degrees of freedom.

    Draws are differentiable in v (implicit reparametrisation of the gamma distribution).

    Args:
        event_shape: of one latent.
        freedom: v at first; the smaller, the heavier the tails. Moments of order v do not exist.
    """

    def __init__(self, event_shape: Sequence[int], freedom: float = 5.0):
        super().__init__(event_shape)
        if not freedom > 0:
            raise ValueError(f"degrees of freedom must be positive, got {freedom}")
        self.first = freedom
        self.log_ratio = nn.Parameter(torch.zeros(self.event_shape))

    @property
    def freedom(self) -> Tensor:
        """v, of the event's shape, float32 or wider."""
        wide = torch.promote_types(self.dtype, torch.float32)
        return self.first * self.log_ratio.to(wide).exp()

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of z: (batch, *event), shape (batch,)."""
        v = self.freedom
        constant = torch.lgamma((v + 1) / 2) - torch.lgamma(v / 2) - (math.pi * v).log() / 2
        ratio = z.to(torch.promote_types(z.dtype, v.dtype)) * v.rsqrt()
        # log(1 + r^2) = 2 log hypot(1, r): r^2 would overflow
        return sum_event(constant - (v + 1) * torch.hypot(torch.ones_like(ratio), ratio).log())

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws z: (n, *event), `temperature` times Student's t."""
        v = self.freedom.expand(n, *self.event_shape)
        device = self.device if generator is None else generator.device
        gamma = torch._standard_gamma(v.to(device) / 2, generator=generator).to(self.device)
        normal = self._normal(n, generator)
        return temperature * normal * (v / (2 * gamma)).sqrt().to(normal.dtype)
