"""Elementwise bijections with learned or fixed parameters of their own.

z_i = f_i(x_i)             log|det dz/dx| = sum_i log |f_i'(x_i)|
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.bijections.bijection import (
    Bijection,
    Shape,
    Transformed,
    constant_log_det,
    same_shape,
    sum_event,
    zero_log_det,
)


class Scaling(Bijection):
    """z = exp(s) * x with a learned s for each variable: NICE's diagonal scaling layer.

    Dinh, Krueger & Bengio (2014), sec. 3.3. The inverse standard deviations of the latent
    variables: a large s_i says that z_i carries little of the data's variation.

    Args:
        event_shape: shape of one example.
    """

    def __init__(self, event_shape: Sequence[int]):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(*event_shape))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Multiplies; log_det = sum_i s_i."""
        return x * self.log_scale.exp(), constant_log_det(self.log_scale, x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Divides."""
        return z * torch.exp(-self.log_scale), constant_log_det(-self.log_scale, z)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Starts at the data's own scale: s = -log std, with the std floored at 1e-4.

        A single example has no scale: then s stays as it is.
        """
        if len(x) < 2:
            return
        std = x.double().std(0, correction=0).clamp_min(1e-4)
        self.log_scale.copy_(-std.log())

    def output_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another one than the constructor's."""
        return same_shape(self, self.log_scale.shape, event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another one than the constructor's."""
        return same_shape(self, self.log_scale.shape, event_shape)


class Shift(Bijection):
    """z = x + b with a fixed number b; for example -0.5, to centre pixels in [0, 1]."""

    def __init__(self, shift: float):
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Adds."""
        return x + self.shift, zero_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Subtracts."""
        return z - self.shift, zero_log_det(z)


class Standardization(Bijection):
    """z = (x - mean) / std with the mean and std of the training data, not trained further.

    Makes a model work in the user's units: whatever the scale of the data, the layers behind it
    see mean 0 and variance 1, and log_prob stays a density of the data itself. Before
    `initialize` it is the identity.

    Args:
        event_shape: shape of one example.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, event_shape: Sequence[int]):
        super().__init__()
        self.register_buffer("mean", torch.zeros(*event_shape))
        self.register_buffer("std", torch.ones(*event_shape))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Subtracts the mean and divides by the std."""
        return (x - self.mean) / self.std, constant_log_det(-self.std.log(), x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Multiplies by the std and adds the mean."""
        return torch.addcmul(self.mean, z, self.std), constant_log_det(self.std.log(), z)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Takes mean and std over the batch, in float64.

        Raises:
            ValueError: if a variable is constant, since no density exists on it.
        """
        wide = x.double()
        mean, std = wide.mean(0), wide.std(0, correction=0)
        constant = (std <= 1e-12 * mean.abs().clamp_min(1e-12)).flatten().nonzero().flatten()
        if len(constant):
            raise ValueError(
                f"variable {constant[0].item()} of the data is constant "
                f"({mean.flatten()[constant[0]]:g}): it has no density; leave the column out"
            )
        self.mean.copy_(mean)
        self.std.copy_(std)

    def output_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another one than the constructor's."""
        return same_shape(self, self.mean.shape, event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another one than the constructor's."""
        return same_shape(self, self.mean.shape, event_shape)


class Logit(Bijection):
    """z = logit(a + (1 - 2a) x): maps [0, 1] to the real line (RealNVP's treatment of pixels).

        log_det = sum_i [ softplus(z_i) + softplus(-z_i) ] + D log(1 - 2a)

    Dinh, Sohl-Dickstein & Bengio (2017), sec. 4.1; a = 0.05 for natural images there. The paper
    prints a + (1 - a) x, its code and everybody's computes a + (1 - 2a) x, as here.

    Args:
        alpha: the margin a in [0, 0.5); 0 makes the end points infinite.
    """

    def __init__(self, alpha: float = 0.05):
        super().__init__()
        if not 0 <= alpha < 0.5:
            raise ValueError(f"alpha must be in [0, 0.5), got {alpha}")
        self.alpha = alpha

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """From [0, 1] to the real line."""
        z = torch.logit(self.alpha + (1 - 2 * self.alpha) * x)
        return z, sum_event(self._log_slope(z))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """From the real line to (-a, 1 + a) / (1 - 2a): what lies outside [0, 1] is a tail."""
        x = (torch.sigmoid(z) - self.alpha) / (1 - 2 * self.alpha)
        return x, -sum_event(self._log_slope(z))

    def _log_slope(self, z: Tensor) -> Tensor:
        # softplus(z) + softplus(-z), exact where softplus itself switches to its asymptote
        far = z.abs()
        return far + 2 * F.softplus(-far) + math.log(1 - 2 * self.alpha)
