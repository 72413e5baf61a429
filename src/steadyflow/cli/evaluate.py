"""`steadyflow evaluate`: how likely held-out data are under a trained model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from steadyflow.cli import choices, console
from steadyflow.cli.options import Option
from steadyflow.cli.parsing import Parsed

if TYPE_CHECKING:
    from steadyflow.data import Split


def groups(words: list[str]) -> dict[str, list[Option]]:
    """The options of the data, for --data."""
    return {"data": choices.data_options()}


def evaluate(
    run: str,
    *,
    data: str | None = None,
    split: str | None = None,
    draws: int = 1,
    limit: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    errors: int = 20,
    classify: bool = False,
    options: Parsed,
) -> dict[str, Any]:
    """Says the test log-likelihood, and whether it is exact, a bound or an estimate.

    Gives nats and bits per dimension with their standard error and the number of examples.

    Args:
        run: a run folder, or a saved model together with --data.
        data: other data than the run's own.
        split: 'train', 'validation', 'test' or 'all'; without it the test examples, or all of
            other data that brings none.
        draws: noise draws for each example; more of them tighten a bound.
        limit: at most so many examples, spread evenly; all without it.
        batch_size: examples at once.
        seed: of the noise; the same seed gives the same numbers.
        errors: where the likelihood is the estimate of an ODE, on so many examples its errors are
            measured as well; 0 for none.
        classify: also say how often a model of classes finds the class, by Bayes' rule.
        options: filled in by the command line.
    """
    from steadyflow import evaluation
    from steadyflow.cli.opened import examples, open_model

    opened = open_model(run)
    chosen, dataset, where = examples(opened, data, split, options.given["data"])
    with console.progress("evaluating") as progress:
        result = evaluation.evaluate(
            opened.model,
            chosen,
            draws=draws,
            limit=limit,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
            where=where,
        )
    console.say(str(result))
    answer = {"run": run, "data": dataset.name, **result.to_dict()}
    if errors > 0 and hasattr(opened.model, "estimate_likelihood"):
        answer["errors"] = _errors(opened.model, chosen, errors, seed)
    if classify:
        found = evaluation.classify(
            opened.model, chosen, draws=draws, limit=limit, batch_size=batch_size, seed=seed
        )
        console.say(f"  {found}")
        answer["classification"] = {**dataclasses.asdict(found), "accuracy": found.accuracy}
    return answer


def _errors(model: Any, split: Split, count: int, seed: int) -> dict[str, Any]:
    """What is known of the errors of an estimate, printed and as plain values."""
    from steadyflow.evaluation.access import at_rest, bring, context_of
    from steadyflow.evaluation.round_trip import evenly

    rows = evenly(len(split.x), count)
    context = context_of(model, None if split.y is None else split.y[rows])
    with at_rest(model, seed):
        found = model.estimate_likelihood(bring(model, split.x[rows]), context)
    console.say(f"  errors of the estimate, measured on {len(rows)} examples:")
    console.say(*("  " + line for line in found.errors()))
    named = ("probe_error", "tolerance_error", "cut_off", "round_trip", "evaluations")
    return {"examples": len(rows), **{name: getattr(found, name) for name in named}}
