"""What happens between the steps: metrics, validation with the best weights, checkpoints."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from steadyflow.data import Split
from steadyflow.training.checkpoint import saving
from steadyflow.training.history import History, in_units
from steadyflow.training.randomness import own_randomness
from steadyflow.training.sharding import whole
from steadyflow.training.step import Training

SOONEST = 100  # steps between validations, unless validate_every says otherwise
CHECKPOINT_SECONDS = 60.0


class Recording(Callback):
    """Writes the rows of metrics.csv about training."""

    def __init__(self, history: History):
        self.history = history
        self._losses: list[float] = []
        self._parts: dict[str, list[float]] = {}
        self._since = (0.0, 0)

    def on_train_start(self, trainer: lightning.Trainer, training: Any) -> None:
        """Goes back to the rows up to the checkpoint that training goes on from."""
        if trainer.is_global_zero:
            self.history.start(training.step)
        self._since = (time.monotonic(), training.step)

    def on_train_batch_end(self, trainer: lightning.Trainer, training: Any, *_: Any) -> None:
        """Notes the loss; every so often, and at the end, writes a row."""
        if math.isfinite(training.loss):
            self._losses.append(training.loss)
            for name, value in training.model.metrics().items():
                self._parts.setdefault(name, []).append(float(value))
        # what is interrupted will be resumed, and then writes the rows of a straight run
        last = trainer.should_stop and training.stopped not in ("interrupted", "failed")
        if training.step % training.options.log_every and not last:
            return
        now, (then, step) = time.monotonic(), self._since
        examples = (training.step - step) * training.batches.batch_size
        mean = math.fsum(self._losses) / len(self._losses) if self._losses else math.nan
        record(
            self.history,
            training,
            "train",
            mean,
            learning_rate=training.rate,
            gradient_norm=training.gradient_norm,
            examples_per_second=examples / max(now - then, 1e-9),
            **{name: math.fsum(values) / len(values) for name, values in self._parts.items()},
        )
        self._losses, self._parts, self._since = [], {}, (now, training.step)

    def state_dict(self) -> dict[str, Any]:
        """The losses since the last row, and their parts."""
        return {"losses": self._losses, "parts": self._parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes them back."""
        self._losses, self._parts = state["losses"], state.get("parts", {})


