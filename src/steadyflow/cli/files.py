"""Examples as files: pictures, arrays and tables, by the ending of the name."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from steadyflow.errors import UsageError
from steadyflow.storage import replace_file

ENDINGS = (".png", ".npy", ".npz", ".csv")


@dataclass(frozen=True)
class Examples:
    """Examples to be written.

    Attributes:
        x: (N, C, H, W) integer pixels or (N, D) numbers.
        white: the pixel value that is shown as white; None for vectors and real-valued images.
        labels: the class of each, or None.
        columns: the names of the D columns, or None.
        across: how many examples stand side by side in a picture; None for a square.
    """

    x: np.ndarray
    white: float | None = None
    labels: Sequence[str] | None = None
    columns: Sequence[str] | None = None
    across: int | None = None

    @property
    def are_images(self) -> bool:
        """Whether they can be drawn as images."""
        return self.x.ndim == 4


def check_ending(out: str | Path, are_images: bool, dimensions: int) -> Path:
    """The path, if examples of this kind can be written under its name; before any work is done.

    Raises:
        UsageError: for an unknown ending, or one that does not suit the examples.
    """
    path = Path(out).expanduser()
    if not path.suffix or path.is_dir():
        if not are_images:
            raise UsageError(f"'{out}' is a folder, which is for images: give a .csv or .npy file")
        if path.exists() and not path.is_dir():
            raise UsageError(f"'{out}' is a file: give a folder, or one of {', '.join(ENDINGS)}")
        return path
    if path.suffix not in ENDINGS:
        raise UsageError(
            f"'{out}' has an unknown ending: give {', '.join(ENDINGS)}, or a folder for images"
        )
    if path.suffix == ".png" and not are_images and dimensions != 2:
        raise UsageError(
            f"a picture shows images or points in the plane, but these examples have {dimensions} "
            "variables: give a .csv or .npy file"
        )
    return path


def write(path: Path, examples: Examples) -> None:
    """Writes examples into a file, or images into a folder, one file each."""
    if not path.suffix or path.is_dir():
        _write_folder(path, examples)
    elif path.suffix == ".png":
        _draw(path, examples)
    else:
        with replace_file(path) as aside:
            if path.suffix == ".csv":
                _write_table(aside, examples)
            else:
                _write_arrays(aside, examples, path.suffix)


def _write_folder(folder: Path, examples: Examples) -> None:
    from steadyflow.report.mosaic import to_rgb

    folder.mkdir(parents=True, exist_ok=True)
    digits = max(3, len(str(len(examples.x) - 1)))
    for number, pixels in enumerate(to_rgb(torch.from_numpy(examples.x), examples.white)):
        _save(folder / f"{number:0{digits}d}.png", pixels)


def _write_arrays(aside: Path, examples: Examples, suffix: str) -> None:
    with open(aside, "wb") as file:
        if suffix == ".npy":
            np.save(file, examples.x)
        elif examples.labels is None:
            np.savez_compressed(file, x=examples.x)
        else:
            np.savez_compressed(file, x=examples.x, y=np.array(examples.labels))


def _write_table(aside: Path, examples: Examples) -> None:
    rows = examples.x.reshape(len(examples.x), -1).tolist()
    names = list(examples.columns or map(str, range(len(rows[0]))))
    with open(aside, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if examples.labels is None:
            writer.writerows([names, *rows])
        else:
            pairs = zip(rows, examples.labels, strict=True)
            writer.writerows([[*names, "label"], *([*row, label] for row, label in pairs)])


def _draw(path: Path, examples: Examples) -> None:
    x = torch.from_numpy(examples.x)
    if not examples.are_images:
        from steadyflow.report.planes import scatter
        from steadyflow.report.style import label_points, sheet

        names = examples.columns or ("x₁", "x₂")
        with sheet(path, 5, 5, layout="constrained") as figure:
            axes = figure.add_subplot()
            scatter(axes, x)
            label_points(axes, names[0], names[1], f"{len(x):,} examples")
        return
    from steadyflow.report.mosaic import mosaic

    across = examples.across or math.ceil(math.sqrt(len(x)))
    missing = -len(x) % across
    blank = x.new_full((missing, *x.shape[1:]), examples.white or 1)
    grid = torch.cat((x, blank)).unflatten(0, (-1, across))
    _save(path, mosaic(grid, examples.white))


def _save(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    with replace_file(path) as aside:
        Image.fromarray(pixels).save(aside, format="png")
