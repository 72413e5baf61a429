"""From a run folder to its report: evaluate, draw, write the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steadyflow.evaluation import Evaluation, evaluate
from steadyflow.evaluation.access import on_accelerator
from steadyflow.report.gallery import held_out, write_pictures
from steadyflow.report.page import write_report
from steadyflow.storage import replace_file

EVALUATION = "evaluation.json"


def build(
    run: Any,
    evaluation: Evaluation | None = None,
    *,
    refresh: bool = True,
    data: Any = None,
    seed: int = 0,
    progress: Any = None,
) -> Path:
    """Writes evaluation.json, the pictures and report.html into a run folder.

    Args:
        run: a `steadyflow.training.Run`.
        evaluation: what is known already; without it the test examples are evaluated (or
            validation, or train, where test is empty).
        refresh: evaluate again even if the folder has an evaluation.json.
        data: the run's data set, for one that was in memory.
        seed: of the noise and the draws.
        progress: called with (examples done, all) while evaluating.

    Returns:
        the path of report.html.
    """
    folder = Path(run.folder)
    model = on_accelerator(run.model().eval())
    dataset = run.data() if data is None else data
    if evaluation is None and not refresh:
        evaluation = load_evaluation(folder)
    if evaluation is None:
        name, split = held_out(dataset)
        where = f"{dataset.name} ({name} examples)"
        evaluation = evaluate(model, split, seed=seed, progress=progress, where=where)
    save_evaluation(evaluation, folder)
    metrics = run.metrics()
    pictures = write_pictures(model, dataset, folder, seed=seed, metrics=metrics)
    return write_report(run, evaluation, pictures, model=model, dataset=dataset)


def save_evaluation(evaluation: Evaluation, folder: str | Path) -> Path:
    """Writes evaluation.json into a folder, whole or not at all."""
    path = Path(folder) / EVALUATION
    with replace_file(path) as aside:
        aside.write_text(json.dumps(evaluation.to_dict(), indent=2) + "\n", encoding="utf-8")
    return path


def load_evaluation(folder: str | Path) -> Evaluation | None:
    """The evaluation.json of a folder, or None if there is none that can be read."""
    path = Path(folder) / EVALUATION
    try:
        return Evaluation.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
