"""A learned normal distribution of latents, written as a bijection.

    z = (x - mean(c)) * exp(-s(c))               log|det dz/dx| = -sum_i s_i

Standing last in a flow with a standard normal base, it is the learned prior N(mean, exp(s)^2) of
what comes before; so every latent of the flow is standard whatever was learned, one temperature
serves all of them, and interpolation happens where distances mean the same everywhere.

Kingma & Dhariwal, "Glow" (2018): the learned top prior ("learntop") and its class conditioning.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from steadyflow.bijections.bijection import Bijection, Shape, Transformed, same_shape, sum_event

GAIN = 3.0  # the authors' logscale_factor: parameters learn at three times the pace


class LearnedPrior(Bijection):
    """Whitens x by a mean and a standard deviation learned for each variable.

    Starts as the identity. The log standard deviation s stays within (-bound, bound), so that a
    variable that is constant in the data can not draw the density to infinity.

    Args:
        event_shape: shape of x; (channels, height, width) for images.
        context_features: length of a context vector, which moves mean and s of each channel
            linearly (an embedding, for one-hot classes); None for none.
        bound: of |s|.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context_features: int | None = None,
        bound: float = 5.0,
    ):
        super().__init__()
        self.event_shape, self.bound = tuple(event_shape), bound
        self.mean = nn.Parameter(torch.zeros(self.event_shape))
        self.log_std = nn.Parameter(torch.zeros(self.event_shape))
        self.context = None
        if context_features:
            self.context = nn.Linear(context_features, 2 * self.event_shape[0], bias=False)
            nn.init.zeros_(self.context.weight)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Whitens."""
        mean, log_std = self._moments(x, context)
        return (x - mean) * torch.exp(-log_std), -sum_event(log_std.expand_as(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Scales and shifts back."""
        mean, log_std = self._moments(z, context)
        return torch.addcmul(mean, z, log_std.exp()), sum_event(log_std.expand_as(z))

    def _moments(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        mean, raw = self.mean[None], self.log_std[None]
        if self.context is not None and context is not None:
            moved = self.context(context.to(mean.dtype))
            moved = moved.view(*moved.shape, *(1,) * (x.dim() - 2)).to(mean.dtype)
            of_mean, of_raw = moved.chunk(2, 1)
            mean, raw = mean + of_mean, raw + of_raw
        log_std = self.bound * torch.tanh(GAIN * raw / self.bound)
        return GAIN * mean, log_std

    def output_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another one than the constructor's."""
        return same_shape(self, self.event_shape, event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another one than the constructor's."""
        return same_shape(self, self.event_shape, event_shape)
