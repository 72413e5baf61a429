"""`steadyflow check`: whether a trained density can be trusted."""

from __future__ import annotations

import dataclasses
from typing import Any

from steadyflow.cli import choices, console
from steadyflow.cli.options import Option
from steadyflow.cli.parsing import Parsed
from steadyflow.errors import UsageError

EXAMPLES = 200


def groups(words: list[str]) -> dict[str, list[Option]]:
    """The options of the data, for --data."""
    return {"data": choices.data_options()}


def check(
    run: str, *, data: str | None = None, points: int = 3, options: Parsed
) -> dict[str, Any]:
    """Measures whether a trained density can be trusted, on held-out data.

    The round trip through the model, its log-determinant against automatic differentiation, and
    for two-dimensional data the integral of the density.

    Args:
        run: a run folder, or a saved model together with --data.
        data: other data than the run's own.
        points: on how many examples the log-determinant is differentiated.
        options: filled in by the command line.
    """
    from steadyflow.cli.opened import examples, open_model
    from steadyflow.evaluation.access import bring, context_of
    from steadyflow.models.flow_model import FlowModel

    opened = open_model(run)
    if not isinstance(opened.model, FlowModel):
        raise UsageError(f"{run} has no density to check")
    chosen, dataset, where = examples(opened, data, None, options.given["data"])
    context = context_of(opened.model, chosen.y)
    report = opened.model.check(
        bring(opened.model, chosen.x[:EXAMPLES]),
        None if context is None else context[:EXAMPLES],
        points=points,
    )
    console.say(f"{opened.name} on {where}", str(report))
    return {"run": run, "data": dataset.name, **dataclasses.asdict(report)}
