"""Features of images for distances between sets of them, by a small classifier of our own.

    32 x 32 x 3  ->  conv 32, pool  ->  conv 64, pool  ->  conv 128, pool  ->  conv 128  ->  mean

Distances on pixels do not see what an image shows. Here a network of four convolutions, trained to
tell ten digits, ten kinds of objects and two facial expressions apart, stands where others use
Inception v3: it comes with the package and needs no download, but its distances can only be
compared with each other, never with published FID or KID values. How its weights were made is in
benchmarks/features.py, what it can tell apart in docs/image-quality.md.
"""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE, FEATURES = 32, 128
WEIGHTS = Path(__file__).with_name("features.safetensors")


class FeatureNet(nn.Module):
    """The classifier; its features are what its last layer sees.

    Args:
        classes: of the training; they have no part in the features.
    """

    def __init__(self, classes: int):
        super().__init__()
        widths = (3, 32, 64, 128, FEATURES)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b))
            for a, b in itertools.pairwise(widths)
        )
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the classes, (N, classes), for x: (N, 3, 32, 32) in [0, 1]."""
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) in [0, 1] to (N, 128)."""
        h = 2 * x - 1
        for place, block in enumerate(self.blocks):
            h = F.relu(block(h), inplace=True)
            if place < len(self.blocks) - 1:
                h = F.max_pool2d(h, 2)
        return h.mean((2, 3))


@torch.no_grad()
def features(x: Tensor, *, white: float = 255, batch_size: int = 500) -> Tensor:
    """The bundled network's features of images.

    Args:
        x: (N, 1 or 3, H, W); integers from 0 to white, or reals in [0, 1].
        white: the largest value of an integer pixel.
        batch_size: images at once.

    Returns:
        (N, 128), float32.
    """
    network = bundled().to(x.device)
    return torch.cat([network.features(prepare(part, white)) for part in x.split(batch_size)])


@cache
def bundled() -> FeatureNet:
    """The network with the weights that come with the package."""
    weights = safetensors.torch.load_file(str(WEIGHTS))
    network = FeatureNet(len(weights["head.bias"]))
    network.load_state_dict({name: value.float() for name, value in weights.items()})
    return network.eval()


def prepare(x: Tensor, white: float = 255) -> Tensor:
    """Images of any size and kind as the network takes them: (N, 3, 32, 32) in [0, 1]."""
    y = x.clamp(0, 1).float() if x.is_floating_point() else x.float() / white
    if y.shape[1] != 3:
        y = y.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    if y.shape[2:] == (SIDE, SIDE):
        return y
    return F.interpolate(y, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
