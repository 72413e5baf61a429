"""Training a model in Python: `fit`, `resume` and `load`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyflow import data as data_room
from steadyflow.storage import remove_leftovers
from steadyflow.training import matching
from steadyflow.training.history import Row
from steadyflow.training.options import TrainingOptions
from steadyflow.training.processes import is_main_process
from steadyflow.training.run import CONFIG, Run, describe

if TYPE_CHECKING:
    from steadyflow.data import Dataset
    from steadyflow.models.model import GenerativeModel


@dataclass
class FitResult:
    """What a training gave.

    Attributes:
        model: the model with its best weights, in eval mode, on the CPU.
        history: the rows of metrics.csv.
        run: the run folder, or None.
        best_validation_loss: of the model; nats per dimension for likelihood models. None without
            validation examples.
        steps: steps done.
        skipped: how many of them were skipped because the loss was not finite.
        seconds: how long training took, over all resumptions.
        interrupted: whether Ctrl-C ended it.
        message: why it ended, if that was before the budget.
    """

    model: GenerativeModel
    history: list[Row]
    run: Run | None
    best_validation_loss: float | None
    steps: int
    skipped: int
    seconds: float
    interrupted: bool
    message: str


def fit(
    model: GenerativeModel | str,
    data: Any,
    *,
    run: str | Path | None = None,
    overwrite: bool = False,
    conditional: bool = False,
    model_options: dict[str, Any] | None = None,
    data_options: dict[str, Any] | None = None,
    options: TrainingOptions | None = None,
    callbacks: Sequence[Any] = (),
    command: str | None = None,
    **training_options: Any,
) -> FitResult:
    """Trains a model on data, as `steadyflow train` does.

    Args:
        model: a model, which is trained in place, or the name of one ('realnvp'), which is built
            for the data.
        data: a Dataset, the name of a source ('moons', a file, a folder), an array or a tensor.
        run: the run folder to leave; None leaves nothing on the disk.
        overwrite: replace a run that is there.
        conditional: build the model for the data's classes (a model given by name).
        model_options: arguments of the model's constructor (a model given by name).
        data_options: arguments of `steadyflow.data.open` or `from_arrays`.
        options: how to train; the defaults without it.
        callbacks: Lightning callbacks, for what is to happen between the steps.
        command: the command line to record, if it was one.
        **training_options: single values of `TrainingOptions`.

    Returns:
        the model with its best (averaged) weights, and what happened.

    Raises:
        UsageError: if options, model and data do not fit together, or the run folder is taken.
        DataError: if the data can not be used.
        TrainingError: if losses that are not finite persist; what was saved is kept.

    Example:
        >>> result = fit("realnvp", "moons", data_options={"n": 500}, steps=10, batch_size=64)
        >>> result.steps, result.model.likelihood
        (10, 'exact')
    """
    from steadyflow.training.randomness import own_randomness
    from steadyflow.training.session import train

    settings = (options or TrainingOptions()).replace(**training_options)
    if run is not None and is_main_process():
        Run.check_free(run, overwrite=overwrite)
    dataset = data_room.as_dataset(data, **(data_options or {}))
    with own_randomness(settings.seed):
        built = matching.build(model, dataset, conditional, model_options or {})
        matching.check(built, dataset)
        if run is None:
            return train(built, dataset, settings, callbacks)
        record = describe(built, dataset, settings.plain(), command)
        create = functools.partial(Run.create, run, record, overwrite=overwrite)
        return train(built, dataset, settings, callbacks, Run(run), create)


def resume(
    run: str | Path | Run,
    *,
    data: Any = None,
    callbacks: Sequence[Any] = (),
    **training_options: Any,
) -> FitResult:
    """Continues a run exactly as it would have gone on: on the CPU, the same losses bit for bit.

    Args:
        run: the run folder.
        data: the data, if they were in memory and can not be opened again.
        callbacks: as for `fit`.
        **training_options: values of `TrainingOptions` to change, such as a larger budget.

    Raises:
        UsageError: if there is no such run, or its budget is used up already.
        DataError: if the data have changed.
        ValueError: if its checkpoint is damaged.
        TrainingError: as for `fit`.
    """
    from steadyflow.training.randomness import own_randomness
    from steadyflow.training.session import train

    run = run if isinstance(run, Run) else Run.open(run)
    if is_main_process():
        remove_leftovers(run.folder)
    settings = TrainingOptions.of(**run.config["training"]).replace(**training_options)
    dataset = _same_data(run, data)
    with own_randomness(settings.seed):
        recorded = run.config["model"]
        model = matching.build(recorded["name"], dataset, False, recorded["config"])
        matching.check(model, dataset)
        if is_main_process() and settings.plain() != run.config["training"]:
            run.write_config({**run.config, "training": settings.plain()})
        return train(model, dataset, settings, callbacks, run)


def load(run: str | Path | Run) -> GenerativeModel:
    """A trained model with its best weights, in eval mode.

    Args:
        run: a run folder, the folder of a saved model, or the name of a model on the Hugging Face
            hub ('owner/name').

    Raises:
        UsageError: if a folder is neither a run nor a saved model.
        FileNotFoundError: if there is nothing of that name.
        ValueError: if what is there is damaged, or something else.
    """
    from steadyflow.models import GenerativeModel
    from steadyflow.models.pretrained import CONFIG as SAVED

    if isinstance(run, Run):
        return run.model()
    folder = Path(run)
    if (folder / CONFIG).is_file() or (folder.is_dir() and not (folder / SAVED).is_file()):
        return Run.open(folder).model()
    return GenerativeModel.from_pretrained(run)


def _same_data(run: Run, data: Any) -> Dataset:
    if data is None:
        return run.data()
    then = run.config["data"]
    if not isinstance(data, data_room.Dataset):
        data = data_room.as_dataset(data, seed=then["seed"], **then["fractions"])
    data.require_unchanged(then)
    return data
