"""How good drawn images are, in numbers that need no download.

    pixels     kernel distance (unbiased MMD^2, cubic kernel) of draws and held-out images
    features   the same on the features of a small bundled classifier
    neighbours how near draws lie to the training images, beside how near held-out images do

A distance means something beside that of the training images themselves to the held-out ones,
which is measured too: it is what a perfect model would get. The distances can be compared with one
another, not with published KID or FID values. Who has the weights of Inception v3 gets FID itself,
through torch-fidelity.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steadyflow.errors import UsageError, require
from steadyflow.evaluation.features import features
from steadyflow.evaluation.two_sample import KernelDistance, kernel_distance, nearest_neighbours


@dataclasses.dataclass(frozen=True)
class ImageQuality:
    """What `image_quality` measured.

    Attributes:
        draws: how many images were drawn.
        held_out: how many held-out images they were compared with.
        train: how many training images.
        pixels: distance of draws and held-out images, on pixels.
        pixels_of_train: of training and held-out images: what a perfect model would get.
        features: the same on the bundled classifier's features.
        features_of_train: and that of the training images.
        nearest: median distance of a draw to its nearest training image, pixels on [0, 1].
        nearest_of_held_out: median distance of a held-out image to its nearest training image.
        copies: draws that are training images, pixel by pixel.
        fid: Frechet distance on Inception features, or None without weights.
    """

    draws: int
    held_out: int
    train: int
    pixels: KernelDistance
    pixels_of_train: KernelDistance
    features: KernelDistance
    features_of_train: KernelDistance
    nearest: float
    nearest_of_held_out: float
    copies: int
    fid: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        def row(name: str, drawn: object, train: object) -> str:
            return f"  {name:<22}{drawn!s:<30}{train}"

        lines = [
            f"{self.draws:,} draws beside {self.held_out:,} held-out images",
            row("", "draws", "training images (the aim)"),
            row("on pixels", self.pixels, self.pixels_of_train),
            row("on features", self.features, self.features_of_train),
            f"  nearest training image, median distance: {self.nearest:.2f} of a draw, "
            f"{self.nearest_of_held_out:.2f} of a held-out image",
            f"  copies of training images: {self.copies}",
        ]
        if self.fid is not None:
            lines.append(f"  FID (Inception v3, torch-fidelity): {self.fid:.2f}")
        return "\n".join(lines)


def image_quality(
    draws: Tensor,
    held_out: Tensor,
    train: Tensor,
    *,
    white: float = 255,
    subsets: int = 10,
    seed: int = 0,
    inception: str | Path | None = None,
) -> ImageQuality:
    """Compares drawn images with held-out and training images.

    Args:
        draws: (N, C, H, W), integers from 0 to white, or reals in [0, 1].
        held_out: (M, C, H, W).
        train: (K, C, H, W).
        white: the largest value of an integer pixel.
        subsets: of the kernel distances, whose scatter gives their standard error.
        seed: of the choice of subsets.
        inception: a file with Inception v3's weights, for FID of draws and held-out images.

    Raises:
        UsageError: if the shapes differ, there are too few images for the subsets, or there is no
            file of weights.
    """
    if not draws.shape[1:] == held_out.shape[1:] == train.shape[1:]:
        raise UsageError(
            f"images of one shape are compared, got {tuple(draws.shape[1:])}, "
            f"{tuple(held_out.shape[1:])} and {tuple(train.shape[1:])}"
        )
    if inception is not None and not Path(inception).is_file():
        raise UsageError(f"there is no file of Inception weights '{inception}'")
    sets = (draws, held_out, train)
    seen = [features(x, white=white).cpu() for x in sets]
    draws, held_out, train = (x.cpu() for x in sets)
    how: dict[str, Any] = {"subsets": subsets, "seed": seed, "white": white}
    near = nearest_neighbours(draws, train, white=white)
    return ImageQuality(
        draws=len(draws),
        held_out=len(held_out),
        train=len(train),
        pixels=kernel_distance(draws, held_out, **how),
        pixels_of_train=kernel_distance(train, held_out, **how),
        features=kernel_distance(seen[0], seen[1], **how),
        features_of_train=kernel_distance(seen[2], seen[1], **how),
        nearest=float(near.distances.median()),
        nearest_of_held_out=float(
            nearest_neighbours(held_out, train, white=white).distances.median()
        ),
        copies=int((near.distances == 0).sum()),
        fid=None if inception is None else frechet_inception(draws, held_out, inception, white),
    )


def frechet_inception(x: Tensor, y: Tensor, weights: str | Path, white: float = 255) -> float:
    """FID of two sets of images, by torch-fidelity with the Inception weights of a file.

    Args:
        x: (N, 1 or 3, H, W), integers from 0 to white, or reals in [0, 1].
        y: (M, 1 or 3, H, W).
        weights: torch-fidelity's file of weights (pt_inception-2015-12-05-6726825d.pth).
        white: the largest value of an integer pixel.

    Raises:
        ImportError: without torch-fidelity, with its pip line.
    """
    fidelity = require("torch_fidelity", "fid", "FID")
    found = fidelity.calculate_metrics(
        input1=_Pixels(x, white),
        input2=_Pixels(y, white),
        fid=True,
        feature_extractor_weights_path=str(weights),
        cuda=torch.cuda.is_available(),
        cache=False,
        verbose=False,
    )
    return float(found["frechet_inception_distance"])


class _Pixels(torch.utils.data.Dataset):
    """Images as torch-fidelity takes them: uint8, three channels."""

    def __init__(self, x: Tensor, white: float):
        x = x.cpu()
        y = x.clamp(0, 1) if x.is_floating_point() else x.float() / white
        y = y if y.shape[1] == 3 else y.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        self.images = (y * 255).round().to(torch.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]
