"""The fast path of `RationalQuadraticSpline` on the CPU: all of it in one pass of a C kernel.

In torch a spline is forty passes over tensors as large as its parameters, most of them to find a
bin and to write zeros into the gradients of the others. The kernel reads the parameters once,
and in the backward direction computes everything again instead of keeping it.

It serves float32 on the CPU and tails of slope 1. All else, compiled and transformed code
(torch.compile, export, vmap, forward-mode derivatives) and machines without a C compiler take the
plain path, whose results it gives to float32 rounding. Second derivatives are those of the plain
path. Derivatives of the inverse x = f^-1(z; theta) follow from those of f,

    dx = (dz - f_theta dtheta) / f'(x)
"""

from __future__ import annotations

import ctypes
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steadyflow import native
from steadyflow.bijections.bijection import Transformed
from steadyflow.native import ordinary, plain_gradients

if TYPE_CHECKING:
    from steadyflow.bijections.splines import RationalQuadraticSpline

BINS = 64  # of the C file: more take the plain path
WORK_OF_A_THREAD = 2**16  # parameters below which a second thread costs more than it brings
INTEGER, FLOAT, POINTER = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class Settings(ctypes.Structure):
    """`Spline` of the C file."""

    _fields_ = (
        ("bins", INTEGER),
        *((n, FLOAT) for n in ("bound", "min_width", "min_secant", "low", "high", "offset")),
    )

    @classmethod
    def of(cls, spline: RationalQuadraticSpline) -> Settings:
        """The settings of a spline."""
        s = spline
        return cls(s.bins, s.bound, s.min_width, s.min_secant, s.low, s.high, s.offset)


class _Call(ctypes.Structure):
    """`Call` of the C file."""

    _fields_ = (
        *((n, INTEGER) for n in ("batch", "channels", "row", "plane", "inverse", "threads")),
        *((n, POINTER) for n in ("x", "raw")),
    )


class _Gradients(ctypes.Structure):
    """`Gradients` of the C file."""

    _fields_ = tuple((n, POINTER) for n in ("dz", "d_log_det", "dx", "d_raw"))


def attempt(
    spline: RationalQuadraticSpline, x: Tensor, parameters: Tensor, inverse: bool
) -> Transformed | None:
    """The spline of x by the kernel, or None where it does not apply."""
    if torch.compiler.is_compiling() or not (ordinary(x) and ordinary(parameters)):
        return None
    if not serves(spline) or not x.numel() or x.dim() < 2:
        return None
    if parameters.shape != (len(x), spline.planes * x.shape[1], *x.shape[2:]):
        return None
    if library() is None:
        return None
    if torch.is_grad_enabled() and (x.requires_grad or parameters.requires_grad):
        return (_Unbend if inverse else _Bend).apply(spline, x, parameters)
    return _run(spline, x.contiguous(), parameters.contiguous(), inverse)


def serves(spline: RationalQuadraticSpline) -> bool:
    """Whether the kernel knows this kind of spline."""
    return spline.tails == "unit" and spline.bins <= BINS


def _run(spline: RationalQuadraticSpline, x: Tensor, raw: Tensor, inverse: bool) -> Transformed:
    z, log_det = torch.empty_like(x), x.new_empty(len(x))
    library().steadyflow_spline(  # type: ignore[union-attr]
        Settings.of(spline), _call(x, raw, inverse), z.data_ptr(), log_det.data_ptr()
    )
    return z, log_det


def _call(x: Tensor, raw: Tensor, inverse: bool) -> _Call:
    channels = x[0].numel()
    threads = max(1, min(raw.numel() // WORK_OF_A_THREAD, torch.get_num_threads(), len(x)))
    row = raw[0].numel()
    return _Call(len(x), channels, row, channels, inverse, threads, x.data_ptr(), raw.data_ptr())


class _Bend(torch.autograd.Function):
    """The forward direction with its derivatives."""

    @staticmethod
    def forward(ctx, spline, x, parameters):
        x, parameters = x.contiguous(), parameters.contiguous()
        ctx.save_for_backward(x, parameters)
        ctx.spline = spline
        return _run(spline, x, parameters, inverse=False)

    @staticmethod
    def backward(ctx, dz, d_log_det):
        x, raw = ctx.saved_tensors
        if torch.is_grad_enabled() or not (ordinary(dz) and ordinary(d_log_det)):
            return None, *_plain_gradients(ctx, (x, raw), (dz, d_log_det), inverse=False)
        return None, *_pull_back(ctx.spline, x, raw, dz, d_log_det)


class _Unbend(torch.autograd.Function):
    """The inverse direction with its derivatives."""

    @staticmethod
    def forward(ctx, spline, z, parameters):
        z, parameters = z.contiguous(), parameters.contiguous()
        x, log_det = _run(spline, z, parameters, inverse=True)
        ctx.save_for_backward(z, x, parameters)
        ctx.spline = spline
        return x, log_det

    @staticmethod
    def backward(ctx, dx, d_log_det):
        z, x, raw = ctx.saved_tensors
        if torch.is_grad_enabled() or not (ordinary(dx) and ordinary(d_log_det)):
            return None, *_plain_gradients(ctx, (z, raw), (dx, d_log_det), inverse=True)
        none = torch.zeros_like(d_log_det)
        slope, _ = _pull_back(ctx.spline, x, raw, torch.ones_like(x), none)
        of_log_det, _ = _pull_back(ctx.spline, x, raw, torch.zeros_like(x), -d_log_det)
        dz = (dx + of_log_det) / slope
        return None, dz, _pull_back(ctx.spline, x, raw, -dz, -d_log_det)[1]


def _pull_back(
    spline: RationalQuadraticSpline, x: Tensor, raw: Tensor, dz: Tensor, d_log_det: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the parameters, of the forward direction."""
    dz, d_log_det = dz.contiguous(), d_log_det.contiguous()
    dx, d_raw = torch.empty_like(x), torch.empty_like(raw)
    found = _Gradients(*(t.data_ptr() for t in (dz, d_log_det, dx, d_raw)))
    library().steadyflow_spline_backward(  # type: ignore[union-attr]
        Settings.of(spline), _call(x, raw, False), found
    )
    return dx, d_raw


def _plain_gradients(ctx, inputs: tuple, outer: tuple, inverse: bool) -> list[Tensor | None]:
    compute = partial(ctx.spline.plain, inverse=inverse)
    return plain_gradients(compute, inputs, outer, ctx.needs_input_grad[1:])


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, if it can be had."""
    loaded = native.load(Path(__file__).with_suffix(".c"))
    if loaded is None:
        return None
    settings, call = ctypes.POINTER(Settings), ctypes.POINTER(_Call)
    loaded.steadyflow_spline.argtypes = [settings, call, POINTER, POINTER]
    loaded.steadyflow_spline.restype = None
    loaded.steadyflow_spline_backward.argtypes = [settings, call, ctypes.POINTER(_Gradients)]
    loaded.steadyflow_spline_backward.restype = None
    return loaded
