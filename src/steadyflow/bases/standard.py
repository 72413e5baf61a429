"""Normal and logistic bases: fixed, learned, and on the hull of data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.bases.base import Base
from steadyflow.bijections.bijection import sum_event


class StandardNormal(Base):
    """z ~ N(0, I):  log p(z) = -|z|^2 / 2 - D/2 log 2 pi."""

    def __init__(self, event_shape: Sequence[int]):
        super().__init__(event_shape)
        self._log_normalizer = 0.5 * math.prod(self.event_shape) * math.log(2 * math.pi)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of z: (batch, *event), shape (batch,)."""
        return -0.5 * sum_event(z * z) - self._log_normalizer

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws z: (n, *event) of standard deviation `temperature`."""
        z = self._normal(n, generator)
        return z if temperature == 1.0 else z * temperature


class StandardLogistic(Base):
    """z_i ~ logistic(0, 1):  log p(z) = -sum_i [softplus(z_i) + softplus(-z_i)].

    NICE's prior: its score is bounded by 1, so no example pulls too hard.
    Dinh, Krueger & Bengio (2014), sec. 3.4.
    """

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of z: (batch, *event), shape (batch,)."""
        # softplus(z) + softplus(-z), exact where softplus itself switches to its asymptote
        far = z.abs()
        return -sum_event(far + 2 * F.softplus(-far))

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws z: (n, *event), `temperature` times the standard logistic."""
        u = self._uniform(n, generator)
        # u = 0 stands for the interval up to the next number: half of that, not a wild outlier
        return torch.logit(u.clamp(min=torch.finfo(u.dtype).eps / 4)) * temperature


class DiagonalNormal(Base):
    """z ~ N(mean, diag(exp(log_std))^2) with both learned, from N(0, I)."""

    def __init__(self, event_shape: Sequence[int]):
        super().__init__(event_shape)
        self.mean = nn.Parameter(torch.zeros(self.event_shape))
        self.log_std = nn.Parameter(torch.zeros(self.event_shape))
        self._log_normalizer = 0.5 * math.prod(self.event_shape) * math.log(2 * math.pi)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of z: (batch, *event), shape (batch,)."""
        eps = (z - self.mean) * torch.exp(-self.log_std)
        return -0.5 * sum_event(eps * eps) - self.log_std.sum() - self._log_normalizer

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws z: (n, *event) with `temperature` times the learned standard deviation."""
        return self.mean + temperature * self.log_std.exp() * self._normal(n, generator)


class HullNormal(Base):
    """Independent normals of fixed width, some of which may have no width at all.

        log p(z) = sum over the support of [ -z_i^2 / (2 w_i^2) - log w_i - log(2 pi) / 2 ]

    Outside the support z is always 0: a density on the hull of data that do not fill their space.
    What z is there does not enter. Starts as N(0, I).
    """

    log_width: Tensor
    support: Tensor

    def __init__(self, event_shape: Sequence[int]):
        super().__init__(event_shape)
        self.register_buffer("log_width", torch.zeros(self.event_shape))
        self.register_buffer("support", torch.ones(self.event_shape))

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of z: (batch, *event) on the hull, shape (batch,)."""
        eps = z * torch.exp(-self.log_width)
        constant = self.log_width + 0.5 * math.log(2 * math.pi)
        return -sum_event((0.5 * eps * eps + constant) * self.support)

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws z: (n, *event), 0 outside the support."""
        width = temperature * self.log_width.exp() * self.support
        return width * self._normal(n, generator)
