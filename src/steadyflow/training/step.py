"""One step of training, as a LightningModule; what stands around it are callbacks.

The engine (devices, precision, processes, checkpoints) is Lightning's. To it the whole training is
one endless epoch: an epoch of its own would cost more than a step of a small flow, and steps are
all that exact resuming needs. Epochs are counted here.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from torch import Tensor

from steadyflow.models.model import GenerativeModel
from steadyflow.models.players import Player
from steadyflow.training.averaging import WeightAverage
from steadyflow.training.batches import Batch, Batches
from steadyflow.training.budget import Budget, learning_rate
from steadyflow.training.guard import NonFiniteGuard
from steadyflow.training.interruption import Interruption
from steadyflow.training.options import TrainingOptions
from steadyflow.training.processes import started_by_fit
from steadyflow.training.quietness import hush
from steadyflow.training.randomness import seed_everything
from steadyflow.training.replay import Replay
from steadyflow.training.sharding import whole

DATA_SHARE = 0.25  # of the free memory of a GPU may be taken by the examples
STATE = "steadyflow"  # the key of our own state in a checkpoint


class Training(lightning.LightningModule):
    """Trains a model on batches.

    Args:
        model: the model, initialised already.
        batches: what to train on.
        options: how.

    Attributes:
        players: who moves in a step; a single one unless the model is a game.
        step: steps done.
        loss, gradient_norm, rate: of the last move; the loss is the mean over the processes.
        clock: seconds of training so far, the same in every process.
        reserve: seconds to keep back for the last validation.
        progress: the share of the budget that is used up, from 0 to 1; the same in every process.
        stopped: why training ended early: 'interrupted', 'patience', 'failed', or '' .
        message: what to tell the user about it.
    """

    def __init__(self, model: GenerativeModel, batches: Batches, options: TrainingOptions):
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.batches = batches
        self.options = options
        self.budget = Budget.of(options, batches.steps_per_epoch)
        self.guard = NonFiniteGuard()
        self.interruption = Interruption()
        self.average: WeightAverage
        self.players: tuple[Player, ...] = ()
        self.step = 0
        self.loss = self.gradient_norm = self.rate = math.nan
        self.clock = self.reserve = self.progress = 0.0
        self.stopped = self.message = ""
        self._began, self._interrupted = 0.0, False
        self._restored: dict[str, Any] | None = None

    @property
    def epoch(self) -> float:
        """How often the training examples have been seen."""
        return self.step / self.batches.steps_per_epoch

    def training_step(self, dataloader_iter: Any) -> None:
        """One step: every player's move, and the average.

        The batch follows from the step; taking Lightning's iterator instead of its batch spares
        the work that it does on every batch.
        """
        seed_everything(self.options.seed, self.step, self.global_rank)
        self.rate = learning_rate(self.options, self.step, self.progress)
        self.model.begin_step(self.progress)
        batch = self.to_device(self.batches.batch(self.step))
        moving = [i for i, player in enumerate(self.players) if player.moves(self.step)]
        finite = all([self._move(i, batch) for i in moving])
        if finite:
            self.average.update()

        self.step += 1
        self.progress = self.budget.progress(self.step, self.clock + self.reserve)
        self.guard.saw(finite)
        if self.guard.hopeless:
            self.stop("failed", self.guard.explanation(self.rate))
        elif self.progress >= 1:
            self.trainer.should_stop = True
        elif self._interrupted:
            self.stop(
                "interrupted",
                f"training was interrupted after step {self.step}; its best weights are kept",
            )

    def validation_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int = 0) -> Tensor:
        """The mean loss of some examples."""
        return self.model.loss(*batch)

    def stop(self, why: str, message: str) -> None:
        """Ends training after this step."""
        self.stopped, self.message = why, message
        self.trainer.should_stop = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A new process starts here: Lightning talks, and the weights are still everybody's."""
        super().__setstate__(state)
        hush()
        torch.backends.cudnn.allow_tf32 = False  # as in the process that it was started by
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            tensor.data = tensor.data.clone()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW in one fused kernel, for each player."""
        self.players = self.model.players()
        return [
            torch.optim.AdamW(
                player.parameters,
                lr=self.options.learning_rate,
                betas=self.options.betas,
                weight_decay=self.options.weight_decay,
                fused=True,
            )
            for player in self.players
        ]

    def train_dataloader(self) -> Any:
        """An endless one, for Lightning to count steps with."""
        return itertools.repeat(None)

    def to_device(self, batch: Batch) -> Batch:
        """Moves a batch, if the examples were too many for the device."""
        x, y, weight = batch
        return x.to(self.device), None if y is None else y.to(self.device), weight

    def on_train_start(self) -> None:
        """Starts the clock and the average; goes on with those of the checkpoint."""
        self.batches.share(self.global_rank, self.trainer.world_size)
        if self.device.type == "cuda" and self.batches.bytes < self._room():
            self.batches.to(self.device)
        trained = [p for player in self.players for p in player.parameters]
        self.average = WeightAverage(trained, self.options.ema)
        if self._restored is not None:
            self.average.load_state_dict(self._restored["average"])
            self._restored = None
        self._began = time.monotonic() - self.clock
        self.progress = self.budget.progress(self.step, self.clock + self.reserve)
        optimizers: Any = self.optimizers()
        self._optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        compiled = torch.compile if self.options.compile else lambda loss: loss
        self._losses = [compiled(player.loss) for player in self.players]
        self._replay = self._recorder()
        self.interruption.install()

    def on_train_end(self) -> None:
        """Gives the signals back."""
        self.interruption.remove()

    def teardown(self, stage: str) -> None:
        """Ends the connection of processes that `fit` has started."""
        if started_by_fit() and torch.distributed.is_initialized():
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what Lightning does not know of."""
        checkpoint[STATE] = {
            "step": self.step,
            "clock": self.clock,
            "reserve": self.reserve,
            "guard": self.guard.state_dict(),
            "average": self.average.state_dict(),
            "model": {"name": self.model.name, "config": self.model.config},
            "stopped": self.stopped,
            "message": self.message,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes it back, but for why training was stopped."""
        state = checkpoint[STATE]
        self.step, self.clock, self.reserve = state["step"], state["clock"], state["reserve"]
        self.guard.load_state_dict(state["guard"])
        self._restored = state

    def _move(self, i: int, batch: Batch) -> bool:
        """A player's move: gradients, clipping, the guard, Adam. Says whether all was finite."""
        player, optimizer = self.players[i], self._optimizers[i]
        optimizer.param_groups[0]["lr"] = player.rate * self.rate
        with self._others_still(player):
            if self._replay is not None:
                loss = self._replay(*batch[:2])
            else:
                loss = self._backward(i, *batch)
        self._interrupted = self._agree(loss)
        self.gradient_norm = self._clip(player)
        finite = math.isfinite(self.loss) and math.isfinite(self.gradient_norm)
        if finite:
            optimizer.step()
        optimizer.zero_grad()
        return finite

    @contextlib.contextmanager
    def _others_still(self, player: Player) -> Iterator[None]:
        """Within the block only this player's weights get gradients."""
        others = [p for q in self.players if q is not player for p in q.parameters]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def _backward(self, i: int, x: Tensor, y: Tensor | None, weight: float) -> Tensor:
        """Accumulates the gradient of this process's part of a loss; gives that part."""
        parts = min(self.options.accumulate, len(x))
        xs = x.tensor_split(parts)
        ys = [None] * parts if y is None else y.tensor_split(parts)
        total = x.new_zeros((), dtype=torch.float64)
        for part, (xi, yi) in enumerate(zip(xs, ys, strict=True)):
            with contextlib.nullcontext() if part == parts - 1 else self._without_sync():
                loss = self._losses[i](xi, yi) * (weight * len(xi) / len(x))
                self.manual_backward(loss)
            total += loss.detach()
        return total

    def _recorder(self) -> Replay | None:
        """Replays the step of a single player as a CUDA graph, where that is possible."""
        alone = self.trainer.world_size == 1 and len(self.players) == 1
        able = alone and self.model.replayable and not self.options.compile
        if self.options.replay == "off" or self.device.type != "cuda" or not able:
            return None
        return Replay(
            lambda x, y: self._backward(0, x, y, 1.0),
            self.players[0].parameters,
            lambda: seed_everything(self.options.seed, self.step, self.global_rank),
        )

    def _room(self) -> float:
        """The bytes of the GPU's memory that the examples may take."""
        return DATA_SHARE * torch.cuda.mem_get_info(self.device)[0]

    def _without_sync(self) -> Any:
        """Gradients of all but the last part stay in their process."""
        wrapped = self.trainer.strategy.model
        return getattr(wrapped, "no_sync", contextlib.nullcontext)()

    def _agree(self, loss: Tensor) -> bool:
        """Sets loss and times to their means over the processes; says if one was interrupted."""
        clock = time.monotonic() - self._began
        asked = self.interruption.asked
        if self.trainer.world_size == 1:
            self.loss, self.clock = loss.item(), clock
            return asked
        mine = torch.tensor([0.0, clock, self.reserve, asked], dtype=loss.dtype).to(loss.device)
        mine[0] = loss
        torch.distributed.all_reduce(mine)
        means = (mine / self.trainer.world_size).tolist()
        self.loss, self.clock, self.reserve = means[:3]
        return means[3] > 0

    def _clip(self, player: Player) -> float:
        """Shortens a player's gradient if it is too long; gives its length before."""
        gradients = [p.grad for p in player.parameters if p.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(gradients)).item()
        if 0 < self.options.clip < norm < math.inf:
            torch._foreach_mul_(gradients, self.options.clip / norm)
        return norm
