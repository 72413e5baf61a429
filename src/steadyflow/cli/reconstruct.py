"""`steadyflow reconstruct`: real examples through the latents and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steadyflow.cli import choices, console
from steadyflow.cli.options import Option
from steadyflow.cli.parsing import Parsed
from steadyflow.errors import UsageError


def groups(words: list[str]) -> dict[str, list[Option]]:
    """The options of the data, for --data."""
    return {"data": choices.data_options()}


def reconstruct(
    run: str,
    *,
    limit: int = 200,
    data: str | None = None,
    split: str | None = None,
    out: str | None = None,
    options: Parsed,
) -> dict[str, Any]:
    """Sends real examples to their latents and back, and says what is lost.

    Of a flow it is rounding alone; an autoencoder keeps what was worth its rate.

    Args:
        run: a run folder, or a saved model together with --data.
        limit: at most so many examples, spread evenly; the first ten are drawn.
        data: take the examples from here instead of the run's own data.
        split: 'train', 'validation', 'test' or 'all'; the test examples without it.
        out: a .png file; reconstruction.png in the run folder without it.
        options: filled in by the command line.
    """
    from steadyflow.cli.opened import examples, open_model
    from steadyflow.evaluation import access, round_trip
    from steadyflow.evaluation.round_trip import evenly
    from steadyflow.report.diagnostics import reconstruction

    opened = open_model(run)
    if not access.has_latents(opened.model):
        raise UsageError(f"{run} has no latents to go through")
    path = Path(out or opened.folder / "reconstruction.png").expanduser()
    if path.suffix != ".png":
        raise UsageError(f"--out takes a .png file, but '{out}' was given")
    chosen, _, where = examples(opened, data, split, options.given["data"])
    rows = evenly(len(chosen), limit)
    x, y = chosen.x[rows], None if chosen.y is None else chosen.y[rows]
    found = round_trip(opened.model, x, access.context_of(opened.model, y))
    reconstruction(opened.model, x, y, path, white=opened.white())
    console.say(
        f"{found.examples:,} examples of {where} there and back: largest error "
        f"{found.maximum:.1e} of the data's range, mean {found.mean:.1e} ({found.dtype}): {path}"
    )
    return {
        "run": run,
        "out": str(path),
        "examples": found.examples,
        "maximum": found.maximum,
        "mean": found.mean,
        "dtype": found.dtype,
    }
