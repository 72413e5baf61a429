"""Principal axes: a rotation to the axes of the data, and a stretching of each of them.

    z = (x - c) U diag(exp(s))              log|det dz/dx| = sum_i s_i        (U'U = I)

With c the mean, U the eigenvectors of the covariance and s = -log(lambda) / 2 this is whitening:
the flow made of it is the Gaussian of largest likelihood, and needs no training.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steadyflow.bijections.bijection import (
    Bijection,
    Shape,
    Transformed,
    constant_log_det,
    same_shape,
)
from steadyflow.bijections.precision import widened
from steadyflow.networks.precision import full_precision


class PrincipalAxes(Bijection):
    """An orthogonal matrix between a shift and a scale, set from data and not trained.

    Starts as the identity. The shift comes before the product: a float32 keeps its digits then,
    however far the data lie from zero.

    Args:
        size: the number of variables, d.
    """

    centre: Tensor
    axes: Tensor
    log_scale: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("axes", torch.eye(size))
        self.register_buffer("log_scale", torch.zeros(size))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Shifts, rotates, stretches; in float32 even under autocast."""
        x = widened(x)
        with full_precision(x):
            z = ((x - self.centre) @ self.axes) * self.log_scale.exp()
        return z, constant_log_det(self.log_scale, z)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """The same backwards."""
        z = widened(z)
        with full_precision(z):
            x = (z * torch.exp(-self.log_scale)) @ self.axes.t() + self.centre
        return x, constant_log_det(-self.log_scale, x)

    def output_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another size."""
        return same_shape(self, (self.size,), event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another size."""
        return same_shape(self, (self.size,), event_shape)

    def extra_repr(self) -> str:
        """The size, for the printed model."""
        return f"size={self.size}"


class Leading(Bijection):
    """Another bijection on the first variables only; the others stay.

        z = (f(x_1 .. x_k), x_{k+1} .. x_d)             log|det dz/dx| = log|det df/dx|

    Args:
        bijection: f, of vectors.
        size: k, the number of variables that it takes.
    """

    def __init__(self, bijection: Bijection, size: int):
        super().__init__()
        self.bijection, self.size = bijection, size
        self.closed_form_inverse = bijection.closed_form_inverse
        self.exact_log_det = bijection.exact_log_det
        same_shape(self, (size,), bijection.output_shape((size,)))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Maps the first variables by f."""
        first, log_det = self.bijection(x[:, : self.size], context)
        return torch.cat((first, x[:, self.size :]), 1), log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Maps them back."""
        first, log_det = self.bijection.inverse(z[:, : self.size], context)
        return torch.cat((first, z[:, self.size :]), 1), log_det

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Initialises f on the first variables."""
        self.bijection.initialize(x[:, : self.size], context)

    def output_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on fewer variables than f takes."""
        return self._enough(event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on fewer variables than f takes."""
        return self._enough(event_shape)

    def _enough(self, event_shape: Shape) -> Shape:
        if len(event_shape) != 1 or event_shape[0] < self.size:
            same_shape(self, (self.size,), event_shape)
        return tuple(event_shape)
