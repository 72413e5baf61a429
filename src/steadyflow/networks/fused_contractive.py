"""The fast path of `ContractiveConvNet` on the CPU: values, products with the Jacobian, gradients.

A residual flow spends its time in the series of its log-determinant: many products with the
transposed Jacobian of a network whose ends are as thin as the image. The kernel takes 64 pixels at
a time through all layers without leaving the cache, keeps the slopes of the activations for every
product of a series, and computes the gradient of value and Jacobian-vector product together.
docs/benchmarks.md has what it brings.

It serves float32 images on the CPU and LipSwish. All else, compiled and transformed code and
machines without a C compiler take the convolutions, whose results it gives to float32 rounding.
Second derivatives are those of the convolutions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.module import _has_any_global_hook

from steadyflow import native
from steadyflow.native import hooked, ordinary, plain
from steadyflow.networks.lipschitz_activations import LipSwish

if TYPE_CHECKING:
    from steadyflow.networks.contractive import ContractiveConvNet

INTEGER, FLOAT, POINTER = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
WORK_OF_A_THREAD = 2**20  # multiplications below which a second thread costs more than it brings
WEIGHTS = ("first", "first_bias", "second", "second_bias", "last")
TAPS = 9  # pixels of a 3x3 neighbourhood


class _Net(ctypes.Structure):
    """`Net` of the C file."""

    _fields_ = (
        *((n, INTEGER) for n in ("batch", "channels", "height", "width", "hidden")),
        *((n, INTEGER) for n in ("threads", "given")),
        ("beta", FLOAT * 2),
        *((n, POINTER) for n in ("x", "tangent", *WEIGHTS, "scratch", "kept")),
    )


class _Gradients(ctypes.Structure):
    """`Gradients` of the C file."""

    _fields_ = tuple((n, POINTER) for n in ("dy", "dt", "dx", "d_tangent", *WEIGHTS, "d_beta"))


def value(network: ContractiveConvNet, x: Tensor, context: Tensor | None) -> Tensor | None:
    """g(x), or None where the kernel does not apply."""
    inner = _entered(network, x)
    weights = None if inner is None else _weights(network, inner, context)
    if inner is None or weights is None:
        return None
    if torch.is_grad_enabled() and any(v.requires_grad for v in (inner, *weights)):
        y = _Jvp.apply(inner, None, *weights)
    else:
        y = _forward(_net(inner, None, weights), inner)
    return y + network.layers[2].bias[:, None, None]


def jvp(
    network: ContractiveConvNet, x: Tensor, tangent: Tensor, context: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """g(x) and J tangent, both differentiable; None where the kernel does not apply."""
    inner = _entered(network, x)
    weights = None if inner is None else _weights(network, inner, context)
    if inner is None or weights is None:
        return None
    if network.activate_first:
        tangent = network.activations[0].slope(x) * tangent  # type: ignore[operator]
    y, pushed = _Jvp.apply(inner, tangent.contiguous(), *weights)
    return y + network.layers[2].bias[:, None, None], pushed


@torch.no_grad()
def linearized(
    network: ContractiveConvNet, x: Tensor, context: Tensor | None
) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
    """g(x), and the map u -> J^T u of the first len(u) examples; None as above."""
    inner = _entered(network, x)
    weights = None if inner is None else _weights(network, inner, context)
    if inner is None or weights is None:
        return None
    slope = network.activations[0].slope(x) if network.activate_first else None  # type: ignore[operator]
    net = _net(inner, None, weights)
    kept = inner.new_empty(_kernel().steadyflow_contractive_kept(net, 0))
    net.kept = kept.data_ptr()
    y = _forward(net, inner)

    def pull(u: Tensor) -> Tensor:
        part = _net(u := u.contiguous(), None, weights)
        part.kept, part.scratch = kept.data_ptr(), _scratch(part)
        result = torch.zeros_like(u)
        _kernel().steadyflow_contractive_pull(part, u.data_ptr(), result.data_ptr())
        return result if slope is None else result * slope[: len(u)]

    return y + network.layers[2].bias[:, None, None], pull


class _Jvp(torch.autograd.Function):
    """Value and, with a tangent, Jacobian-vector product, with their derivatives."""

    @staticmethod
    def forward(ctx, x, tangent, *weights):
        net = _net(x, tangent, weights)
        tangents = tangent is not None
        ctx.threads = net.threads  # each one's panels, from forward to backward
        ctx.kept = x.new_empty(_kernel().steadyflow_contractive_kept(net, tangents))
        ctx.save_for_backward(x, tangent, *weights)
        net.kept, net.scratch = ctx.kept.data_ptr(), _scratch(net)
        y, pushed = torch.zeros_like(x), torch.zeros_like(x) if tangents else None
        _kernel().steadyflow_contractive_jvp(net, y.data_ptr(), _address(pushed))
        return (y, pushed) if tangents else y

    @staticmethod
    def backward(ctx, *outer):
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled() or not all(map(ordinary, outer)):
            return tuple(native.plain_gradients(convolutions, inputs, outer, ctx.needs_input_grad))
        return tuple(_gradients(ctx, inputs, [v.contiguous() for v in outer]))


def convolutions(
    x: Tensor,
    tangent: Tensor | None,
    first: Tensor,
    first_bias: Tensor,
    second: Tensor,
    second_bias: Tensor,
    last: Tensor,
    *betas: Tensor,
) -> Tensor | tuple[Tensor, Tensor]:
    """What the kernel computes, in torch's own operations."""
    last = last.unflatten(0, (-1, 3, 3)).permute(0, 3, 1, 2)
    h = F.conv2d(x, first, padding=1) + first_bias[..., None, None]
    t = None if tangent is None else F.conv2d(tangent, first, padding=1)
    for beta, weight, bias in zip(betas, (second, last), (second_bias, None), strict=True):
        z, padding = beta * h, weight.shape[-1] // 2
        gate = torch.sigmoid(z)
        if t is not None:
            t = F.conv2d((gate + z * gate * (1 - gate)) / 1.1 * t, weight, padding=padding)
        h = F.conv2d(h * gate / 1.1, weight, bias, padding=padding)
    return h if t is None else (h, t)


