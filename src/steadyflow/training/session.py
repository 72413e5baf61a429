"""One training from its first to its last step, in this process or in several."""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from steadyflow.data import Dataset, Split
from steadyflow.errors import TrainingError, UsageError
from steadyflow.models.pretrained import WEIGHTS
from steadyflow.networks.precision import full_convolutions
from steadyflow.training import checkpoint, closed_form
from steadyflow.training.batches import Batches
from steadyflow.training.callbacks import Checkpoints, Recording, Validation
from steadyflow.training.engine import make_trainer
from steadyflow.training.fitting import FitResult
from steadyflow.training.history import History, read
from steadyflow.training.interruption import Interruption
from steadyflow.training.options import TrainingOptions
from steadyflow.training.processes import (
    is_main_process,
    launched_from_outside,
    same_environment,
)
from steadyflow.training.progress import Progress
from steadyflow.training.quietness import quiet
from steadyflow.training.run import CHECKPOINT, CONFIG, METRICS, MODEL, Run
from steadyflow.training.sharding import is_sharded
from steadyflow.training.step import STATE, Training

FEWEST = 1024  # examples that set the data-dependent parameters
NUMBERS = 2**18  # the same for vectors, in numbers

if TYPE_CHECKING:
    import lightning

    from steadyflow.models.model import GenerativeModel


def train(
    model: GenerativeModel,
    dataset: Dataset,
    options: TrainingOptions,
    callbacks: Sequence[Any] = (),
    run: Run | None = None,
    create: Callable[[], Any] | None = None,
) -> FitResult:
    """Trains the model in place, going on from the run's checkpoint if it has one.

    Args:
        model: a model that fits the data.
        dataset: the data.
        options: how to train.
        callbacks: Lightning callbacks of the user.
        run: the run folder, or None.
        create: makes the run folder, of a run that is new; called when all else is in order.

    Raises:
        UsageError: if the budget is used up already.
        TrainingError: if losses that are not finite persist.
    """
    if model.closed_form:
        return closed_form.solve(model, dataset, options, run, create)
    with ExitStack() as stack:
        stack.enter_context(quiet())
        stack.enter_context(same_environment())
        folder = None if run is None else run.folder
        spawns = options.processes > 1 and not launched_from_outside()
        if folder is None and spawns:  # the processes hand over what they found as files
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(_precision(model, options))
        batches = Batches(_examples(dataset.train, model), options.batch_size, options.seed)
        training = Training(model, batches, options)
        begin = None if create is not None else _begin(training, folder)
        history = History(folder and folder / METRICS)
        examples = _examples(dataset.validation, model)
        validation = Validation(examples, history, folder and folder / MODEL)
        own = [Recording(history), validation]
        own += [Checkpoints(folder / CHECKPOINT)] if folder else []
        own += [Progress()] if options.progress else []
        game = len(model.players()) > 1
        trainer = make_trainer(options, [*callbacks, *own], folder, game)
        if begin is None:
            _initialize(training, trainer.strategy.root_device)
        if create is not None and is_main_process():
            create()
        with _interruptible(trainer) if spawns else contextlib.nullcontext():
            _run(trainer, training, begin)
        if spawns:
            assert folder is not None
            _take_over(checkpoint.load(folder / CHECKPOINT), training, validation)
        return _finish(training, validation, history, run)


def _initialize(training: Training, device: torch.device) -> None:
    """Sets the data-dependent parameters, on the device of the training, which is the faster."""
    x, y = training.batches.first(_examples_to_see(training))
    training.model.to(device).initialize(x.to(device), None if y is None else y.to(device))
    training.model.cpu()


