"""Pictures of image models: what they draw, and what lies between and behind real images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from steadyflow import evaluation
from steadyflow.evaluation import access
from steadyflow.evaluation.access import Model
from steadyflow.report.drawing import draw
from steadyflow.report.mosaic import image_grid

TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
MAX_CLASSES = 10


def sample_grid(
    model: Model,
    path: str | Path,
    *,
    classes: Sequence[str] | None = None,
    rows: int = 8,
    columns: int = 10,
    temperature: float = 1.0,
    seed: int = 0,
    white: float | None = None,
) -> Path:
    """A grid of draws; one row for each class (up to ten) if the model knows classes.

    Args:
        model: of images.
        path: the PNG to write.
        classes: their names, for a class-conditional model.
        rows: for a model without classes.
        columns: how many draws a row has.
        temperature: of the draws.
        seed: of the draws.
        white: the integer that is shown as white.
    """
    names, labels = class_rows(model, classes)
    rows = len(names) if names else rows
    context = None if labels is None else labels.repeat_interleave(columns)
    x = draw(model, rows * columns, context, temperature=temperature, seed=seed)
    at = "" if temperature == 1 else f" at temperature {temperature:g}"
    what = ", one class a row" if names else ""
    return image_grid(
        x.unflatten(0, (rows, columns)),
        path,
        title=f"{rows * columns} images drawn from the model{at}{what}",
        rows=names,
        white=white,
    )


def temperature_sweep(
    model: Model,
    path: str | Path,
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    columns: int = 10,
    seed: int = 0,
    white: float | None = None,
) -> Path:
    """The same noise at several temperatures, one row each; a column is one draw.

    Args:
        model: of images.
        path: the PNG to write.
        temperatures: from typical to varied.
        columns: how many draws.
        seed: of the noise.
        white: the integer that is shown as white.
    """
    classes = getattr(model, "num_classes", None)
    context = None if classes is None else torch.arange(columns) % classes
    grid = [draw(model, columns, context, temperature=t, seed=seed) for t in temperatures]
    return image_grid(
        torch.stack(grid),
        path,
        title="The same noise at several temperatures T",
        rows=[f"T = {t:g}" for t in temperatures],
        white=white,
    )


def denoising(
    model: Model,
    path: str | Path,
    *,
    pairs: int = 4,
    columns: int = 10,
    seed: int = 0,
    white: float | None = None,
) -> Path:
    """Draws of a model of noisy images, and below each the same without its noise.

    Args:
        model: trained with noise, whose `sample` takes `denoise`.
        path: the PNG to write.
        pairs: of rows.
        columns: draws in each.
        seed: of the draws.
        white: the integer that is shown as white.
    """
    classes = getattr(model, "num_classes", None)
    n = pairs * columns
    context = None if classes is None else torch.arange(n) % classes
    both = [draw(model, n, context, seed=seed, denoise=clean) for clean in (False, True)]
    grid = torch.stack([x.unflatten(0, (pairs, columns)) for x in both], 1)
    return image_grid(
        grid.flatten(0, 1),
        path,
        title="Draws, and the same with the noise taken off",
        rows=["noisy", "clean"] * pairs,
        white=white,
    )


def interpolation(
    model: Model,
    x: Tensor,
    y: Tensor | None,
    path: str | Path,
    *,
    pairs: int = 6,
    steps: int = 9,
    seed: int = 0,
    white: float | None = None,
) -> Path:
    """Ways through the latents from one real image (left) to another (right), a pair a row.

    The ways of an autoencoder, whose ends are not quite the real images, stand between these.

    Args:
        model: with latents.
        x: (N, C, H, W) real images to choose pairs from.
        y: (N,) labels or None.
        path: the PNG to write.
        pairs: how many.
        steps: images of each way, both ends among them.
        seed: of the choice.
        white: the integer that is shown as white.
    """
    context = access.context_of(model, y)
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    ways = []
    for i, j in chosen[: 2 * (min(2 * pairs, len(x)) // 2)].reshape(-1, 2).tolist():
        ends = None if context is None else (context[i], context[j])
        way = evaluation.interpolate(model, x[i], x[j], steps, ends).cpu()
        ways.append(
            way if access.is_exact(model) else torch.cat((x[i : i + 1], way, x[j : j + 1]))
        )
    return image_grid(
        torch.stack(ways),
        path,
        title="Between two real images (left and right) through the latents",
        columns=["real", *[""] * (len(ways[0]) - 2), "real"],
        white=white,
    )


def neighbours(
    model: Model,
    train: Tensor,
    path: str | Path,
    *,
    columns: int = 10,
    seed: int = 0,
    white: float | None = None,
) -> Path:
    """Draws, and below each the training image that is nearest to it.

    Args:
        model: of images.
        train: (N, C, H, W) training images.
        path: the PNG to write.
        columns: how many draws.
        seed: of the draws.
        white: the integer that is shown as white.
    """
    classes = getattr(model, "num_classes", None)
    context = None if classes is None else torch.arange(columns) % classes
    drawn = draw(model, columns, context, seed=seed + 1)
    found = evaluation.nearest_neighbours(drawn, train, white=white or 255)
    return image_grid(
        torch.stack((drawn, train[found.indices])),
        path,
        title="Drawn images, the nearest training image of each, and their distance",
        rows=["drawn", "nearest"],
        columns=[f"{d:.1f}" for d in found.distances.tolist()],
        white=white,
    )


def class_rows(
    model: Model, classes: Sequence[str] | None
) -> tuple[list[str] | None, Tensor | None]:
    """Names and labels of the classes that get a row, or None for a model without labels."""
    known = getattr(model, "num_classes", None)
    if known is None:
        return None, None
    names = list(classes) if classes else [str(i) for i in range(known)]
    labels = np.linspace(0, known - 1, min(known, MAX_CLASSES)).round().astype(int)
    return [names[i] for i in labels], torch.from_numpy(labels).long()
