"""The fast paths of `Autoregressive` on the CPU: its inverse, and its affine transform, in C.

Variable after variable is D steps of a dozen operations on a few numbers each, and in torch the
time goes into calling them. The kernel's arithmetic is about half of one dense pass, since the
masked weights are left out.

It serves float32 vectors on the CPU, a ReLU `MaskedMLP` and additive, bounded affine and
rational-quadratic spline transforms. All else takes the plain path.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from steadyflow import native
from steadyflow.bijections import fused_splines
from steadyflow.bijections.bijection import Transformed
from steadyflow.bijections.splines import RationalQuadraticSpline
from steadyflow.bijections.transforms import Additive, Affine, Transform
from steadyflow.native import ordinary, plain, plain_gradients
from steadyflow.networks.masked import MaskedMLP

if TYPE_CHECKING:
    from steadyflow.bijections.autoregressive import Autoregressive

ROWS = 64  # P of the C file
TRANSFORMS = {"additive": 0, "tanh": 1, "softsign": 2, "spline": 3}
LARGEST_BOUND = 40.0  # of a log-scale: the kernel's exp has no overflow to handle
WORK_OF_A_THREAD = 2**20  # multiplications below which a second thread costs more than it brings
INTEGER, FLOAT, POINTER = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class _Layer(ctypes.Structure):
    """`Layer` of the C file."""

    _fields_ = (
        *((n, INTEGER) for n in ("batch", "features", "planes", "context", "layers", "residual")),
        *((n, INTEGER) for n in ("transform", "threads")),
        *((n, FLOAT) for n in ("clip", "bound")),
        *((n, POINTER) for n in ("order", "widths", "ends", "weights", "biases", "z", "given")),
        *((n, POINTER) for n in ("column", "settings", "scratch")),
        ("scratch_size", INTEGER),
    )


class _Kind(NamedTuple):
    """How the kernel moves a variable; `settings` and `column` serve the spline."""

    transform: int
    bound: float = 1.0
    settings: fused_splines.Settings | None = None
    column: int | None = None


def attempt(layer: Autoregressive, z: Tensor, context: Tensor | None) -> Transformed | None:
    """The inverse by the kernel, or None where it does not apply."""
    network = layer.network
    if torch.compiler.is_compiling() or type(network) is not MaskedMLP or z.dim() != 2:
        return None
    if not ordinary(z) or not len(z) or z.shape[1] != network.features:
        return None
    if context is not None and not (ordinary(context) and len(context) == len(z)):
        return None
    if network.activation != "relu" or (network.context is None) != (context is None):
        return None
    if not all(plain(p) for p in network.parameters()):
        return None
    kind = _kind(layer.transform)
    if kind is None or library() is None:
        return None
    return _run(network, kind, z.contiguous(), context)


def _kind(transform: Transform) -> _Kind | None:
    if type(transform) is Additive:
        return _Kind(TRANSFORMS["additive"])
    if type(transform) is Affine and transform.scale in TRANSFORMS:
        if transform.bound > LARGEST_BOUND:
            return None
        return _Kind(TRANSFORMS[transform.scale], transform.bound)
    if type(transform) is RationalQuadraticSpline and fused_splines.serves(transform):
        kernel = fused_splines.library()
        if kernel is None:
            return None
        column = ctypes.cast(kernel.steadyflow_spline_column, POINTER).value
        settings = fused_splines.Settings.of(transform)
        return _Kind(TRANSFORMS["spline"], settings=settings, column=column)
    return None


@torch.no_grad()
def _run(network: MaskedMLP, kind: _Kind, z: Tensor, context: Tensor | None) -> Transformed:
    weights, biases = network.ranked(context is not None)
    batch, features = z.shape
    given = None if context is None else context.contiguous()
    wide = 0 if given is None else given.shape[1]
    hidden = [len(w) for w in weights[:-1]]
    work = batch * sum(w.numel() for w in weights) // 2 // WORK_OF_A_THREAD
    threads = 1 if work < 2 else min(work, torch.get_num_threads(), -(-batch // ROWS))
    scratch_size = (wide + features + network.planes + 4 + sum(hidden)) * ROWS
    scratch = torch.empty(threads * scratch_size)
    order = (INTEGER * features)(*network.order)
    widths = (INTEGER * max(1, len(hidden)))(*hidden)
    ends = (INTEGER * max(1, len(hidden) * features))(*(e for own in network.ends for e in own))
    weight_pointers = (POINTER * len(weights))(*(w.data_ptr() for w in weights))
    bias_pointers = (POINTER * len(biases))(*(b.data_ptr() for b in biases))
    x, log_det = torch.empty(z.shape), torch.empty(batch)
    address = ctypes.addressof
    call = _Layer(
        batch=batch,
        features=features,
        planes=network.planes,
        context=wide,
        layers=len(hidden),
        residual=network.residual,
        transform=kind.transform,
        threads=threads,
        clip=network.clip or 0.0,
        bound=kind.bound,
        order=address(order),
        widths=address(widths),
        ends=address(ends),
        weights=address(weight_pointers),
        biases=address(bias_pointers),
        z=z.data_ptr(),
        given=None if given is None else given.data_ptr(),
        column=kind.column,
        settings=None if kind.settings is None else address(kind.settings),
        scratch=scratch.data_ptr(),
        scratch_size=scratch_size,
    )
    library().steadyflow_autoregressive_inverse(  # type: ignore[union-attr]
        call, x.data_ptr(), log_det.data_ptr()
    )
    return x, log_det


class _Affine(torch.autograd.Function):
    """The affine transform of all variables, with its derivatives."""

    @staticmethod
    def forward(ctx, transform, x, parameters):
        ctx.save_for_backward(x, parameters)
        ctx.transform = transform
        return _affine(transform, x, parameters)

    @staticmethod
    def backward(ctx, dz, d_log_det):
        x, raw = ctx.saved_tensors
        transform = ctx.transform
        if torch.is_grad_enabled() or not (ordinary(dz) and ordinary(d_log_det)):
            inputs, outer, wanted = (x, raw), (dz, d_log_det), ctx.needs_input_grad[1:]
            return None, *plain_gradients(transform.forward, inputs, outer, wanted)
        dz, d_log_det = dz.contiguous(), d_log_det.contiguous()
        dx, d_raw = torch.empty_like(x), torch.empty_like(raw)
        given = (t.data_ptr() for t in (x, raw, dz, d_log_det, dx, d_raw))
        kind = TRANSFORMS[transform.scale]
        library().steadyflow_affine_backward(*x.shape, kind, transform.bound, *given)  # type: ignore[union-attr]
        return None, dx, d_raw


def affine(transform: Transform, x: Tensor, parameters: Tensor) -> Transformed | None:
    """The affine transform of vectors by the kernel, or None where it does not apply."""
    if torch.compiler.is_compiling() or type(transform) is not Affine or x.dim() != 2:
        return None
    if transform.scale not in TRANSFORMS or transform.bound > LARGEST_BOUND:
        return None
    if not (ordinary(x) and ordinary(parameters)) or not x.is_contiguous():
        return None
    if parameters.shape != (len(x), 2 * x.shape[1]) or not parameters.is_contiguous():
        return None
    if library() is None:
        return None
    if torch.is_grad_enabled() and (x.requires_grad or parameters.requires_grad):
        return _Affine.apply(transform, x, parameters)
    return _affine(transform, x, parameters)


def _affine(transform: Affine, x: Tensor, raw: Tensor) -> Transformed:
    z, log_det = torch.empty_like(x), x.new_empty(len(x))
    given = (t.data_ptr() for t in (x, raw, z, log_det))
    kind = TRANSFORMS[transform.scale]
    library().steadyflow_affine(*x.shape, kind, transform.bound, *given)  # type: ignore[union-attr]
    return z, log_det


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, if it can be had."""
    loaded = native.load(Path(__file__).with_suffix(".c"))
    if loaded is None:
        return None
    function = loaded.steadyflow_autoregressive_inverse
    function.argtypes, function.restype = [ctypes.POINTER(_Layer), POINTER, POINTER], None
    shape: list[Any] = [INTEGER, INTEGER, INTEGER, FLOAT]
    loaded.steadyflow_affine.argtypes = [*shape, *[POINTER] * 4]
    loaded.steadyflow_affine.restype = None
    loaded.steadyflow_affine_backward.argtypes = [*shape, *[POINTER] * 6]
    loaded.steadyflow_affine_backward.restype = None
    return loaded
