"""The matrix of `HouseholderLinear` and its gradient on the CPU, each in one call of a C kernel.

In torch the product of reflections takes a dozen operations, each on a few numbers, and their
gradients two dozen: for a handful of variables that is more than the spline beside it. It serves
float32 and up to 64 variables; all else takes the plain path, and so do second derivatives.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from steadyflow import native
from steadyflow.native import ordinary, plain_gradients

MOST = 64  # of the C file


def attempt(vectors: Tensor, plain: Callable[[Tensor], Tensor]) -> Tensor | None:
    """Q of the vectors (D, n), which `plain` computes too, or None where it does not apply."""
    if torch.compiler.is_compiling() or not ordinary(vectors) or len(vectors) > MOST:
        return None
    if not vectors.is_contiguous() or library() is None:
        return None
    if torch.is_grad_enabled() and vectors.requires_grad:
        return _Matrix.apply(vectors, plain)
    return _product(vectors)


def _product(vectors: Tensor) -> Tensor:
    size, n = vectors.shape
    q = vectors.new_empty(size, size)
    library().steadyflow_householder(size, n, vectors.data_ptr(), q.data_ptr())  # type: ignore[union-attr]
    return q


class _Matrix(torch.autograd.Function):
    """Q with its derivative."""

    @staticmethod
    def forward(ctx, vectors, plain):
        q = _product(vectors)
        ctx.save_for_backward(vectors, q)
        ctx.plain = plain
        return q

    @staticmethod
    def backward(ctx, g):
        vectors, q = ctx.saved_tensors
        if torch.is_grad_enabled() or not ordinary(g):
            return *plain_gradients(ctx.plain, (vectors,), g, (True,)), None
        q, g = q.clone(), g.clone(memory_format=torch.contiguous_format)
        result = torch.zeros_like(vectors)
        library().steadyflow_householder_backward(  # type: ignore[union-attr]
            *vectors.shape, vectors.data_ptr(), q.data_ptr(), g.data_ptr(), result.data_ptr()
        )
        return result, None


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, if it can be had."""
    loaded = native.load(Path(__file__).with_suffix(".c"))
    if loaded is None:
        return None
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    loaded.steadyflow_householder.argtypes = [integer, integer, pointer, pointer]
    loaded.steadyflow_householder.restype = None
    loaded.steadyflow_householder_backward.argtypes = [integer, integer, *[pointer] * 4]
    loaded.steadyflow_householder_backward.restype = None
    return loaded
