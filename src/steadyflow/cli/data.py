"""`steadyflow data`: which data come with the package, and what is in a source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyflow.cli import choices, console
from steadyflow.cli.options import Option
from steadyflow.cli.parsing import Parsed
from steadyflow.errors import UsageError

if TYPE_CHECKING:
    from steadyflow.data import Dataset

SHOWN = 20  # columns or classes that are printed; --json has all
PICTURED = {"image": 100, "vector": 5000}  # examples in a preview


def groups(words: list[str]) -> dict[str, list[Option]]:
    """The options of the data."""
    return {"data": choices.data_options()}


def data(source: str | None = None, *, preview: str | None = None, options: Parsed) -> Any:
    """Lists the bundled data, or says what is in a source.

    A source is a bundled name, a .csv, .parquet, .npy or .npz file, a folder of images, MNIST's
    IDX files, or hub:owner/name/file.

    Args:
        source: what to describe.
        preview: a .png file for a picture of some examples.
        options: filled in by the command line.
    """
    if source is None:
        return _list(preview)
    from steadyflow import data as sources

    described = sources.describe(source, **options.given["data"])
    _show(described)
    if preview is not None:
        described["preview"] = _draw(sources.open(source, **options.given["data"]), preview)
        console.say(f"picture   {preview}")
    console.say("", f"next: steadyflow train realnvp {source}")
    return described


def _draw(dataset: Dataset, out: str) -> str:
    """A picture of some training examples."""
    import math

    from steadyflow.cli import files
    from steadyflow.report.gallery import white_of

    if Path(out).suffix != ".png":
        raise UsageError(f"--preview takes a .png file, but '{out}' was given")
    path = files.check_ending(out, dataset.kind == "image", math.prod(dataset.event_shape))
    some = dataset.train.x[: PICTURED[dataset.kind]].numpy()
    files.write(path, files.Examples(some, white=white_of(dataset), columns=dataset.columns))
    return str(path)


def _list(preview: str | None) -> list[dict[str, str]]:
    from steadyflow.data import names

    if preview is not None:
        raise UsageError("--preview needs a source: steadyflow data SOURCE --preview FILE.png")
    found = names()
    console.table(("name", "what it is"), found.items())
    console.say(
        "A source may also be a .csv, .parquet, .npy or .npz file, a folder of images, or MNIST's",
        "IDX files: 'steadyflow data SOURCE' says what is in it.",
    )
    return [{"name": name, "about": about} for name, about in found.items()]


def _show(described: dict[str, Any]) -> None:
    shape = " x ".join(map(str, described["event_shape"]))
    sizes = ", ".join(f"{count:,} {name}" for name, count in described["sizes"].items())
    pairs: dict[str, object] = {"source": described["source"], "kind": described["kind"]}
    pairs["example"] = f"{shape} {'pixels' if described['kind'] == 'image' else 'variables'}"
    if described["bits"]:
        pairs["pixels"] = f"integers from 0 to {2 ** described['bits'] - 1}"
    pairs["examples"] = sizes
    if described["official_splits"]:
        pairs["own splits"] = ", ".join(described["official_splits"])
    if described["classes"]:
        counts = described.get("class_counts", {})
        shown = [f"{name} ({count:,})" for name, count in counts.items()]
        pairs["classes"] = ", ".join(shown[:SHOWN]) + (" ..." if len(shown) > SHOWN else "")
    console.facts(pairs)
    if "statistics" in described:
        _show_columns(described)


def _show_columns(described: dict[str, Any]) -> None:
    statistics = described["statistics"]
    count = len(statistics["mean"])
    names = described["columns"] or [str(i) for i in range(count)]
    console.table(
        ("column", *statistics),
        [
            (names[i], *(f"{values[i]:.4g}" for values in statistics.values()))
            for i in range(min(count, SHOWN))
        ],
    )
    if count > SHOWN:
        console.say(f"... and {count - SHOWN} more columns: --json has all of them", "")
