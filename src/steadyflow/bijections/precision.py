"""Full precision under mixed precision.

Automatic mixed precision rounds matrix products to bfloat16, three digits. In a flow of small
networks that saves no time, and moves log-densities by tenths of a nat: the parameters of every
variable, and the variables that a linear layer mixes, are rounded once in each layer.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from steadyflow.bijections.bijection import Bijection, Shape, Transformed


class FullPrecision(Bijection):
    """The same bijection, computed in float32 or wider even under autocast.

    Args:
        bijection: what is computed.
    """

    def __init__(self, bijection: Bijection):
        super().__init__()
        self.bijection = bijection
        self.closed_form_inverse = bijection.closed_form_inverse
        self.exact_log_det = bijection.exact_log_det

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """The forward of the wrapped bijection."""
        with _without_autocast(x):
            return self.bijection(_wide(x), context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """The inverse of the wrapped bijection."""
        with _without_autocast(z):
            return self.bijection.inverse(_wide(z), context)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Initialises the wrapped bijection."""
        self.bijection.initialize(_wide(x), context)

    def output_shape(self, event_shape: Shape) -> Shape:
        """The wrapped bijection's output shape."""
        return self.bijection.output_shape(event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The wrapped bijection's input shape."""
        return self.bijection.input_shape(event_shape)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _without_autocast(x: Tensor) -> contextlib.AbstractContextManager:
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()
