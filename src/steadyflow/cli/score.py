"""`steadyflow score`: the log-likelihood of every single example."""

from __future__ import annotations

import glob
from typing import Any

from steadyflow.cli import choices, console
from steadyflow.cli.options import Option
from steadyflow.cli.parsing import Parsed
from steadyflow.errors import UsageError

TABLE = ("columns", "drop", "label")  # the options of a table that is read in pieces


def groups(words: list[str]) -> dict[str, list[Option]]:
    """The options of the data."""
    return {"data": [o for o in choices.data_options() if o.flag not in ("validation", "test")]}


def score(
    source: str,
    *,
    run: str,
    out: str = "scores.csv",
    draws: int = 1,
    batch_size: int = 500,
    seed: int = 0,
    workers: int = 0,
    scheduler: str | None = None,
    options: Parsed,
) -> dict[str, Any]:
    """Writes the log-likelihood of every example of a source, as a table.

    The least likely examples are the most unusual ones under the model. Tables (.csv, .parquet,
    .npy) are read, scored and written in pieces, so that they may be larger than memory. A
    pattern in quotes, such as 'parts/*.parquet', scores many of them, on several workers if asked.

    Args:
        source: data of the kind that the model was trained on, or a pattern of tables.
        run: a run folder or a saved model.
        out: the .csv or .parquet file to write, with the example's number from 0, and its
            log-likelihood in nats; for a pattern the folder of these files.
        draws: noise draws for each example; more of them tighten a bound.
        batch_size: examples at once.
        seed: of the noise; the same seed gives the same numbers.
        workers: for a pattern, the processes of this machine; 0 scores one table after another.
        scheduler: for a pattern, the address of a Dask cluster.
        options: filled in by the command line.
    """
    from steadyflow.cli.opened import open_model
    from steadyflow.data import streaming

    many = "*" in source
    if (workers or scheduler) and not many:
        raise UsageError("--workers and --scheduler are for many tables: give a pattern in quotes")
    if not many:
        streaming.check_written(out)
    opened = open_model(run)
    if opened.model.likelihood == "none":
        raise UsageError(f"{run} gives no likelihood: it can not score")
    how = {"draws": draws, "batch_size": batch_size, "seed": seed}
    given = options.given["data"]
    if many:
        return _many(opened, source, out, given, how, workers, scheduler)
    if streaming.streams(source) and not opened.is_image and set(given) <= set(TABLE):
        return _table(opened, source, out, given, how)
    return _in_memory(opened, source, out, given, how)


def _table(opened: Any, source: str, out: str, given: dict, how: dict) -> dict[str, Any]:
    from steadyflow.evaluation.scoring import score_table

    with console.progress("scoring") as progress:
        found = score_table(
            opened.model, source, out, progress=progress, **_columns(opened, given), **how
        )
    return _told(found, str(opened.model.likelihood))


def _many(
    opened: Any,
    pattern: str,
    folder: str,
    given: dict,
    how: dict,
    workers: int,
    scheduler: str | None,
) -> dict[str, Any]:
    from steadyflow.data import streaming
    from steadyflow.evaluation.scoring import score_tables

    sources = sorted(name for name in glob.glob(pattern) if streaming.streams(name))
    if not sources:
        raise UsageError(f"no table is called '{pattern}'")
    if set(given) - set(TABLE):
        raise UsageError(f"of the data's options, tables take {', '.join(TABLE)}")
    with console.progress("scoring") as progress:
        found = score_tables(
            opened.name,
            sources,
            folder,
            workers=workers,
            scheduler=scheduler,
            progress=progress,
            **_columns(opened, given),
            **how,
        )
    rows = sum(scores.examples for scores in found)
    likelihood = str(opened.model.likelihood)
    console.say(
        f"{rows:,} examples of {len(found)} tables, log-likelihood in nats ({likelihood}): "
        f"{folder}"
    )
    tables = [scores.to_dict() for scores in found]
    return {"out": folder, "examples": rows, "likelihood": likelihood, "tables": tables}


def _columns(opened: Any, given: dict) -> dict[str, Any]:
    """The columns and the label of the training, where nothing else was given."""
    record = opened.record()
    columns = None if "drop" in given else record.get("columns")
    label = record.get("options", {}).get("label")
    return {"columns": columns, "label": label, "classes": opened.classes(), **given}


def _in_memory(opened: Any, source: str, out: str, given: dict, how: dict) -> dict[str, Any]:
    import numpy as np

    from steadyflow.cli.opened import examples
    from steadyflow.data import streaming
    from steadyflow.evaluation import log_likelihoods
    from steadyflow.evaluation.access import context_of
    from steadyflow.evaluation.scoring import COLUMNS, summary

    chosen, _, _ = examples(opened, source, "all", given)
    context = context_of(opened.model, chosen.y)
    with console.progress("scoring") as progress:
        values = log_likelihoods(opened.model, chosen.x, context, progress=progress, **how).numpy()
    with streaming.writer(out, COLUMNS) as write:
        write([np.arange(len(values)), values])
    return _told(summary(values, source, out), str(opened.model.likelihood))


def _told(found: Any, likelihood: str) -> dict[str, Any]:
    pairs = zip(found.least_likely, found.lowest, strict=True)
    console.say(
        f"{found.examples:,} examples, log-likelihood in nats ({likelihood}): {found.out}",
        f"least likely: {', '.join(f'#{row} ({value:.2f})' for row, value in pairs)}",
    )
    return {**found.to_dict(), "likelihood": likelihood}