def _entered(network: ContractiveConvNet, x: Tensor) -> Tensor | None:
    """What the activation that may come first makes of x, if the kernel serves both."""
    if torch.compiler.is_compiling() or not ordinary(x) or x.dim() != 4 or not x.numel():
        return None
    parts = (*network.layers, *network.activations)
    if _has_any_global_hook() or any(map(hooked, parts)):
        return None
    if any(type(act) is not LipSwish for act in network.activations):
        return None
    if x.shape[2:] != network.layers[0].size or x.shape[2:] != network.layers[2].size:
        return None
    if not all(plain(p) for layer in network.layers for p in (layer.weight, layer.bias)):
        return None
    if _library() is None:
        return None
    return (network.activations[0](x) if network.activate_first else x).contiguous()


def _weights(
    network: ContractiveConvNet, x: Tensor, context: Tensor | None
) -> tuple[Tensor, ...] | None:
    """The weights as they act, in the kernel's order and layout, and the betas."""
    first, second, last = (layer.constrained() for layer in network.layers)
    bias = network.layers[0].bias
    if network.context is not None and context is not None:
        bias = bias + network.context(context.to(x.dtype))
    betas = [F.softplus(act.raw) for act in network.activations[-2:]]  # type: ignore[arg-type]
    # each of the nine taps of every output is one row of a matrix
    last = last.permute(0, 2, 3, 1).flatten(0, 2).contiguous()
    weights = (first.contiguous(), bias, second.contiguous(), network.layers[1].bias, last)
    return (*weights, *betas) if all(map(ordinary, weights)) else None


def _forward(net: _Net, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    net.scratch = _scratch(net)
    _kernel().steadyflow_contractive_forward(net, y.data_ptr())
    return y


def _gradients(ctx: Any, inputs: tuple, outer: list[Tensor]) -> list[Tensor | None]:
    x, tangent, *weights, _, _ = inputs
    net = _net(x, tangent, inputs[2:], ctx.threads)
    net.kept, net.scratch = ctx.kept.data_ptr(), _scratch(net)
    dx = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
    wanted = tangent is not None and ctx.needs_input_grad[1]
    d_tangent = torch.zeros_like(x) if wanted else None
    found = [w.new_empty(net.threads, *w.shape) for w in weights]
    if net.given:
        found[1] = weights[1].new_empty(1, *weights[1].shape)
    d_beta = x.new_zeros(net.threads, 2)
    gradients = _Gradients(
        outer[0].data_ptr(),
        _address(outer[1] if tangent is not None else None),
        _address(dx),
        _address(d_tangent),
        *(g.data_ptr() for g in (*found, d_beta)),
    )
    _kernel().steadyflow_contractive_back(net, gradients)
    sums = (g.sum(0) if len(g) > 1 else g[0] for g in found)
    return [dx, d_tangent, *sums, *d_beta.sum(0).unbind()]


def _net(
    x: Tensor, tangent: Tensor | None, weights: tuple[Tensor, ...], threads: int | None = None
) -> _Net:
    """The network for one call. It holds addresses: the caller holds the tensors."""
    *matrices, beta1, beta2 = weights
    first, bias = matrices[:2]
    if threads is None:
        work = x[:, 0].numel() * sum(w.numel() for w in matrices)
        threads = max(1, min(len(x), torch.get_num_threads(), work // WORK_OF_A_THREAD))
    betas = (FLOAT * 2)(float(beta1.detach()), float(beta2.detach()))
    places = (x.data_ptr(), _address(tangent), *(w.data_ptr() for w in matrices))
    return _Net(*x.shape, len(first), threads, bias.dim() - 1, betas, *places)


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _scratch(net: _Net) -> int:
    return native.scratch(net.threads * _kernel().steadyflow_contractive_scratch(net))


def _kernel() -> Any:
    """The library, where it is known to be there."""
    return _library()


@cache
def _library() -> ctypes.CDLL | None:
    """The compiled kernel, if it can be had."""
    loaded = native.load(Path(__file__).with_suffix(".c"))
    if loaded is None:
        return None
    net = ctypes.POINTER(_Net)
    for name, restype, more in (
        ("kept", INTEGER, [INTEGER]),
        ("scratch", INTEGER, []),
        ("forward", None, [POINTER]),
        ("pull", None, [POINTER, POINTER]),
        ("jvp", None, [POINTER, POINTER]),
        ("back", None, [ctypes.POINTER(_Gradients)]),
    ):
        function = getattr(loaded, f"steadyflow_contractive_{name}")
        function.argtypes, function.restype = [net, *more], restype
    return loaded
