"""The distributions that latents are drawn from.

A base knows the shape of one latent, its log-density and how to draw. Temperature T scales the
distance from the centre: draws of T = 0.7 come from a distribution 0.7 times as wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.bijections.bijection import sum_event


class Base(nn.Module):
    """A distribution over latents z of shape (batch, *event_shape)."""

    _like: Tensor

    def __init__(self, event_shape: Sequence[int]):
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.register_buffer("_like", torch.zeros(()), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """The arithmetic of the draws, which follows `.double()`, `.half()` and the like."""
        return self._like.dtype

    @property
    def device(self) -> torch.device:
        """Where the draws are made."""
        return self._like.device

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of z: (batch, *event) in nats, shape (batch,), float32 or wider."""
        raise NotImplementedError

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws z: (n, *event), differentiable in the parameters of the base."""
        raise NotImplementedError

    def _uniform(self, n: int, generator: torch.Generator | None) -> Tensor:
        return self._draw(torch.rand, n, generator)

    def _normal(self, n: int, generator: torch.Generator | None) -> Tensor:
        return self._draw(torch.randn, n, generator)

    def _draw(self, law: Any, n: int, generator: torch.Generator | None) -> Tensor:
        # a generator draws on its own device: the same seed gives the same draws on all others
        device = self.device if generator is None else generator.device
        shape = (n, *self.event_shape)
        return law(shape, generator=generator, dtype=self.dtype, device=device).to(self.device)

    def extra_repr(self) -> str:
        """The event shape, for the printed model."""
        return f"event_shape={self.event_shape}"


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


BASES: dict[str, type[Base]] = {
    "normal": StandardNormal,
    "logistic": StandardLogistic,
    "diagonal-normal": DiagonalNormal,
}
