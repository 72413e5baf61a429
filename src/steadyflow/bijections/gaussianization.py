"""Marginal Gaussianization: each pixel through the quantiles of a normal distribution.

    z = Phi^-1(a + (1 - 2a) F(y))        F the distribution function of the pixels of a channel
    log|dz/dy| = log[(1 - 2a) F'(y)] + z^2 / 2 + log sqrt(2 pi)

F is the histogram of the training pixels, one bin for each integer, and linear within a bin, as
the uniform noise of dequantization is. All pixels of a channel are then one standard normal, and
what an affine flow has left to learn is how they depend on each other. Black-and-white images gain
most: a spike that holds four fifths of the pixels becomes four fifths of a bell.

Chen & Gopinath, "Gaussianization" (2000).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from steadyflow.bijections.bijection import (
    Bijection,
    Shape,
    Transformed,
    same_shape,
    sum_event,
)

MARGIN = 1e-7  # a: latents of pixels end at 5.2 standard deviations, and those beyond are tails


class Gaussianization(Bijection):
    """Makes the pixels of each channel standard normal, by their histogram.

    Acts on (batch, channels, *rest) in [0, 1); before `initialize` every integer has the same
    share. Tables and quantiles are worked out in float64.

    Args:
        channels: length of axis 1, each with a histogram of its own.
        bins: one for each integer that a pixel can be.
    """

    shares: Tensor

    def __init__(self, channels: int, bins: int = 256):
        super().__init__()
        self.bins = bins
        self.register_buffer("shares", torch.full((channels, bins), 1 / bins))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Pixels in [0, 1) to normal quantiles."""
        shares, below = self._tables()
        y = _by_channel(x)
        bin_ = (y.detach() * self.bins).floor().clamp(0, self.bins - 1).long()
        share = shares.gather(1, bin_)
        F = below.gather(1, bin_) + (y * self.bins - bin_) * share
        z = torch.special.ndtri(MARGIN + (1 - 2 * MARGIN) * F)
        return self._result(z, z, share, x, 1.0)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Normal quantiles to pixels; those beyond 5.2 lie a little outside of [0, 1)."""
        shares, below = self._tables()
        wide = _by_channel(z)
        F = (torch.special.ndtr(wide) - MARGIN) / (1 - 2 * MARGIN)
        found = torch.searchsorted(below, F.detach().contiguous(), right=True) - 1
        bin_ = found.clamp(0, self.bins - 1)
        share = shares.gather(1, bin_)
        y = (bin_ + (F - below.gather(1, bin_)) / share) / self.bins
        return self._result(y, wide, share, z, -1.0)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Takes the histograms of a batch; each integer counts once more than it was seen."""
        bin_ = (_by_channel(x) * self.bins).floor().clamp(0, self.bins - 1).long()
        counts = torch.stack([torch.bincount(row, minlength=self.bins) for row in bin_]) + 1.0
        self.shares.copy_(counts / counts.sum(1, keepdim=True))

    def output_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another number of channels."""
        return same_shape(self, (len(self.shares), *event_shape[1:]), event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another number of channels."""
        return same_shape(self, (len(self.shares), *event_shape[1:]), event_shape)

    def _tables(self) -> tuple[Tensor, Tensor]:
        """The share of each bin, and of all bins below it: (channels, bins) each."""
        shares = self.shares.double()
        shares = shares / shares.sum(1, keepdim=True)
        return shares, shares.cumsum(1) - shares

    def _result(
        self, value: Tensor, z: Tensor, share: Tensor, like: Tensor, sign: float
    ) -> Transformed:
        slope = (share * (self.bins * (1 - 2 * MARGIN))).log()
        log_slope = slope + 0.5 * z.square() + 0.5 * math.log(2 * math.pi)
        wide = torch.promote_types(like.dtype, torch.float32)
        shape = like.transpose(0, 1).shape
        log_det = sum_event(log_slope.reshape(shape).transpose(0, 1))
        return value.reshape(shape).transpose(0, 1).to(like.dtype), sign * log_det.to(wide)


def _by_channel(x: Tensor) -> Tensor:
    """(batch, channels, *rest) to (channels, batch * rest), float64."""
    return x.double().transpose(0, 1).reshape(x.shape[1], -1)
