"""Activation normalisation: a learned shift and scale that start from the data.

    z = (x + b) * exp(s)                  log|det dz/dx| = H W sum_c s_c

Kingma & Dhariwal, "Glow" (2018), sec. 3.1. Batch normalisation without its dependence on the
batch: after the first batch b and s are ordinary parameters.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from steadyflow.bijections.bijection import (
    Bijection,
    Shape,
    Transformed,
    constant_log_det,
    same_shape,
)


class ActNorm(Bijection):
    """Shift and scale of each channel, or of each variable of a vector.

    Starts as the identity. `initialize` sets b and s so that every channel of the batch has mean 0
    and variance 1; it does so once, and the fact is saved with the weights, so that a resumed
    training and every process of a distributed one keep what was learned.

    Args:
        channels: length of axis 1.
    """

    initialized: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialized", torch.tensor(False))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Shifts, then scales."""
        z = (x + self._wide(self.shift, x)) * self._wide(self.log_scale.exp(), x)
        return z, self._log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Scales back, then shifts back."""
        x = z * self._wide(torch.exp(-self.log_scale), z) - self._wide(self.shift, z)
        return x, -self._log_det(z)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Normalises the batch x: (batch, channels, *rest); does nothing the second time."""
        if self.initialized:
            return
        wide = x.double().movedim(1, 0).flatten(1)
        mean, std = wide.mean(1), wide.std(1, correction=0)
        constant = (std < 1e-6).nonzero().flatten().tolist()
        if constant:
            warnings.warn(
                f"channels {constant} of the first batch are constant: their scale starts at 1",
                stacklevel=2,
            )
            std[constant] = 1.0
        self.shift.copy_(-mean)
        self.log_scale.copy_(-std.log())
        self.initialized.fill_(True)

    def output_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another number of channels."""
        return same_shape(self, (*self.shift.shape, *event_shape[1:]), event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another number of channels."""
        return same_shape(self, (*self.shift.shape, *event_shape[1:]), event_shape)

    def _wide(self, parameter: Tensor, x: Tensor) -> Tensor:
        return parameter.view(-1, *(1,) * (x.dim() - 2))

    def _log_det(self, x: Tensor) -> Tensor:
        return constant_log_det(self.log_scale, x) * x.shape[2:].numel()
