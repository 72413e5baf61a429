"""The steps of a cached evaluation on a GPU, recorded once as a CUDA graph and replayed.

A step of a small transformer is some fifty kernels that each take less time than their launch. In
the graph the place is a number in the GPU's memory, keys are read in full length under a mask, and
so every step is the same sequence of kernels. The first recorded step is compared with the step
itself: if the recording can not be made, or differs, the plain path serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from steadyflow.tracing import recording

if TYPE_CHECKING:
    from steadyflow.networks.cached import CachedEvaluation

LONGEST = 512  # places up to which reading all of them costs less than launching
TOLERANCE = 1e-3


class GraphedSteps:
    """The steps after the first of one evaluation.

    Args:
        evaluation: whose keys and values are used and filled in.
    """

    def __init__(self, evaluation: CachedEvaluation):
        self.evaluation = evaluation
        place: Tensor = evaluation.network.place
        self._at = torch.zeros(1, dtype=torch.int64, device=place.device)
        self._places = torch.arange(len(place), device=place.device)
        self._previous = place.new_zeros(evaluation.batch, evaluation.network.in_features)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._out: Tensor

    def step(self, at: int, previous: Tensor) -> Tensor | None:
        """The outputs at a place, (batch, outputs); None if there is no good recording."""
        self._at.fill_(at)
        self._previous.copy_(previous)
        if self._graph is None and not self._record():
            return None
        assert self._graph is not None
        self._graph.replay()
        return self._out.clone()

    def evaluate(self) -> Tensor:
        """The step itself, as the sequence of kernels that is recorded."""
        network, given = self.evaluation.network, self.evaluation.given
        h = network.place.index_select(0, self._at) + network.input(self._previous)
        h = h + given[:, 0] if isinstance(given, Tensor) else h
        visible = (self._places <= self._at).view(1, 1, 1, -1)
        for layer, cache in self.evaluation.caches:
            together = layer.together(layer.norm(h)).unflatten(1, (3, layer.heads, -1))
            cache.index_copy_(3, self._at, together[:, 1:].transpose(0, 1)[:, :, :, None])
            query = together[:, 0, :, None]
            if self.evaluation.sharpness is not None:
                query = query * self.evaluation.sharpness
            keys, values = cache.unbind(0)
            seen = F.scaled_dot_product_attention(query, keys, values, attn_mask=visible)
            h = h + layer.mixed(seen.flatten(1))
            h = h + layer.outer(F.gelu(layer.inner(layer.second_norm(h))))
        return network.read(h)

    def _record(self) -> bool:
        try:
            expected = self.evaluate()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._out = self.evaluate()
            graph.replay()
        except RuntimeError:
            torch.cuda.synchronize()
            return False
        self._graph = graph
        return torch.allclose(self._out, expected, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def records(evaluation: CachedEvaluation) -> bool:
    """Whether steps of this evaluation are worth recording, here and now."""
    place: Tensor = evaluation.network.place
    on_gpu = place.device.type == "cuda" and not torch.is_autocast_enabled("cuda")
    return on_gpu and 8 <= len(place) <= LONGEST and not recording()
