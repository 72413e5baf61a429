"""A training step recorded once as a CUDA graph, and replayed on every batch.

A flow is a long chain of small operations; on a GPU most of a step is the time in which Python
launches them. A graph launches them all at once. What is recorded is the loss and its gradients;
clipping, the optimiser and the average are few, large operations and stay outside.

Only a loss that is the same sequence of tensor operations at every call can be replayed: a model
says so by `replayable`. Noise is fresh in each replay, since a graph reads the seed of the
generator when it is launched. The first steps run as usual; then the recording is compared with
one of them, and if it can not be made or differs, training goes on without it and says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

WARM_UP = 3  # steps before the recording: libraries choose their algorithms in them
TOLERANCE = (
    0.02  # relative, of the loss and of the length of the gradient; bf16 sums differ a little
)

Step = Callable[[Tensor, Tensor | None], Tensor]


class Replay:
    """Calls a step (it computes a loss and its gradients), from a recording once there is one.

    Args:
        step: takes x and y, accumulates gradients in the parameters, and gives the detached loss.
        parameters: those whose gradients the step makes.
        reseed: sets the random state that the step begins with.

    Attributes:
        failed: why there is no recording, or ''.
    """

    def __init__(self, step: Step, parameters: Sequence[nn.Parameter], reseed: Callable[[], None]):
        self.step, self.parameters, self.reseed = step, list(parameters), reseed
        self.failed = ""
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._loss: Tensor
        self._gradients: list[Tensor | None] = []

    def __call__(self, x: Tensor, y: Tensor | None) -> Tensor:
        """The loss of a batch; its gradients are in the parameters."""
        self._calls += 1
        if self._graph is None and not self.failed and self._calls > WARM_UP:
            self._try_to_record(x, y)
        if self._graph is None or not self._fits(x, y):
            return self.step(x, y)
        return self._replay(x, y)

    def _replay(self, x: Tensor, y: Tensor | None) -> Tensor:
        assert self._graph is not None
        for kept, given in zip(self._inputs, _tensors(x, y), strict=True):
            kept.copy_(given)
        self._graph.replay()
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._loss.clone()

    def _fits(self, x: Tensor, y: Tensor | None) -> bool:
        given = _tensors(x, y)
        return [(t.shape, t.dtype) for t in given] == [(t.shape, t.dtype) for t in self._inputs]

    def _try_to_record(self, x: Tensor, y: Tensor | None) -> None:
        try:
            self._record(x, y)
            difference = self._difference(x, y)
            if not difference <= TOLERANCE:
                self.failed = f"it differs from an ordinary step by {difference:.1%}"
        except RuntimeError as error:
            self.failed = str(error).strip().splitlines()[0]
        self._forget_gradients()
        self.reseed()
        if self.failed:
            self._graph, self._inputs, self._gradients = None, [], []
            torch.cuda.synchronize()
            warnings.warn(
                f"the training step could not be recorded as a CUDA graph ({self.failed}): "
                "training goes on without, as with replay='off'",
                stacklevel=2,
            )

    def _record(self, x: Tensor, y: Tensor | None) -> None:
        self._inputs = [tensor.clone() for tensor in _tensors(x, y)]
        kept = (self._inputs[0], self._inputs[1] if y is not None else None)
        self._forget_gradients()
        torch.clear_autocast_cache()  # weights cast before would stay as they were
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._loss = self.step(*kept)
        torch.clear_autocast_cache()
        self._gradients = [parameter.grad for parameter in self.parameters]
        self._graph = graph

    def _difference(self, x: Tensor, y: Tensor | None) -> float:
        # the recording and the step itself, from the same random state
        found = []
        for way in (self._replay, self.step):
            self._forget_gradients()
            self.reseed()
            loss = way(x, y)
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            found.append((loss.item(), torch.nn.utils.get_total_norm(gradients).item()))
        return max(abs(a - b) / max(abs(b), 1e-6) for a, b in zip(*found, strict=True))

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def _tensors(x: Tensor, y: Tensor | None) -> list[Tensor]:
    return [x] if y is None else [x, y]
