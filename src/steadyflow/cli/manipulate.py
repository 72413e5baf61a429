"""`steadyflow manipulate`: an attribute added to real images, or taken away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyflow.cli import choices, console
from steadyflow.cli.options import Option
from steadyflow.cli.parsing import Parsed
from steadyflow.errors import UsageError, unknown

if TYPE_CHECKING:
    from steadyflow.cli.opened import Opened
    from steadyflow.data import Dataset, Split


def groups(words: list[str]) -> dict[str, list[Option]]:
    """The options of the data, for --data."""
    return {"data": choices.data_options()}


def manipulate(
    run: str,
    *,
    with_: str,
    without: str | None = None,
    examples: Sequence[int] = (0, 1, 2, 3, 4, 5),
    strengths: Sequence[float] = (-1.0, -0.5, 0.0, 0.5, 1.0),
    limit: int = 2000,
    data: str | None = None,
    split: str | None = None,
    out: str | None = None,
    options: Parsed,
) -> dict[str, Any]:
    """Adds an attribute to real images, or takes it away, through the latents.

    The attribute is the mean difference between the latents of two groups of training images: two
    classes of the data, a class and all others, or two folders or files of images of your own.

    Args:
        run: a run folder, or a saved model together with --data.
        with_: the group that has the attribute: a class of the data, or a folder of images.
        without: the group that has not; all other classes without it.
        examples: the numbers, from 0, of the images to manipulate, among the test data.
        strengths: how far to go, in units of the difference of the two groups; 0 is the image.
        limit: at most so many images of either group.
        data: take groups and examples from here instead of the run's own data.
        split: where the examples are from: 'train', 'validation', 'test' or 'all'.
        out: a .png, .npy or .npz file; attribute-WITH.png in the run folder without it.
        options: filled in by the command line.
    """
    from steadyflow.cli.opened import examples as of_data
    from steadyflow.cli.opened import open_model, some
    from steadyflow.evaluation import attributes
    from steadyflow.report.manipulation import attribute_grid

    opened = open_model(run)
    if not opened.is_image:
        raise UsageError(f"{run} is a model of vectors: attributes are added to images")
    name = Path(with_).stem or with_
    path = files_path(out or opened.folder / f"attribute-{name}.png")
    chosen, dataset, _ = of_data(opened, data, split, options.given["data"])
    pair = _groups(opened, dataset, with_, without, limit)
    x, y = some(chosen, examples)
    direction = attributes.attribute_direction(
        opened.model, pair[0].x, pair[1].x, (pair[0].y, pair[1].y)
    )
    moved = attributes.manipulate(opened.model, x, direction, strengths, y).cpu()
    scores = [
        float(attributes.attribute_score(opened.model, g.x[:200], direction, labels).mean())
        for g, labels in ((g, None if g.y is None else g.y[:200]) for g in pair)
    ]
    if path.suffix == ".png":
        attribute_grid(moved, strengths, path, attribute=name, white=opened.white())
    else:
        write_arrays(path, moved)
    console.say(
        f"'{name}': {len(pair[0].x):,} images with it, {len(pair[1].x):,} without; "
        f"{len(x)} images at {len(strengths)} strengths: {path}"
    )
    return {
        "run": run,
        "out": str(path),
        "with": len(pair[0].x),
        "without": len(pair[1].x),
        "length": float(direction.norm()),
        "scores": scores,
        "strengths": list(strengths),
        "examples": list(examples),
    }


def files_path(out: str | Path) -> Path:
    """The path, if a grid of images can be written under its name."""
    path = Path(out).expanduser()
    if path.suffix not in (".png", ".npy", ".npz"):
        raise UsageError(f"'{out}' has an unknown ending: give .png, .npy or .npz")
    return path


def write_arrays(path: Path, x: Any) -> None:
    """Images as an array file, in the shape that they have."""
    from steadyflow.cli import files

    files.write(path, files.Examples(x.numpy()))


def _groups(
    opened: Opened, dataset: Dataset, with_: str, without: str | None, limit: int
) -> tuple[Split, Split]:
    positive = _group(opened, dataset, with_, limit)
    if without is not None:
        return positive, _group(opened, dataset, without, limit)
    code = _code(dataset, with_)
    if code is None:
        raise UsageError("--with names images of your own: say --without too")
    return positive, _take(dataset.train, dataset.train.y != code, limit)


def _group(opened: Opened, dataset: Dataset, name: str, limit: int) -> Split:
    """A class of the data, or the images of a folder or file."""
    from steadyflow.cli.opened import examples

    code = _code(dataset, name)
    if code is not None:
        return _take(dataset.train, dataset.train.y == code, limit)
    if not Path(name).expanduser().exists():
        raise unknown("class or folder", name, dataset.classes or [])
    if opened.model.num_classes is not None:
        raise UsageError(f"{opened.name} needs the class of every image: give classes of its data")
    chosen, _, _ = examples(opened, name, "all", {})
    return _take(chosen, None, limit)


def _code(dataset: Dataset, name: str) -> int | None:
    known = dataset.classes or []
    return known.index(name) if name in known and dataset.train.y is not None else None


def _take(split: Split, rows: Any, limit: int) -> Split:
    from steadyflow.data import Split

    x, y = split.x, split.y
    if rows is not None:
        x, y = x[rows], None if y is None else y[rows]
    return Split(x[:limit], None if y is None else y[:limit])
