"""Lightning's Trainer, set up for flows: quiet, nothing written but what is asked for."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io import CheckpointIO
from lightning.pytorch.strategies import DDPStrategy

from steadyflow.errors import UsageError, require
from steadyflow.training import checkpoint
from steadyflow.training.options import TrainingOptions
from steadyflow.training.processes import launched_from_outside, local_processes
from steadyflow.training.sharding import Sharded

PRECISIONS = {"float32": "32-true", "bf16-mixed": "bf16-mixed", "float64": "64-true"}


class SafeCheckpointIO(CheckpointIO):
    """Lightning's checkpoints in the format of `steadyflow.training.checkpoint`."""

    def save_checkpoint(self, checkpoint_: Any, path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint."""
        checkpoint.save(checkpoint_, path)

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> Any:
        """Reads a checkpoint, on the CPU."""
        return checkpoint.load(path)

    def remove_checkpoint(self, path: Any) -> None:
        """Deletes a checkpoint."""
        Path(path).unlink(missing_ok=True)


def make_trainer(
    options: TrainingOptions, callbacks: Sequence[Any], folder: Path | None, game: bool = False
) -> lightning.Trainer:
    """A Trainer for the options.

    Args:
        options: device, precision, processes and logger are read off them.
        callbacks: what happens between the steps.
        folder: where loggers write, or None.
        game: whether several players move in turns, each some of the weights.

    Raises:
        UsageError: if the machine does not have what is asked for.
    """
    processes = local_processes() if launched_from_outside() else options.processes
    accelerator = _accelerator(options, processes)
    return lightning.Trainer(
        accelerator=accelerator,
        devices=processes,
        strategy=_strategy(processes, accelerator, options.shard, game),
        precision=PRECISIONS[options.precision],  # type: ignore[arg-type]
        callbacks=list(callbacks),
        logger=_logger(options, folder),
        plugins=[SafeCheckpointIO()],
        max_epochs=-1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder or Path.cwd(),
    )


def _accelerator(options: TrainingOptions, processes: int) -> str:
    gpus = torch.cuda.device_count()
    if options.device == "cuda" and not gpus:
        raise UsageError("device='cuda' was given but this machine has no GPU: leave it out")
    if options.device == "cpu" or not gpus:
        return "cpu"
    if processes > gpus:
        raise UsageError(
            f"processes={processes} was given but this machine has {gpus} GPU(s): give at most "
            f"{gpus}, or device='cpu'"
        )
    return "cuda"


def _strategy(processes: int, accelerator: str, shard: bool, game: bool) -> Any:
    """DDP or its sharded kind. New processes on the CPU are forked from one that has torch.

    In a game each backward pass reaches one player's weights: DDP must look which.
    """
    if launched_from_outside():
        if shard:
            return Sharded()
        several = int(os.environ["WORLD_SIZE"]) > 1
        return DDPStrategy(find_unused_parameters=game) if several else "auto"
    if processes == 1:
        return "auto"
    start = "spawn"
    if accelerator == "cpu" and "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.set_forkserver_preload(["steadyflow.training.session"])
        start = "forkserver"
    if shard:
        return Sharded(start_method=start)  # type: ignore[arg-type]
    return DDPStrategy(start_method=start, find_unused_parameters=game)  # type: ignore[arg-type]


def _logger(options: TrainingOptions, folder: Path | None) -> Any:
    if options.log == "csv":
        return False
    if folder is None:
        raise UsageError(f"log='{options.log}' needs a run folder to write to: give run=")
    from lightning.pytorch import loggers

    if options.log == "tensorboard":
        require("tensorboard", "tensorboard", "log='tensorboard'")
        return loggers.TensorBoardLogger(folder, name="", version="tensorboard")
    require("wandb", "wandb", "log='wandb'")
    return loggers.WandbLogger(name=folder.name, save_dir=folder)
