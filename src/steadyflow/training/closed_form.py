"""Models that are fitted in one step: their best weights have a formula.

No steps, no learning rate, no checkpoint: all training examples go through `initialize` once, and
the run folder has the same files as any other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from steadyflow.data import Dataset, Split
from steadyflow.errors import UsageError
from steadyflow.training.history import History, in_units
from steadyflow.training.options import TrainingOptions
from steadyflow.training.run import METRICS, MODEL, Run

if TYPE_CHECKING:
    from steadyflow.models.model import GenerativeModel
    from steadyflow.training.fitting import FitResult


def solve(
    model: GenerativeModel,
    dataset: Dataset,
    options: TrainingOptions,
    run: Run | None,
    create: Callable[[], Any] | None,
) -> FitResult:
    """Fits the model in place, on all training examples.

    Args:
        model: with `closed_form`.
        dataset: the data.
        options: only the precision and the batch size (of the validation) are used.
        run: the run folder, or None.
        create: makes the run folder, of a run that is new.

    Raises:
        UsageError: for a run that is fitted already.
    """
    from steadyflow.training.fitting import FitResult

    if run is not None and create is None:
        raise UsageError(
            f"{run.folder} holds a {model.name}, which is fitted in one step: there is nothing to "
            "continue"
        )
    began = time.monotonic()
    if options.precision == "float64":
        model.double()
    model.eval()
    with torch.no_grad():
        model.initialize(dataset.train.x)
        losses = {
            "train": _loss(model, dataset.train, options),
            "validation": _loss(model, dataset.validation, options),
        }
    if create is not None:
        create()
    seconds = time.monotonic() - began
    history = History(None if run is None else run.path(METRICS))
    history.start(0)
    for split, loss in losses.items():
        if loss is not None:
            units = in_units(loss, model.dimensions)
            history.add(step=1, epoch=1.0, split=split, **units, skipped=0, elapsed=seconds)
    if run is not None:
        model.save_pretrained(run.path(MODEL))
    return FitResult(
        model=model,
        history=history.rows,
        run=run,
        best_validation_loss=losses["validation"],
        steps=1,
        skipped=0,
        seconds=seconds,
        interrupted=False,
        message="fitted in closed form",
    )


def _loss(model: GenerativeModel, split: Split, options: TrainingOptions) -> float | None:
    """The mean loss of a split; None for an empty one."""
    if not len(split):
        return None
    own = next(b.dtype for b in model.buffers() if b.is_floating_point())
    parts = split.x.to(own).split(max(options.batch_size, 1024))
    total = math.fsum(float(model.loss(part)) * len(part) for part in parts)
    return total / len(split)
