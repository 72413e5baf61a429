"""The fast path of `CachedEvaluation.step` on the CPU: a whole place in one call of a C kernel.

One query for each example is little work for many operations: in plain torch most of a step is
launching them and moving keys and values about. The kernel goes through all layers with a panel of
examples, one to a vector lane, so that nothing is summed across lanes.

It serves float32 on the CPU without autocast. All else, compiled code and machines without a C
compiler take the plain path, whose results it gives to float32 rounding.
"""

from __future__ import annotations

import ctypes
import math
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from steadyflow import native
from steadyflow.networks.transformer import CausalLayer, CausalTransformer

LANES = (4, 8, 16)  # of the C file
# of a layer, then of the network around its layers
WEIGHTS = ("norm", "together", "mixed", "second_norm", "inner", "outer")
AROUND = ("input", "norm", "output")
INTEGER, POINTER = ctypes.c_int64, ctypes.c_void_p


class _Net(ctypes.Structure):
    """`Net` of the C file."""

    _fields_ = (
        *((n, INTEGER) for n in ("panels", "places", "features", "outputs")),
        *((n, INTEGER) for n in ("width", "heads", "layers", "threads")),
        *((n, POINTER) for n in ("place", "given", "sharpness")),
        *((n, POINTER) for n in ("weights", "cache", "state", "scratch")),
    )


class FusedSteps:
    """The places of a causal transformer, one after the other, for one batch.

    Args:
        network: in float32, on the CPU.
        batch: how many sequences.
        given: what the context adds to the channels, (batch, 1, width), or 0.
        sharpness: (batch,), what attention logits are multiplied by; None for 1.
    """

    def __init__(
        self,
        network: CausalTransformer,
        batch: int,
        given: Tensor | float,
        sharpness: Tensor | None,
    ):
        library = _library()
        assert library is not None
        layers: list[CausalLayer] = list(network.layers)  # type: ignore[arg-type]
        place = network.place.detach().contiguous()
        places, width = place.shape
        lanes = next((n for n in LANES if batch <= n), LANES[-1])
        panels = -(-batch // lanes)
        threads = max(1, min(torch.get_num_threads(), panels))
        self.batch, self.rows = batch, panels * lanes
        self.outputs = network.output.out_features
        self._step = getattr(library, f"step{lanes}")
        around = [given if isinstance(given, Tensor) else place.new_zeros(batch, 1, width)]
        around.append(place.new_ones(batch) if sharpness is None else sharpness.view(-1))
        given_rows = self._padded(around[0][:, 0].expand(batch, -1))
        scale = self._padded(around[1]) / math.sqrt(width // layers[0].heads)
        self._kept = [
            place,
            given_rows.view(panels, lanes, width).transpose(1, 2).contiguous(),
            scale.contiguous(),
            place.new_empty(len(layers), panels, 2, places, width, lanes),
            place.new_empty(panels, width, lanes),
            place.new_empty(
                threads, 9 * width + places + network.in_features + self.outputs, lanes
            ),
        ]
        parts = [getattr(layer, name) for layer in layers for name in WEIGHTS]
        parts += [getattr(network, name) for name in AROUND]
        weights = [v.detach().contiguous() for part in parts for v in (part.weight, part.bias)]
        self._kept += weights
        self._pointers = (POINTER * len(weights))(*(w.data_ptr() for w in weights))
        place_, given_, scale_, cache_, state, scratch = (t.data_ptr() for t in self._kept[:6])
        self._net = _Net(
            panels,
            places,
            network.in_features,
            self.outputs,
            width,
            layers[0].heads,
            len(layers),
            threads,
            place_,
            given_,
            scale_,
            ctypes.cast(self._pointers, POINTER),
            cache_,
            state,
            scratch,
        )

    def step(self, at: int, previous: Tensor | None) -> Tensor:
        """The outputs at a place, (batch, outputs), from the vectors before it."""
        out = self._kept[0].new_empty(self.rows, self.outputs)
        before = None if previous is None else self._padded(previous)
        pointer = None if before is None else before.data_ptr()
        self._step(ctypes.byref(self._net), at, pointer, out.data_ptr())
        return out[: self.batch]

    def _padded(self, values: Tensor) -> Tensor:
        """As many rows as the panels have lanes; those added are zero."""
        missing = self.rows - self.batch
        padding = (0, 0, 0, missing) if values.dim() == 2 else (0, missing)
        return F.pad(values, padding).contiguous() if missing else values.contiguous()


def serves(network: CausalTransformer) -> bool:
    """Whether the kernel can evaluate this network, here and now."""
    if torch.compiler.is_compiling() or type(network) is not CausalTransformer:
        return False
    place = network.place
    ordinary = place.device.type == "cpu" and place.dtype == torch.float32
    return ordinary and not torch.is_autocast_enabled("cpu") and _library() is not None


@cache
def _library() -> ctypes.CDLL | None:
    library = native.load(Path(__file__).with_suffix(".c"))
    if library is not None:
        for lanes in LANES:
            step = getattr(library, f"step{lanes}")
            step.argtypes = (POINTER, INTEGER, POINTER, POINTER)
            step.restype = None
    return library
