"""`steadyflow train`: from a model and data to a run folder with a report."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyflow.cli import choices, console
from steadyflow.cli.options import Option, read
from steadyflow.cli.parsing import Command, Parsed, positionals
from steadyflow.errors import UsageError, unknown
from steadyflow.models import MODELS

if TYPE_CHECKING:
    from steadyflow.training import FitResult

MORE = ("epochs", "steps", "minutes")  # what --resume takes: a new budget


def groups(words: list[str]) -> dict[str, list[Option]]:
    """The options of the model that the words name, of the data and of the training."""
    others = {"data": choices.data_options(), "training": choices.training_options()}
    own = read(train, leave_out=["options"])
    named = positionals(Command("", "", own, choices.apart({"own": own, **others})), words)
    model = next((word for word in named if word in MODELS), None)
    if model is not None:
        return {"model": choices.model_options(model), **others}
    if named and "--resume" not in " ".join(words) and not {"-h", "--help"} & set(words):
        raise unknown("model", named[0], MODELS)
    return others


def train(
    model: str | None = None,
    source: str | None = None,
    *,
    run: str | None = None,
    resume: str | None = None,
    overwrite: bool = False,
    conditional: bool = False,
    report: bool = True,
    options: Parsed,
) -> dict[str, Any]:
    """Trains a model on data, and leaves a run folder with a report.

    'steadyflow models' lists the models, 'steadyflow data' the data that come along, and
    'steadyflow train MODEL --help' adds that model's own options to those below. Ctrl-C ends a
    training early and leaves a usable run.

    Args:
        model: the model's name, such as realnvp.
        source: the data: a bundled name, a file or a folder.
        run: the folder to write; runs/MODEL-SOURCE without it, with a number if that is taken.
        resume: continue this run as it was set up; only --epochs, --steps and --minutes, the
            budget, can be given anew.
        overwrite: replace the run folder if it exists.
        conditional: learn each class by itself, for labelled data.
        report: afterwards evaluate on the test examples, draw pictures and write report.html.
        options: filled in by the command line.
    """
    if resume is not None:
        done = _resume(resume, model or run or overwrite or conditional, options)
    elif model is None or source is None:
        raise UsageError(
            "steadyflow train needs a model and data, such as 'steadyflow train realnvp digits', "
            "or --resume RUN"
        )
    else:
        done = _start(model, source, run, overwrite, conditional, options)
    if not console.is_main_process():
        return {}
    from steadyflow.cli.finish import finish

    return finish(done, report=report)


def _start(
    name: str, source: str, run: str | None, overwrite: bool, conditional: bool, options: Parsed
) -> FitResult:
    from steadyflow import training

    settings = training.TrainingOptions(**options.groups["training"])
    folder = choose_folder(name, source, run, overwrite)
    console.say(f"training {name} on {source}, into {folder}")
    return training.fit(
        name,
        source,
        run=folder,
        overwrite=overwrite,
        conditional=conditional,
        model_options=options.given["model"],
        data_options=options.given["data"],
        options=settings,
        command=shlex.join(["steadyflow", "train", *options.words]),
    )


def _resume(folder: str, anything_else: Any, options: Parsed) -> FitResult:
    from steadyflow import training

    budget = {k: v for k, v in options.given["training"].items() if k in MORE}
    typed = {name for given in options.given.values() for name in given}
    if anything_else or typed - set(budget):
        raise UsageError(
            "--resume continues a run as it was set up: only a new budget (--epochs, --steps or "
            "--minutes) can be given with it"
        )
    console.say(f"continuing {folder}")
    return training.resume(training.Run.open(folder), **budget)


def choose_folder(name: str, source: str, run: str | None, overwrite: bool) -> Path:
    """The folder of a new run; whether it is free is found out before anything is opened."""
    from steadyflow.training import Run
    from steadyflow.training.processes import launched_from_outside

    if run is None and launched_from_outside():
        raise UsageError("under torchrun every process must be told the folder: give --run FOLDER")
    if run is None:
        folder = _default_folder(name, source)
        return folder if overwrite else _not_taken(folder)
    folder = Path(run).expanduser()
    if console.is_main_process():
        Run.check_free(folder, overwrite=overwrite)
    return folder


def _default_folder(name: str, source: str) -> Path:
    stem = Path(source.rstrip("/")).name.split(".")[0] or "data"
    return Path("runs") / re.sub(r"[^\w-]+", "-", f"{name}-{stem}").strip("-")


def _not_taken(folder: Path) -> Path:
    candidate, number = folder, 1
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate
