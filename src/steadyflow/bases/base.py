"""The distributions that latents are drawn from.

A base knows the shape of one latent, its log-density and how to draw. Temperature T scales the
distance from the centre: draws of T = 0.7 come from a distribution 0.7 times as wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


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