class Validation(Callback):
    """Measures the averaged weights on the validation examples, and keeps the best ones.

    The noise of a validation (dequantization) is the same at every one of them. Without validation
    examples the last weights are the best ones.

    Attributes:
        best: the lowest validation loss so far, or None.
        weights: without a folder, the best weights.
    """

    def __init__(self, split: Split, history: History, folder: Path | None):
        self.split, self.history, self.folder = split, history, folder
        self.best: float | None = None
        self.weights: dict[str, Tensor] | None = None
        self._parts: dict[str, float] = {}
        self.kept = False
        self._since_best = 0
        self._last = -1

    def on_train_start(self, trainer: lightning.Trainer, training: Any) -> None:
        """Decides how often to validate."""
        every = training.options.validate_every
        epoch = training.batches.steps_per_epoch
        self._every = every or max(1, math.ceil(SOONEST / epoch)) * epoch

    def on_train_batch_end(self, trainer: lightning.Trainer, training: Any, *_: Any) -> None:
        """Validates when it is time; at the end unless the user is in a hurry."""
        hurry = training.stopped in ("interrupted", "failed")
        due = training.step % self._every == 0 or trainer.should_stop
        if due and not hurry:
            self._validate(trainer, training)
        elif trainer.should_stop and not self.kept:
            self._keep(training)

    def _validate(self, trainer: lightning.Trainer, training: Training) -> None:
        began = time.monotonic()
        with training.average.swapped():
            loss = self._loss(trainer, training)
            if loss is None or self.best is None or loss < self.best:
                self.best = loss
                self._since_best = 0
                self._write(training)
            else:
                self._since_best += 1
        if loss is not None:
            record(self.history, training, "validation", loss, **self._parts)
            patience = training.options.patience
            if patience is not None and self._since_best >= patience:
                training.stop("patience", f"{patience} validations without a better one")
        training.reserve = time.monotonic() - began

    @torch.no_grad()
    def _loss(self, trainer: lightning.Trainer, training: Training) -> float | None:
        """The mean loss over all validation examples, each process taking its share.

        The means of its parts are those of this process's share.
        """
        if not len(self.split):
            return None
        size = max(1, training.options.batch_size // trainer.world_size)
        x, y = _share(self.split, trainer)
        total = torch.zeros(2, dtype=torch.float64, device=training.device)
        self._parts = {}
        training.model.eval()
        with own_randomness(training.options.seed, trainer.global_rank):
            for start in range(0, len(x), size):
                part = slice(start, start + size)
                batch = training.to_device((x[part], None if y is None else y[part], 1.0))
                loss: Any = trainer.strategy.validation_step(batch[:2])
                total[0] += loss * len(batch[0])
                total[1] += len(batch[0])
                for name, value in training.model.metrics().items():
                    weighted = float(value) * len(batch[0]) / len(x)
                    self._parts[name] = self._parts.get(name, 0.0) + weighted
        training.model.train()
        if trainer.world_size > 1:
            torch.distributed.all_reduce(total)
        mean = (total[0] / total[1]).item()
        return mean if math.isfinite(mean) else math.inf

    def _keep(self, training: Training) -> None:
        """Keeps the averaged weights as they are, because there are no better ones."""
        with training.average.swapped():
            self._write(training)

    def _write(self, training: Training) -> None:
        self.kept = True
        training.model.settle()
        state = whole(training.model.state_dict())
        if self.folder is None:
            self.weights = {name: value.detach().cpu().clone() for name, value in state.items()}
        elif training.trainer.is_global_zero:
            with saving(self.folder):
                training.model.save_pretrained(self.folder, state)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"best": self.best, "since_best": self._since_best, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from what `state_dict` gave."""
        self.best, self.kept = state["best"], state["kept"]
        self._since_best = state["since_best"]


class Checkpoints(Callback):
    """Saves the last state every minute and at the end."""

    def __init__(self, path: Path):
        self.path = path
        self._saved = 0.0

    def on_train_start(self, trainer: lightning.Trainer, training: Any) -> None:
        """Starts to count."""
        self._saved = training.clock

    def on_train_batch_end(self, trainer: lightning.Trainer, training: Any, *_: Any) -> None:
        """Saves if it is time; all processes agree on the clock."""
        if trainer.should_stop or training.clock - self._saved >= CHECKPOINT_SECONDS:
            self._saved = training.clock
            trainer.save_checkpoint(self.path)


def record(history: History, training: Training, split: str, loss: float, **columns: Any) -> None:
    """Adds a row to the history, and to the loggers if there are any; the main process only."""
    if not training.trainer.is_global_zero:
        return
    model = training.model
    # what the players of a game lower is no likelihood
    in_nats = model.likelihood != "none" and (split == "validation" or len(training.players) == 1)
    in_nats = in_nats and model.loss_in_nats
    known = in_units(loss, model.dimensions) if in_nats else {"loss": loss}
    row = history.add(
        step=training.step,
        epoch=training.epoch,
        split=split,
        **known,
        **columns,
        skipped=training.guard.skipped,
        elapsed=training.clock,
    )
    for logger in training.loggers:
        numbers = {f"{split}/{k}": v for k, v in row.items() if isinstance(v, int | float)}
        logger.log_metrics(numbers, step=training.step)


def _share(split: Split, trainer: lightning.Trainer) -> tuple[Tensor, Tensor | None]:
    rank, processes = trainer.global_rank, trainer.world_size
    x = split.x.tensor_split(processes)[rank]
    return x, None if split.y is None else split.y.tensor_split(processes)[rank]
