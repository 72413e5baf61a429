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
        (places, width), heads = place.shape, layers[0].heads
        lanes = next((n for n in LANES if batch <= n), LANES[-1])
        panels = -(-batch // lanes)
        threads = max(1, min(torch.get_num_threads(), panels))
        self.batch, self.rows = batch, panels * lanes
        self.outputs = network.output.out_features
        self._step = getattr(library, f"step{lanes}")
        given = given[:, 0] if isinstance(given, Tensor) else place.new_zeros(batch, width)
        given = self._padded(given.expand(batch, -1)).view(panels, lanes, width)
        sharpness = place.new_ones(batch) if sharpness is None else sharpness.view(-1)
        each = 9 * width + places + network.in_features + self.outputs
        tensors = {
            "place": place,
            "given": given.transpose(1, 2).contiguous(),
            "sharpness": (self._padded(sharpness) / math.sqrt(width // heads)).contiguous(),
            "cache": place.new_empty(len(layers), panels, 2, places, width, lanes),
            "state": place.new_empty(panels, width, lanes),
            "scratch": place.new_empty(threads, each, lanes),
        }
        weights = _weights(network)
        self._kept = [*tensors.values(), *weights]  # as long as their addresses
        self._pointers = (POINTER * len(weights))(*(w.data_ptr() for w in weights))
        self._net = _Net(
            panels=panels,
            places=places,
            features=network.in_features,
            outputs=self.outputs,
            width=width,
            heads=heads,
            layers=len(layers),
            threads=threads,
            weights=ctypes.cast(self._pointers, POINTER),
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
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


def _weights(network: CausalTransformer) -> list[Tensor]:
    """Weight and bias of every part, in the order of the C file."""
    parts = [getattr(layer, name) for layer in network.layers for name in WEIGHTS]
    parts += [getattr(network, name) for name in AROUND]
    return [v.detach().contiguous() for part in parts for v in (part.weight, part.bias)]


def serves(network: CausalTransformer) -> bool:
    """Whether the kernel can evaluate this network, here and now."""
    if torch.compiler.is_compiling() or type(network) is not CausalTransformer:
        return False
    place = network.place
    single = place.device.type == "cpu" and place.dtype == torch.float32
    return single and not torch.is_autocast_enabled("cpu") and _library() is not None


@cache
def _library() -> ctypes.CDLL | None:
    library = native.load(Path(__file__).with_suffix(".c"))
    if library is not None:
        for lanes in LANES:
            step = getattr(library, f"step{lanes}")
            step.argtypes = (POINTER, INTEGER, POINTER, POINTER)
            step.restype = None
    return library
