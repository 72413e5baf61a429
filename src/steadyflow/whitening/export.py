"""A whitening as other libraries hold it: one matrix and one bias.

    z = x W + b,      b = -c W

One product without the subtraction before it: in float32 it is good to |c| / spread times the
rounding of a float32, which for vectors of an encoder is 1e-6.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from steadyflow.errors import require
from steadyflow.whitening.solution import WhiteningSolution


def matrix_and_bias(whitening: Any) -> tuple[np.ndarray, np.ndarray]:
    """W: (d, k) and b: (k,) in float64.

    Args:
        whitening: an `EmbeddingWhitener`, a `Whitening` or a `WhiteningSolution`, fitted.
    """
    solution = solution_of(whitening)
    matrix = solution.matrix
    return matrix, -solution.centre @ matrix


def to_linear(whitening: Any) -> Any:
    """The whitening as a `torch.nn.Linear`, float32."""
    import torch

    matrix, bias = matrix_and_bias(whitening)
    layer = torch.nn.Linear(*matrix.shape)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(matrix.T))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer.requires_grad_(False)


def to_faiss(whitening: Any) -> Any:
    """The whitening as a `faiss.LinearTransform`, for a `faiss.IndexPreTransform`.

    Raises:
        ImportError: without faiss, with the line that installs it.
    """
    faiss = require("faiss", "faiss", "a FAISS index")
    matrix, bias = matrix_and_bias(whitening)
    transform = faiss.LinearTransform(*matrix.shape, True)
    faiss.copy_array_to_vector(matrix.T.astype(np.float32).ravel(), transform.A)
    faiss.copy_array_to_vector(bias.astype(np.float32), transform.b)
    transform.is_trained = True
    return transform


def solution_of(whitening: Any) -> WhiteningSolution:
    """The fitted map behind any of its forms.

    Raises:
        ValueError: if it has not been fitted.
    """
    if isinstance(whitening, WhiteningSolution):
        return whitening
    names = ("solution_", "solution")
    found = next((s for name in names if (s := getattr(whitening, name, None)) is not None), None)
    if found is None:
        raise ValueError(f"this {type(whitening).__name__} has not been fitted: call fit first")
    return found
