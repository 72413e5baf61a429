"""What can be measured of any image, to sort images by.

ink      sum of what differs from the background, which is the median of the border
slant    - sum_xy ink (x - mx)(y - my) / sum_xy ink (y - my)^2      to the right is positive
width    standard deviation of the ink from left to right
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def ink(x: Tensor) -> Tensor:
    """How much of an image (batch, C, H, W) is not background: (batch,)."""
    return _ink(x).sum((1, 2))


def slant(x: Tensor) -> Tensor:
    """How far strokes lean to the right: (batch,)."""
    weight, across, down = _moments(x)
    spread = (weight * down * down).sum((1, 2)).clamp_min(1e-6)
    return -(weight * across * down).sum((1, 2)) / spread


def width(x: Tensor) -> Tensor:
    """How wide what is drawn is: (batch,)."""
    weight, across, _ = _moments(x)
    return (weight * across * across).sum((1, 2)).sqrt()


def brightness(x: Tensor) -> Tensor:
    """The mean of all pixels: (batch,)."""
    return x.flatten(1).mean(1)


ATTRIBUTES: dict[str, Callable[[Tensor], Tensor]] = {
    "brightness": brightness,
    "ink": ink,
    "slant": slant,
    "width": width,
}


def _ink(x: Tensor) -> Tensor:
    gray = x.mean(1)
    edge = torch.cat((gray[:, 0], gray[:, -1], gray[:, :, 0], gray[:, :, -1]), 1)
    return (gray - edge.median(1).values[:, None, None]).abs()


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The ink, as shares that sum to 1, and the distances from its middle, across and down."""
    weight = _ink(x)
    weight = weight / weight.sum((1, 2), keepdim=True).clamp_min(1e-6)
    height, wide = weight.shape[1:]
    down = torch.arange(height, dtype=x.dtype)[:, None].expand(height, wide)
    across = torch.arange(wide, dtype=x.dtype).expand(height, wide)
    middle_down = (weight * down).sum((1, 2))[:, None, None]
    middle_across = (weight * across).sum((1, 2))[:, None, None]
    return weight, across - middle_across, down - middle_down
