"""Pictures of what is done with real images: attributes added, missing parts filled in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from steadyflow.report.mosaic import image_grid


def attribute_grid(
    moved: Tensor,
    strengths: Sequence[float],
    path: str | Path,
    *,
    attribute: str,
    white: float | None = None,
) -> Path:
    """Real images with more and less of an attribute, an image a row.

    Args:
        moved: (strengths, batch, C, H, W), of `steadyflow.evaluation.manipulate`.
        strengths: how far each column has gone; 0 is the image itself.
        path: the PNG to write.
        attribute: its name, for the title.
        white: the integer that is shown as white.
    """
    return image_grid(
        moved.transpose(0, 1),
        path,
        title=f"Real images (0) with less and more of '{attribute}'",
        columns=[f"{s:+g}" if s else "0" for s in strengths],
        white=white,
    )


def completion_grid(
    x: Tensor, known: Tensor, filled: Tensor, path: str | Path, *, white: float | None = None
) -> Path:
    """Real images, what of them was known, and what was made of it: a real image a column.

    Args:
        x: (batch, C, H, W).
        known: bool, (C, H, W); unknown pixels are drawn grey.
        filled: (draws, batch, C, H, W), several completions of each.
        path: the PNG to write.
        white: the integer that is shown as white.
    """
    grey = torch.full_like(x, int((white or 255) / 2))
    rows = torch.cat((x[None], torch.where(known, x, grey)[None], filled))
    return image_grid(
        rows,
        path,
        title="Real images, the part that was known, and completions of it",
        rows=["real", "known", *[f"drawn {i + 1}" for i in range(len(filled))]],
        white=white,
    )
