"""One line that says how training goes: loss, speed and the time that is left."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

REFRESH_SECONDS = 0.25


class Progress(Callback):
    """A progress bar on the main process's error output; nothing if that is not a terminal."""

    def __init__(self) -> None:
        self._bar: Bar | None = None

    def on_train_start(self, trainer: lightning.Trainer, training: Any) -> None:
        """Shows the bar."""
        if not trainer.is_global_zero or not sys.stderr.isatty():
            return
        self._bar = Bar(
            TextColumn("step {task.fields[step]}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[speed]} examples/s"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task(
            "", total=1.0, completed=training.progress, step=training.step, loss="...", speed="..."
        )
        self._bar.start()
        self._then, self._step = time.monotonic(), training.step
        self._loss = training.loss

    def on_train_batch_end(self, trainer: lightning.Trainer, training: Any, *_: Any) -> None:
        """Draws it anew four times a second."""
        if self._bar is None:
            return
        now = time.monotonic()
        if now - self._then < REFRESH_SECONDS and not trainer.should_stop:
            return
        speed = (training.step - self._step) * training.batches.batch_size / (now - self._then)
        self._then, self._step = now, training.step
        self._bar.update(
            self._task,
            completed=training.progress,
            step=training.step,
            loss=f"{training.loss:.4f}",
            speed=f"{speed:,.0f}",
            refresh=True,
        )

    def teardown(self, trainer: lightning.Trainer, training: Any, stage: str) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
