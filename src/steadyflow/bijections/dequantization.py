"""Dequantization: from integers to reals, so that a density can be fitted to pixels.

    y = (x + u) / 2^bits,  u ~ U[0, 1)^D           x in {0, ..., 2^bits - 1}^D
    log P(x) >= E_u log p(y) - D log 2^bits          (Jensen)

A density of integers would grow without bound; the noise fills each bin exactly, so what the flow
gives is a lower bound on the log-probability of the integer image, and the mean of p(y) over the
bin is that probability itself. Theis, van den Oord & Bethge, "A note on the evaluation of
generative models" (2016), sec. 3.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from steadyflow.bijections.bijection import Transformed
from steadyflow.tracing import recording


class UniformDequantization(nn.Module):
    """Adds uniform noise to integers and scales them to [0, 1).

    Not a bijection (many y belong to one x), so it stands before the flow, not inside it. Its
    `log_det` of -D log 2^bits makes log_prob a bound on log P(x), in nats.

    Args:
        bits: of each integer; 8 for ordinary pixels.
    """

    exact = False

    def __init__(self, bits: int = 8):
        super().__init__()
        if not 1 <= bits <= 16:
            raise ValueError(f"bits must be between 1 and 16, got {bits}")
        self.bits = bits
        self.levels = 2**bits

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Integers x: (batch, *event) to reals y in [0, 1), with fresh noise at every call.

        Raises:
            TypeError: if x is not of an integer type.
            ValueError: if an integer is out of range.
        """
        check_pixels(x, self.bits)
        noise = torch.rand(x.shape, dtype=torch.get_default_dtype(), device=x.device)
        # the largest noise that x + noise does not round up into the next bin
        noise.clamp_(max=1 - self.levels * torch.finfo(noise.dtype).eps / 2)
        log_det = -x.shape[1:].numel() * math.log(self.levels)
        return (x + noise) / self.levels, noise.new_full((x.shape[0],), log_det)

    def middle(self, x: Tensor) -> Tensor:
        """Integers to the middle of their bins, without noise."""
        return (x + 0.5) / self.levels

    def inverse(self, y: Tensor) -> Tensor:
        """Reals y to the integers whose bin they lie in; what lies outside [0, 1) is clipped."""
        return to_pixels(y, self.bits)


class GaussianNoise(nn.Module):
    """Adds normal noise to images: for models whose samples, not whose likelihood, are wanted.

        y = x + sigma e,   e ~ N(0, I)              pixels x counted from -1 (black) to 1 (white)

    The flow's density is then that of noisy images; its draws are noisy, and x is estimated from
    them by `FlowModel`s that know how (TarFlow's denoising). Like `UniformDequantization` it gives
    pixels as numbers around [0, 1].

    Zhai et al., "Normalizing Flows are Capable Generative Models" (2024), sec. 2.4.

    Args:
        sigma: of the noise, where pixels lie in [-1, 1] (the paper's unit); of real-valued images
            in their own unit.
        bits: of each integer; None for real-valued images.
    """

    exact = False

    def __init__(self, sigma: float, bits: int | None = 8):
        super().__init__()
        if bits is not None and not 1 <= bits <= 16:
            raise ValueError(f"bits must be between 1 and 16, got {bits}")
        self.bits = bits
        if bits is not None:
            self.levels = 2**bits
        self.deviation = sigma if bits is None else sigma / 2  # in the unit of y

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Images to noisy reals, with fresh noise at every call; log_det is 0."""
        if self.bits is not None:
            check_pixels(x, self.bits)
        y = self.middle(x)
        return y + self.deviation * torch.randn_like(y), y.new_zeros(len(y))

    def middle(self, x: Tensor) -> Tensor:
        """Images without noise: integers to the middle of their bins."""
        if self.bits is None:
            return x
        wide = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        return (wide + 0.5) / 2**self.bits

    def inverse(self, y: Tensor) -> Tensor:
        """Reals to the nearest pixels, noise and all; real-valued images stay as they are."""
        return y if self.bits is None else to_pixels(y, self.bits)


def to_pixels(y: Tensor, bits: int) -> Tensor:
    """Reals to the integers whose bin they lie in; what lies outside [0, 1) is clipped."""
    x = (y * 2**bits).floor().clamp(0, 2**bits - 1)
    return x.to(torch.uint8 if bits <= 8 else torch.int32)


def check_pixels(x: Tensor, bits: int) -> None:
    """Raises an error unless x holds integers of so many bits.

    Raises:
        TypeError: if x is not of an integer type.
        ValueError: if an integer is out of range.
    """
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise TypeError(
            f"pixels must be integers from 0 to {2**bits - 1} (uint8), got {x.dtype}: "
            "give the integer image, or build the model with bits=0 for real-valued data"
        )
    fits = x.dtype == torch.uint8 and bits >= 8
    if fits or not x.numel() or recording():
        return
    low, high = int(x.min()), int(x.max())
    if low < 0 or high >= 2**bits:
        raise ValueError(
            f"pixels of {bits} bits lie in 0 to {2**bits - 1}, got {low} to {high}: "
            "reduce the images, or build the model with the bits that they have"
        )
