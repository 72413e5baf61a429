"""`steadyflow score`: the log-likelihood of every single example."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from steadyflow.cli import choices, console
from steadyflow.cli.options import Option
from steadyflow.cli.parsing import Parsed
from steadyflow.errors import UsageError
from steadyflow.storage import replace_file


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
    options: Parsed,
) -> dict[str, Any]:
    """Writes the log-likelihood of every example of a source, as a table.

    The least likely examples are the most unusual ones under the model.

    Args:
        source: data of the kind that the model was trained on.
        run: a run folder or a saved model.
        out: the .csv file to write: the example's number from 0, and its log-likelihood in nats.
        draws: noise draws for each example; more of them tighten a bound.
        batch_size: examples at once.
        seed: of the noise; the same seed gives the same numbers.
        options: filled in by the command line.
    """
    from steadyflow.cli.opened import examples, open_model
    from steadyflow.evaluation import log_likelihoods
    from steadyflow.evaluation.access import context_of

    if Path(out).suffix != ".csv":
        raise UsageError(f"--out takes a .csv file, but '{out}' was given")
    opened = open_model(run)
    if opened.model.likelihood == "none":
        raise UsageError(f"{run} gives no likelihood: it can not score")
    chosen, _, _ = examples(opened, source, "all", options.given["data"])
    with console.progress("scoring") as progress:
        values = log_likelihoods(
            opened.model,
            chosen.x,
            context_of(opened.model, chosen.y),
            batch_size=batch_size,
            draws=draws,
            seed=seed,
            progress=progress,
        ).tolist()
    with replace_file(out) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["example", "log_likelihood"])
        writer.writerows(enumerate(values))
    worst = sorted(range(len(values)), key=values.__getitem__)[:5]
    console.say(
        f"{len(values):,} examples, log-likelihood in nats ({opened.model.likelihood}): {out}",
        f"least likely: {', '.join(f'#{i} ({values[i]:.2f})' for i in worst)}",
    )
    return {
        "out": out,
        "examples": len(values),
        "likelihood": opened.model.likelihood,
        "mean": sum(values) / len(values),
        "least_likely": worst,
    }
