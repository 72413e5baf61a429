"""The fast path of `MaskedMLP`, and of a small `MLP`, on the CPU: all layers in one C kernel.

Half of a masked network is masks, and in a dense product half of the time is spent on zeros. The
kernel leaves out the blocks that are zero, multiplies no mask in a pass of its own, and goes
through all layers with a piece of the batch while it is in the cache. A dense network is one whose
masks are ones: a small one gains from the calls that are saved.

It serves float32 on the CPU, ReLU without residuals. All else, compiled and transformed code
(torch.compile, export, vmap, forward-mode derivatives) and machines without a C compiler take the
plain path, whose results it gives to float32 rounding. Second derivatives are those of the plain
path.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from steadyflow import native
from steadyflow.native import hooked, ordinary, plain, plain_gradients, scratch

if TYPE_CHECKING:
    from steadyflow.networks.masked import MaskedMLP
    from steadyflow.networks.mlp import MLP

BLOCK = 32  # WIDEST of the C file
LAYERS = 16  # of the C file: more take the plain path
SMALL = 2**16  # weights up to which a dense network gains
WORK_OF_A_THREAD = 2**20  # multiplications below which a second thread costs more than it brings
INTEGER, FLOAT, POINTER = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class _Net(ctypes.Structure):
    """`Net` of the C file."""

    _fields_ = (
        *((n, INTEGER) for n in ("batch", "features", "context", "layers", "threads")),
        ("clip", FLOAT),
        *((n, POINTER) for n in ("widths", "ends", "starts", "weights", "biases", "masks")),
        *((n, POINTER) for n in ("x", "given", "hidden", "scratch")),
    )


class _Gradients(ctypes.Structure):
    """`Gradients` of the C file."""

    _fields_ = tuple(
        (n, POINTER) for n in ("d_result", "dx", "d_context", "d_weights", "d_biases")
    )


class Plan:
    """What the kernel has to know of a network apart from its weights: where its masks are zero.

    Args:
        masks: of each layer, (units above, units below); those of the first with the context's.
        context: length of the context.
    """

    def __init__(self, masks: list[Tensor], context: int):
        self.masks = [mask.detach().contiguous() for mask in masks]
        self.context, self.layers = context, len(masks)
        widths = [masks[0].shape[1], *(len(mask) for mask in masks)]
        self.hidden = [-(-width // BLOCK) * BLOCK for width in widths[1:-1]]
        self.work = sum(int(mask.sum()) for mask in masks)
        ends, starts = [], []
        for mask in masks:
            seen = mask != 0
            ends += [_end(rows.any(0)) for rows in seen.split(BLOCK)]
            starts += [len(seen) - _end(some.any(1).flip(0)) for some in seen.split(BLOCK, 1)]
        self.widths, self.ends, self.starts = map(_integers, (widths, ends, starts))
        self.pointers = POINTER * max(1, self.layers)
        self.mask_pointers = self.pointers(*(mask.data_ptr() for mask in self.masks))

    def call(
        self, clip: float | None, x: Tensor, given: Tensor | None, parameters: tuple[Tensor, ...]
    ) -> _Net:
        """The network for one call. It holds addresses: the caller holds the tensors."""
        weights = self.pointers(*(p.data_ptr() for p in parameters[::2]))
        biases = self.pointers(*(p.data_ptr() for p in parameters[1::2]))
        threads = len(x) * self.work // WORK_OF_A_THREAD
        net = _Net(
            batch=len(x),
            features=x.shape[1],
            context=self.context,
            layers=self.layers,
            threads=1 if threads < 2 else min(threads, torch.get_num_threads()),
            clip=clip or 0.0,
            widths=ctypes.addressof(self.widths),
            ends=ctypes.addressof(self.ends),
            starts=ctypes.addressof(self.starts),
            masks=ctypes.addressof(self.mask_pointers),
            weights=ctypes.addressof(weights),
            biases=ctypes.addressof(biases),
            x=x.data_ptr(),
            given=None if given is None else given.data_ptr(),
        )
        net.hold = weights, biases
        return net

    def forward(
        self,
        clip: float | None,
        x: Tensor,
        given: Tensor | None,
        parameters: tuple[Tensor, ...],
        keep: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """The outputs, and the hidden layers if they are to be kept."""
        net = self.call(clip, x, given, parameters)
        result = x.new_empty(len(x), len(parameters[-1]))
        hidden = [x.new_empty(len(x), width) for width in self.hidden if keep]
        size: int = library().steadyflow_masked_scratch(net, 0)  # type: ignore[union-attr]
        room = 0 if keep else len(x) * sum(self.hidden)
        net.scratch = scratch(size + room)
        places, at = [h.data_ptr() for h in hidden], net.scratch + 4 * size
        for width in () if keep else self.hidden:
            places.append(at)
            at += 4 * len(x) * width
        addresses = self.pointers(*places)
        net.hidden = ctypes.addressof(addresses)
        library().steadyflow_masked_forward(net, result.data_ptr())  # type: ignore[union-attr]
        return result, hidden

    def backward(
        self,
        clip: float | None,
        x: Tensor,
        given: Tensor | None,
        parameters: tuple[Tensor, ...],
        hidden: list[Tensor],
        d_result: Tensor,
    ) -> list[Tensor | None]:
        """The gradients of x, the context and the parameters."""
        net = self.call(clip, x, given, parameters)
        addresses = self.pointers(*(h.data_ptr() for h in hidden))
        net.hidden = ctypes.addressof(addresses)
        net.scratch = scratch(library().steadyflow_masked_scratch(net, 1))  # type: ignore[union-attr]
        dx, found = torch.empty_like(x), [torch.empty_like(p) for p in parameters]
        d_given = None if given is None else torch.empty_like(given)
        d_weights = self.pointers(*(p.data_ptr() for p in found[::2]))
        d_biases = self.pointers(*(p.data_ptr() for p in found[1::2]))
        gradients = _Gradients(
            d_result=d_result.data_ptr(),
            dx=dx.data_ptr(),
            d_context=None if d_given is None else d_given.data_ptr(),
            d_weights=ctypes.addressof(d_weights),
            d_biases=ctypes.addressof(d_biases),
        )
        library().steadyflow_masked_backward(net, gradients)  # type: ignore[union-attr]
        return [dx, d_given, *found]


def _end(seen: Tensor) -> int:
    """One past the last True."""
    return int(seen.nonzero().max()) + 1 if seen.any() else 0


def _integers(values: list[int]) -> Any:
    return (INTEGER * max(1, len(values)))(*values)


class _Masked(torch.autograd.Function):
    """The kernel with its derivatives."""

    @staticmethod
    def forward(ctx, network, plan, x, context, *parameters):
        result, hidden = plan.forward(network.clip, x, context, parameters, keep=True)
        ctx.save_for_backward(x, context, *parameters)
        ctx.network, ctx.plan, ctx.hidden = network, plan, hidden
        return result

    @staticmethod
    def backward(ctx, d_result):
        x, context, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled() or not ordinary(d_result):

            def compute(x, context, *parameters):
                masked = [w * m for w, m in zip(parameters[::2], ctx.plan.masks, strict=True)]
                return ctx.network.through(x, context, masked, parameters[1::2])

            inputs, wanted = (x, context, *parameters), ctx.needs_input_grad[2:]
            return None, None, *plain_gradients(compute, inputs, d_result, wanted)
        found = ctx.plan.backward(
            ctx.network.clip, x, context, parameters, ctx.hidden, d_result.contiguous()
        )
        return None, None, *found


def attempt(network: MaskedMLP, x: Tensor, context: Tensor | None) -> Tensor | None:
    """The network by the kernel, or None where it does not apply."""
    if torch.compiler.is_compiling() or not ordinary(x) or x.dim() != 2 or not x.numel():
        return None
    if network.activation != "relu" or network.residual or len(network.layers) > LAYERS:
        return None
    if (network.context is None) != (context is None) or x.shape[1] != network.features:
        return None
    if context is not None and not (
        ordinary(context) and context.dim() == 2 and len(context) == len(x)
    ):
        return None
    plan, parameters = network.plan(), network.everything()
    if not all(plain(p) for p in parameters) or library() is None:
        return None
    x, context = x.contiguous(), None if context is None else context.contiguous()
    inputs = (x, context, *parameters)
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in inputs):
        return _Masked.apply(network, plan, *inputs)
    return plan.forward(network.clip, x, context, parameters)[0]


def dense(network: MLP, x: Tensor) -> Tensor | None:
    """A small MLP without context by the kernel, or None where it does not apply."""
    if torch.compiler.is_compiling() or not ordinary(x) or x.dim() != 2 or not x.numel():
        return None
    if x.shape[1] != network.in_features or hooked(network) or _has_any_global_hook():
        return None
    parameters: list[Tensor] = []
    for layer in network.layers:
        if type(layer) is not nn.Linear or hooked(layer) or len(layer._parameters) != 2:
            return None
        parameters += layer._parameters["weight"], layer._parameters["bias"]  # type: ignore[arg-type]
    if not all(p is not None and plain(p) for p in parameters):
        return None
    plan = network.plan()
    if plan is None or library() is None:
        return None
    if [w.shape for w in parameters[::2]] != [mask.shape for mask in plan.masks]:
        return None
    x = x.contiguous()
    inputs = (x, None, *parameters)
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in inputs):
        return _Masked.apply(network, plan, *inputs)
    return plan.forward(network.clip, x, None, tuple(parameters))[0]


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, if it can be had."""
    loaded = native.load(Path(__file__).with_suffix(".c"))
    if loaded is None:
        return None
    net = ctypes.POINTER(_Net)
    loaded.steadyflow_masked_scratch.argtypes = [net, INTEGER]
    loaded.steadyflow_masked_scratch.restype = INTEGER
    loaded.steadyflow_masked_forward.argtypes = [net, POINTER]
    loaded.steadyflow_masked_forward.restype = None
    loaded.steadyflow_masked_backward.argtypes = [net, ctypes.POINTER(_Gradients)]
    loaded.steadyflow_masked_backward.restype = None
    return loaded
