"""The exponential moving average of the weights.

    m <- m + (1 - d_k) (w - m)            d_k = min(d, (1 + k) / (10 + k))       k updates so far

The decay starts small, so that the average of a short run is not an average with the first
weights. Buffers are not averaged: those of flows are set once. The weights that are evaluated and
saved are m. Polyak & Juditsky, "Acceleration of stochastic approximation by averaging" (1992).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from steadyflow.training.sharding import like, whole


class WeightAverage:
    """Keeps the average of some parameters.

    Args:
        parameters: what to average; they are changed in place elsewhere.
        decay: d above; 0 keeps no average, and `swapped` then does nothing.

    Example:
        >>> w = torch.nn.Parameter(torch.zeros(1))
        >>> average = WeightAverage([w], decay=0.9)
        >>> w.data += 1.0
        >>> average.update()
        >>> with average.swapped():
        ...     print(w.item())
        0.8999999761581421
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        self.decay = decay
        self.updates = 0
        self.weights: list[Tensor] = [p.detach() for p in parameters] if decay else []
        self.means: list[Tensor] = [w.clone() for w in self.weights]

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the present weights."""
        if self.means:
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            torch._foreach_lerp_(self.means, self.weights, 1 - decay)
            self.updates += 1

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the block the parameters hold the average."""
        present = [w.clone() for w in self.weights]
        self._fill(self.means)
        try:
            yield
        finally:
            self._fill(present)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"updates": self.updates, "means": whole(self.means)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from what `state_dict` gave."""
        self.updates = state["updates"]
        with torch.no_grad():
            for mean, saved in zip(self.means, state["means"], strict=True):
                mean.copy_(like(mean, saved))

    def _fill(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for weight, value in zip(self.weights, values, strict=True):
                weight.copy_(value)
