"""How the kernel of `fused_coupling` is called: its structures, its addresses, its memory.

A `Plan` is made once for each shape of coupling. A call fills in where the tensors of the moment
lie; whether they may be read there is `fused_coupling`'s to know.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from steadyflow.bijections.bijection import Transformed, zero_log_det
from steadyflow.native import scratch

PANEL = 64  # P of the C file
TRANSFORMS = {"additive": 0, "tanh": 1, "softsign": 2}
KEPT = 2**20  # floats of activations of a layer, up to which they are kept for the gradients
WORK_OF_A_THREAD = 2**20  # multiplications below which a second thread costs more than it brings
INTEGER, FLOAT, POINTER = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
Parameters = Sequence[Tensor]  # weight and bias of each linear layer in turn


class Layer(ctypes.Structure):
    """`Layer` of the C file."""

    _fields_ = (
        *((n, INTEGER) for n in ("batch", "features", "kept", "kept_start", "moved")),
        *((n, INTEGER) for n in ("moved_start", "step", "context", "layers", "transform")),
        *((n, INTEGER) for n in ("inverse", "threads")),
        *((n, FLOAT) for n in ("bound", "clip")),
        *((n, POINTER) for n in ("widths", "weights", "biases", "x", "given")),
        *((n, INTEGER) for n in ("x_row", "x_column", "given_row", "given_column")),
        *((n, POINTER) for n in ("scratch", "kept_activations")),
    )
    hold: Any  # what has to live as long as the addresses


class Gradients(ctypes.Structure):
    """`Gradients` of the C file."""

    _fields_ = (
        *((n, POINTER) for n in ("dz", "d_log_det")),
        *((n, INTEGER) for n in ("dz_row", "dz_column", "d_log_det_row")),
        *((n, POINTER) for n in ("dx", "d_context", "d_weights", "d_biases")),
    )
    hold: Any


class Plan:
    """What the kernel has to know of a coupling apart from its weights and its input.

    Args:
        library: the compiled kernel.
        columns: the indices of the kept variables and of the moved ones.
        transform: a key of `TRANSFORMS`.
        bound: of the log-scale.
        clip: of the conditioner's input, or None.
        widths: of the conditioner's input, of its hidden layers and of its output.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        columns: tuple[range, range],
        transform: str,
        bound: float,
        clip: float | None,
        widths: tuple[int, ...],
    ):
        kept, moved = columns
        self.library, self.additive = library, transform == "additive"
        self.widths = (INTEGER * len(widths))(*widths)
        self.pointers = POINTER * (len(widths) - 1)
        self.work = sum(a * b for a, b in pairwise(widths))
        self.layer = Layer(
            features=len(kept) + len(moved),
            kept=len(kept),
            kept_start=kept.start,
            moved=len(moved),
            moved_start=moved.start,
            step=kept.step,
            context=widths[0] - len(kept),
            layers=len(widths) - 1,
            transform=TRANSFORMS[transform],
            bound=bound,
            clip=clip or 0.0,
            widths=ctypes.addressof(self.widths),
        )
        self.activations = library.steadyflow_activations(self.layer)
        self.scratch = [library.steadyflow_scratch(self.layer, back) for back in (0, 1)]

    def run(
        self,
        inverse: bool,
        x: Tensor,
        context: Tensor | None,
        parameters: Parameters,
        kept: Tensor | None = None,
    ) -> Transformed:
        """The coupling of x: (batch, features), or its inverse; leaves activations in `kept`."""
        z = x.new_empty(x.shape)
        log_det = zero_log_det(x) if self.additive else x.new_empty(len(x))
        layer = self._call(inverse, x, context, parameters, kept, back=False)
        self.library.steadyflow_forward(layer, z.data_ptr(), log_det.data_ptr())
        return z, log_det

    def gradients(
        self,
        inverse: bool,
        x: Tensor,
        context: Tensor | None,
        parameters: Parameters,
        outer: Transformed,
        wanted: Sequence[bool],
        kept: Tensor | None = None,
    ) -> list[Tensor | None]:
        """The gradients of x, the context and the parameters, as far as they are wanted."""
        dz, d_log_det = outer
        dx = x.new_empty(x.shape) if wanted[0] else None
        d_context = x.new_empty(context.shape) if context is not None and wanted[1] else None
        found = [x.new_empty(p.shape) for p in parameters] if any(wanted[2:]) else []
        layer = self._call(inverse, x, context, parameters, kept, back=True)
        gradients = Gradients(
            dz=dz.data_ptr(),
            d_log_det=d_log_det.data_ptr(),
            dz_row=dz.stride(0),
            dz_column=dz.stride(1),
            d_log_det_row=d_log_det.stride(0),
            dx=None if dx is None else dx.data_ptr(),
            d_context=None if d_context is None else d_context.data_ptr(),
        )
        if found:
            gradients.d_weights, gradients.d_biases, gradients.hold = self._addresses(found)
        self.library.steadyflow_backward(layer, gradients)
        return [dx, d_context, *(found or len(parameters) * [None])]

    def borrow(self, x: Tensor) -> Tensor | None:
        """Memory for the activations of x, if they are to be kept."""
        size = -(-len(x) // PANEL) * self.activations
        if size > KEPT:
            return None
        free = _free.setdefault(size, [])
        return free.pop() if free else x.new_empty(size)

    def _call(
        self,
        inverse: bool,
        x: Tensor,
        context: Tensor | None,
        parameters: Parameters,
        kept: Tensor | None,
        back: bool,
    ) -> Layer:
        layer = Layer.from_buffer_copy(self.layer)
        layer.batch, layer.inverse = len(x), inverse
        most = len(x) * self.work // WORK_OF_A_THREAD
        threads = 1 if most < 2 else min(most, torch.get_num_threads(), -(-len(x) // PANEL))
        layer.threads, layer.scratch = threads, scratch(threads * self.scratch[back])
        layer.kept_activations = None if kept is None else kept.data_ptr()
        layer.x = x.data_ptr()
        layer.x_row, layer.x_column = x.stride()
        if context is not None:
            layer.given = context.data_ptr()
            layer.given_row, layer.given_column = context.stride()
        layer.weights, layer.biases, layer.hold = self._addresses(parameters)
        return layer

    def _addresses(self, parameters: Parameters) -> tuple[int, int, Any]:
        """Where C finds the addresses of weights and biases, and what keeps them there."""
        addresses = [p.data_ptr() for p in parameters]
        weights, biases = self.pointers(*addresses[::2]), self.pointers(*addresses[1::2])
        return ctypes.addressof(weights), ctypes.addressof(biases), (weights, biases)


plan_for = cache(Plan)
_free: dict[int, list[Tensor]] = {}  # fresh memory costs time: that of a step serves the next


def give_back(kept: Tensor | None) -> None:
    """Memory that `Plan.borrow` gave."""
    if kept is not None:
        if len(_free) > 8:  # sizes: of batches that have not come again
            _free.clear()
        _free.setdefault(len(kept), []).append(kept)
