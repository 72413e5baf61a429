"""Small images laid out in a grid, each of their pixels a whole number of the picture's pixels.

Scaling an 8 x 8 image by a fraction makes some of its pixels wider than others; here every image
is enlarged by a whole factor and put on the sheet one to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from steadyflow.report.style import DPI, INK, MUTED, sheet, shown

CELL = 100  # pixels that an image's longer side should have, about
GAP = 6  # pixels between images
EDGE = 24  # pixels around everything
TITLE = 52  # pixels for the title
LETTER = 11  # pixels of one letter of a label, about


def image_grid(
    images: Tensor,
    path: str | Path,
    *,
    title: str = "",
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    white: float | None = None,
) -> Path:
    """Writes a grid of images.

    Args:
        images: (rows, columns, channels, height, width), integers or reals in [0, 1].
        path: the PNG to write.
        title: what is seen.
        rows: a label for each row.
        columns: a label for each column.
        white: the integer that is shown as white; 255 if it is not given.

    Returns:
        path.
    """
    pixels = mosaic(images, white)
    left = label_width(rows)
    top = EDGE + (TITLE if title else 0) + (30 if columns else 0)
    width, height = left + pixels.shape[1] + EDGE, top + pixels.shape[0] + EDGE
    with sheet(path, width / DPI, height / DPI) as figure:
        if title:
            write(figure, left, EDGE + 4, title, size=9.5, color=INK, weight="bold")
        put(figure, pixels, left, top)
        name_cells(figure, images, left, top, rows, columns)
    return Path(path)


def mosaic(images: Tensor, white: float | None = None) -> np.ndarray:
    """One RGB array, (height, width, 3) uint8, of images (rows, columns, C, H, W)."""
    factor = enlargement(images)
    cells = to_rgb(images, white).repeat(factor, axis=2).repeat(factor, axis=3)
    rows, columns, height, width, _ = cells.shape
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for i in range(rows):
        for j in range(columns):
            y, x = i * (height + GAP), j * (width + GAP)
            sheet[y : y + height, x : x + width] = cells[i, j]
    return sheet


def enlargement(images: Tensor) -> int:
    """The whole factor that brings the images' longer side near `CELL` pixels."""
    return max(1, round(CELL / max(images.shape[-2:])))


def to_rgb(images: Tensor, white: float | None = None) -> np.ndarray:
    """(..., C, H, W) to (..., H, W, 3) uint8; one channel is grey, other than 3 are averaged."""
    x = images.detach().cpu()
    real = x.is_floating_point()
    x = x.float().nan_to_num(0.0) / (white or (1.0 if real else 255.0))
    channels = x.shape[-3]
    if channels not in (1, 3):
        x = x.mean(-3, keepdim=True)
    x = (x.clamp(0, 1) * 255).round().to(torch.uint8)
    return x.movedim(-3, -1).expand(*x.shape[:-3], *x.shape[-2:], 3).numpy()


def put(figure: Figure, pixels: np.ndarray, left: int, top: int) -> None:
    """Places an RGB array with its upper left corner at (left, top) pixels, one to one."""
    width, height = figure.get_size_inches() * DPI
    rows, columns = pixels.shape[:2]
    box = (left / width, 1 - (top + rows) / height, columns / width, rows / height)
    axes = figure.add_axes(box)
    axes.imshow(pixels, interpolation="nearest", aspect="auto")
    axes.set_axis_off()


def name_cells(
    figure: Figure,
    images: Tensor,
    left: int,
    top: int,
    rows: Sequence[str] | None,
    columns: Sequence[str] | None,
) -> None:
    """Writes labels beside the rows and above the columns of a mosaic placed at (left, top)."""
    factor = enlargement(images)
    height, width = (factor * side + GAP for side in images.shape[-2:])
    for i, name in enumerate(shown(rows or [])):
        y = top + i * height + (height - GAP) / 2
        write(figure, left - 12, y, name, va="center", ha="right")
    for j, name in enumerate(shown(columns or [])):
        write(
            figure, left + j * width + (width - GAP) / 2, top - 8, name, va="bottom", ha="center"
        )


def label_width(rows: Sequence[str] | None) -> int:
    """Pixels to the left of a mosaic, enough for its row labels."""
    return EDGE + (14 + LETTER * max(len(name) for name in shown(rows)) if rows else 0)


def write(
    figure: Figure,
    x: float,
    y: float,
    text: str,
    *,
    size: float = 8.5,
    color: str = MUTED,
    weight: str = "normal",
    va: str = "top",
    ha: str = "left",
) -> None:
    """Text at (x, y) pixels from the upper left corner."""
    width, height = figure.get_size_inches() * DPI
    look: dict[str, Any] = {"size": size, "color": color, "weight": weight, "va": va, "ha": ha}
    figure.text(x / width, 1 - y / height, text, **look)
