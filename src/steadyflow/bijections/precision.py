"""Full precision under mixed precision.

Automatic mixed precision rounds matrix products to bfloat16, three digits. In a flow of small
networks that saves no time, and moves log-densities by tenths of a nat: the parameters of every
variable, and the variables that a linear layer mixes, are rounded once in each layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steadyflow.bijections.bijection import Bijection, Shape, Transformed
from steadyflow.networks.precision import full_precision


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
        x = widened(x)
        with full_precision(x):
            return self.bijection(x, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """The inverse of the wrapped bijection."""
        z = widened(z)
        with full_precision(z):
            return self.bijection.inverse(z, context)

    def to_latent(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The same of the wrapped bijection."""
        x = widened(x)
        with full_precision(x):
            return self.bijection.to_latent(x, context)

    def to_data(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The same of the wrapped bijection."""
        z = widened(z)
        with full_precision(z):
            return self.bijection.to_data(z, context)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Initialises the wrapped bijection."""
        x = widened(x)
        with full_precision(x):
            self.bijection.initialize(x, context)

    def output_shape(self, event_shape: Shape) -> Shape:
        """The wrapped bijection's output shape."""
        return self.bijection.output_shape(event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The wrapped bijection's input shape."""
        return self.bijection.input_shape(event_shape)


def widened(x: Tensor) -> Tensor:
    """The same numbers in float32, where autocast may have rounded them."""
    if torch.is_autocast_enabled(x.device.type):
        return x.to(torch.promote_types(x.dtype, torch.float32))
    return x
