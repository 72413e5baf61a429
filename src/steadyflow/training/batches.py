"""Batches of examples that are in memory.

Epoch e takes the training examples in the order

    randperm(N; seed, e)

and step k the rows [k B, (k + 1) B) of it, so the examples of a step follow from (seed, k) alone.
Resuming at step k needs no other state. Of n processes each takes a contiguous part of the same
rows: together they see what one process alone would see. The rows that do not fill a last batch
wait for another epoch, whose order is another; a set smaller than a batch is one batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steadyflow.data import Split
from steadyflow.training.randomness import mix

Batch = tuple[Tensor, Tensor | None, float]


class Batches:
    """The batch (x, y, weight) of every step.

    Args:
        split: the examples; x of shape (N, *event), y (N,) or None.
        batch_size: examples of one step over all processes.
        seed: decides the order.

    Attributes:
        steps_per_epoch: how many batches an epoch has.

    Example:
        >>> batches = Batches(Split(torch.arange(5.0)[:, None]), batch_size=2, seed=0)
        >>> x, y, weight = batches.batch(step=0)
        >>> x.shape, y, weight, batches.steps_per_epoch
        (torch.Size([2, 1]), None, 1.0, 2)
    """

    def __init__(self, split: Split, batch_size: int, seed: int):
        self.x, self.y = split.x, split.y
        self.batch_size = min(batch_size, len(split))
        self.steps_per_epoch = len(split) // self.batch_size
        self.seed = seed
        self.rank, self.processes = 0, 1
        self._order: tuple[int, Tensor | None] = (-1, None)

    def share(self, rank: int, processes: int) -> None:
        """Makes this the part of process `rank` of so many."""
        self.rank, self.processes = rank, processes

    @property
    def bytes(self) -> int:
        """The memory that the examples take."""
        return self.x.nbytes + (0 if self.y is None else self.y.nbytes)

    def to(self, device: torch.device) -> None:
        """Moves all the examples to the device, where a batch is then one indexing away."""
        self.x = self.x.to(device)
        self.y = None if self.y is None else self.y.to(device)
        self._order = (-1, None)

    def batch(self, step: int) -> Batch:
        """This process's part of the batch of a step.

        Returns:
            x, y, and the weight with which the part's mean loss enters the mean over processes so
            that this is the mean over the batch. A process for which there is no row gets one of
            the others' with weight 0.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        rows = self._rows(epoch)[position * self.batch_size :][: self.batch_size]
        part = torch.tensor_split(rows, self.processes)[self.rank]
        weight = len(part) * self.processes / self.batch_size
        part = part if len(part) else rows[:1]
        return self.x[part], None if self.y is None else self.y[part], weight

    def first(self, n: int) -> tuple[Tensor, Tensor | None]:
        """The first n examples of the first epoch, the same for every process."""
        rows = self._rows(0)[:n]
        return self.x[rows], None if self.y is None else self.y[rows]

    def _rows(self, epoch: int) -> Tensor:
        if self._order[0] != epoch or self._order[1] is None:
            generator = torch.Generator().manual_seed(mix(self.seed, epoch))
            order = torch.randperm(len(self.x), generator=generator)
            self._order = (epoch, order.to(self.x.device))
        return self._order[1]  # type: ignore[return-value]