def _examples_to_see(training: Training) -> int:
    model, wanted = training.model, training.options.initialization_examples
    if model.initializes_on_all:
        return len(training.batches.x)
    if wanted is None and len(model.event_shape) == 1:  # cheap, and heavy tails want many
        return max(FEWEST, NUMBERS // model.event_shape[0])
    return wanted or FEWEST


def _run(trainer: lightning.Trainer, training: Training, begin: Path | None) -> None:
    """Lightning's fit; it ends the program on a second Ctrl-C, which is not its to do."""
    before = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(training, ckpt_path=begin)
    except SystemExit:
        signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from None
    except torch.multiprocessing.ProcessRaisedException as error:
        reason = str(error).strip().splitlines()[-1]
        raise TrainingError(f"one of the training processes failed: {reason}") from error
    except torch.multiprocessing.ProcessExitedException as error:
        raise TrainingError(
            f"one of the training processes died: {error}. In a script of your own, processes > 1 "
            "needs the call under: if __name__ == '__main__':"
        ) from error


def _take_over(state: dict[str, Any], training: Training, validation: Validation) -> None:
    """What other processes found out."""
    training.on_load_checkpoint(state)
    training.stopped, training.message = state[STATE]["stopped"], state[STATE]["message"]
    validation.load_state_dict(state["callbacks"][validation.state_key])


def _begin(training: Training, folder: Path | None) -> Path | None:
    """The checkpoint to go on from, if there is one and there is something left to do."""
    path = None if folder is None else folder / CHECKPOINT
    if path is None or not path.exists():
        return None
    state = checkpoint.load(path, key=STATE)
    model = training.model
    if state["model"] != {"name": model.name, "config": model.config}:
        raise ValueError(
            f"the checkpoint {path} does not fit the model of {CONFIG}, which was changed since: "
            "put it back, or start a new run"
        )
    if training.budget.progress(state["step"], state["clock"]) >= 1:
        used = f"{state['step']} steps, {state['clock'] / 60:.1f} minutes"
        raise UsageError(
            f"{folder} has used up its budget ({used}): continue it with a larger one, such as "
            f"--steps {2 * state['step']}"
        )
    return path


def _finish(
    training: Training, validation: Validation, history: History, run: Run | None
) -> FitResult:
    model = training.model
    model.cpu()  # where Lightning has left it already
    weights, rows = validation.weights, history.rows
    if validation.folder is not None:
        weights = safetensors.torch.load_file(validation.folder / WEIGHTS)
        rows = read(validation.folder.parent / METRICS)
    assert weights is not None
    if is_sharded(model):  # and stays so: what is given back is whole
        model = type(model)(**model.config)
    model.load_state_dict(weights)
    model.eval()
    model.verify()
    if training.stopped == "failed":
        kept = "this model has the best weights so far"
        where = kept if run is None else f"the best weights so far are in {run.folder / MODEL}"
        raise TrainingError(f"{training.message}; {where}")
    return FitResult(
        model=model,
        history=rows,
        run=run,
        best_validation_loss=validation.best,
        steps=training.step,
        skipped=training.guard.skipped,
        seconds=training.clock,
        interrupted=training.stopped == "interrupted",
        message=training.message,
    )


@contextlib.contextmanager
def _interruptible(trainer: lightning.Trainer) -> Iterator[None]:
    """Lets the processes end by themselves after Ctrl-C, which they get too; hands on SIGTERM."""
    launcher: Any = trainer.strategy.launcher
    interruption = Interruption(lambda number: number == signal.SIGTERM and launcher.kill(number))
    interruption.install()
    try:
        yield
    finally:
        interruption.remove()


@contextlib.contextmanager
def _precision(model: GenerativeModel, options: TrainingOptions) -> Iterator[None]:
    """For float64, makes the model and what it computes in the block float64."""
    model.cpu()  # from where Lightning moves it
    before = torch.get_default_dtype()
    if options.precision == "float64":
        model.double()
        torch.set_default_dtype(torch.float64)
    model.train()
    try:
        with full_convolutions():
            yield
    finally:
        torch.set_default_dtype(before)


def _examples(split: Split, model: GenerativeModel) -> Split:
    """The examples as the model takes them: in its precision, with what it is conditioned on."""
    own = next(model.parameters()).dtype
    x = split.x.to(own) if split.x.is_floating_point() else split.x
    if model.context_features is not None and split.y is not None:
        return Split(x, split.y.to(own))
    return Split(x, None if model.num_classes is None else split.y)
