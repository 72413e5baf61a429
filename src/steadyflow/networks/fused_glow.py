"""The fast path of `GlowNet` on the CPU: three convolutions in one call of a C kernel.

Between its two thin ends Glow's conditioner is a perceptron at every pixel. Convolution libraries
are at their best with many channels on both sides, and spend most of a coupling's backward pass on
ends of 3 and 4 channels. The kernel takes 64 pixels at a time from their neighbourhoods through
all layers, without leaving the cache; docs/benchmarks.md has what it brings.

It serves float32 images on the CPU. All else, compiled and transformed code
(torch.compile, export, vmap, forward-mode derivatives) and machines without a C compiler take the
convolutions, whose results it gives to float32 rounding. Second derivatives are those of the
convolutions.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.module import _has_any_global_hook

from steadyflow import native
from steadyflow.native import hooked, ordinary, plain
from steadyflow.networks.layout import clipped

if TYPE_CHECKING:
    from steadyflow.networks.glow import GlowNet

INTEGER, POINTER = ctypes.c_int64, ctypes.c_void_p
WORK_OF_A_THREAD = 2**20  # multiplications below which a second thread costs more than it brings
WEIGHTS = ("first", "first_bias", "second", "second_bias", "last")
TAPS = 9  # pixels of a 3x3 neighbourhood


class _Net(ctypes.Structure):
    """`Net` of the C file."""

    _fields_ = (
        *((n, INTEGER) for n in ("batch", "channels", "height", "width", "hidden", "out")),
        *((n, INTEGER) for n in ("threads", "given")),
        *((n, POINTER) for n in ("x", *WEIGHTS, "scratch", "kept")),
    )


class _Gradients(ctypes.Structure):
    """`Gradients` of the C file."""

    _fields_ = tuple((n, POINTER) for n in ("dy", "dx", *WEIGHTS))


def attempt(network: GlowNet, x: Tensor, shift: Tensor | None = None) -> Tensor | None:
    """The network, or None where the kernel does not apply.

    shift: (batch, hidden) is what a context adds to the first features.
    """
    layers = (network.first, network.second, network.last)
    if not ordinary(x) or x.dim() != 4 or not x.numel() or _has_any_global_hook():
        return None
    if any(map(hooked, layers)) or x.shape[1] + network.edges != network.first.in_channels:
        return None
    weights: list[Any] = [layer._parameters[n] for layer in layers[:2] for n in ("weight", "bias")]
    if not all(w is not None and plain(w) for w in (*weights, *network.last._parameters.values())):
        return None
    if not (shift is None or ordinary(shift)) or library() is None:
        return None
    if shift is not None:
        weights[1] = weights[1] + shift
    weight, bias = network.last.affine()
    # each of the nine taps of every output is one row of a matrix
    last = weight.permute(0, 2, 3, 1).flatten(0, 2)
    x = clipped(x, network.clip, network.edges).contiguous()
    inputs: tuple[Any, ...] = (x, *weights, last.contiguous())
    if torch.is_grad_enabled() and any(v.requires_grad for v in inputs):
        y = _Conditioner.apply(*inputs)
    else:
        y = _run(*inputs)[0]
    return y + bias


class _Conditioner(torch.autograd.Function):
    """The kernel with its derivatives."""

    @staticmethod
    def forward(ctx, *inputs):
        ctx.threads = _threads(*inputs)  # each one's panels, from forward to backward
        y, ctx.kept = _run(*inputs, keep=True)
        ctx.save_for_backward(*inputs)
        return y

    @staticmethod
    def backward(ctx, dy):
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled() or not ordinary(dy):
            return tuple(native.plain_gradients(convolutions, inputs, dy, ctx.needs_input_grad))
        found = _gradients(inputs, dy.contiguous(), ctx.kept, ctx.threads, ctx.needs_input_grad)
        return tuple(found)


def convolutions(
    x: Tensor,
    first: Tensor,
    first_bias: Tensor,
    second: Tensor,
    second_bias: Tensor,
    last: Tensor,
) -> Tensor:
    """What the kernel computes, in torch's own operations."""
    h = F.relu(F.conv2d(x, first, padding=1) + first_bias[..., None, None])
    h = F.relu(F.conv2d(h, second, second_bias))
    return F.conv2d(h, last.unflatten(0, (-1, 3, 3)).permute(0, 3, 1, 2), padding=1)


def _run(*inputs: Tensor, keep: bool = False) -> tuple[Tensor, Tensor | None]:
    """The outputs, and the hidden layers if they are to be kept."""
    x, last = inputs[0], inputs[-1]
    net = _call(inputs, _threads(*inputs))
    y = x.new_zeros(len(x), len(last) // TAPS, *x.shape[2:])
    kept = x.new_empty(_kernel().steadyflow_glow_kept(net)) if keep else None
    net.kept = None if kept is None else kept.data_ptr()
    net.scratch = _scratch(net, backward=False)
    _kernel().steadyflow_glow_forward(net, y.data_ptr())
    return y, kept


def _gradients(
    inputs: tuple[Tensor, ...],
    dy: Tensor,
    kept: Tensor,
    threads: int,
    wanted: tuple[bool, ...],
) -> list[Tensor | None]:
    net = _call(inputs, threads)
    net.kept, net.scratch = kept.data_ptr(), _scratch(net, backward=True)
    dx = torch.zeros_like(inputs[0]) if wanted[0] else None
    found: list[Tensor] = []
    if any(wanted[1:]):
        found = [w.new_empty(net.threads, *w.shape) for w in inputs[1:]]
        if net.given:
            found[1] = inputs[2].new_empty(1, *inputs[2].shape)
    gradients = _Gradients(dy.data_ptr(), None if dx is None else dx.data_ptr())
    for name, gradient in zip(WEIGHTS, found, strict=bool(found)):
        setattr(gradients, name, gradient.data_ptr())
    _kernel().steadyflow_glow_backward(net, gradients)
    if not found:
        return [dx, *(None for _ in inputs[1:])]
    return [dx, *(g.sum(0) if len(g) > 1 else g[0] for g in found)]


def _call(inputs: tuple[Tensor, ...], threads: int) -> _Net:
    """The network for one call. It holds addresses: the caller holds the tensors."""
    x, first, first_bias, *_, last = inputs
    sizes = (*x.shape, len(first), len(last) // TAPS)
    return _Net(*sizes, threads, first_bias.dim() - 1, *(v.data_ptr() for v in inputs))


def _threads(x: Tensor, first: Tensor, *others: Tensor) -> int:
    work = x[:, 0].numel() * (first.numel() + sum(w.numel() for w in others))
    return max(1, min(len(x), torch.get_num_threads(), work // WORK_OF_A_THREAD))


def _scratch(net: _Net, backward: bool) -> int:
    return native.scratch(net.threads * _kernel().steadyflow_glow_scratch(net, backward))


def _kernel() -> Any:
    """The library, where it is known to be there."""
    return library()


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, if it can be had."""
    loaded = native.load(Path(__file__).with_suffix(".c"))
    if loaded is None:
        return None
    net = ctypes.POINTER(_Net)
    loaded.steadyflow_glow_kept.argtypes = [net]
    loaded.steadyflow_glow_scratch.argtypes = [net, INTEGER]
    loaded.steadyflow_glow_kept.restype = loaded.steadyflow_glow_scratch.restype = INTEGER
    loaded.steadyflow_glow_forward.argtypes = [net, POINTER]
    loaded.steadyflow_glow_backward.argtypes = [net, ctypes.POINTER(_Gradients)]
    loaded.steadyflow_glow_forward.restype = loaded.steadyflow_glow_backward.restype = None
    return loaded
