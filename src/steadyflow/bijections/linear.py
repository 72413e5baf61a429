"""Linear bijections: permutations, and dense matrices in forms whose determinant is at hand.

z = P x              log|det P| = 0
z = L U x + b        log|det| = sum_i log U_ii                 LULinear
z = Q x + b          Q = H_1 .. H_n orthogonal, log|det| = 0   HouseholderLinear
z = exp(A) x + b     log|det| = trace A                        MatrixExponential

Kingma & Dhariwal, "Glow" (2018), eq. 10, for LU; Tomczak & Welling, "Improving Variational
Auto-Encoders using Householder Flow" (2016); Hoogeboom et al., "The Convolution Exponential and
Generalized Sylvester Flows" (2020), for the exponential.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.bijections import fused_householder
from steadyflow.bijections.bijection import (
    Bijection,
    Shape,
    Transformed,
    constant_log_det,
    same_shape,
    zero_log_det,
)
from steadyflow.bijections.precision import widened
from steadyflow.networks.precision import full_precision


class Permutation(Bijection):
    """z_i = x_{order[i]} along axis 1 (variables of a vector, channels of an image).

    Args:
        order: a permutation of 0 .. n-1.
    """

    order: Tensor
    back: Tensor

    def __init__(self, order: Sequence[int]):
        super().__init__()
        if sorted(order) != list(range(len(order))):
            raise ValueError(f"not a permutation of 0 .. {len(order) - 1}: {list(order)}")
        self.register_buffer("order", torch.tensor(order, dtype=torch.int64))
        self.register_buffer("back", self.order.argsort())

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Permutes axis 1."""
        return x.index_select(1, self.order), zero_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Permutes axis 1 back."""
        return z.index_select(1, self.back), zero_log_det(z)

    def output_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another number of channels."""
        return same_shape(self, (*self.order.shape, *event_shape[1:]), event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another number of channels."""
        return same_shape(self, (*self.order.shape, *event_shape[1:]), event_shape)


class Shuffle(Permutation):
    """A permutation of `size` variables drawn once; it is saved with the weights.

    Args:
        size: length of axis 1.
        seed: of the draw; without one it follows torch's global seed.
    """

    def __init__(self, size: int, seed: int | None = None):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        super().__init__(torch.randperm(size, generator=generator).tolist())


class Reverse(Bijection):
    """z_i = x_{n-1-i} along axis 1."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Turns axis 1 round."""
        return x.flip(1), zero_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Turns it back."""
        return z.flip(1), zero_log_det(z)


class Dense(Bijection):
    """z = W x + b on vectors, with a matrix W that a subclass builds. Starts as the identity.

    Args:
        size: number of variables, D.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """W x + b, in float32 even under autocast: a rounded variable has no way back."""
        x = widened(x)
        with full_precision(x):
            return self.multiply(x, self.bias), self.log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """W^-1 (z - b)."""
        z = widened(z)
        with full_precision(z):
            return self.solve(z - self.bias), -self.log_det(z)

    def multiply(self, x: Tensor, bias: Tensor) -> Tensor:
        """W x + b for the rows of x: (batch, D)."""
        raise NotImplementedError

    def solve(self, z: Tensor) -> Tensor:
        """W^-1 z for the rows of z: (batch, D)."""
        raise NotImplementedError

    def log_det(self, x: Tensor) -> Tensor:
        """log|det W| for each row of x: (batch,)."""
        raise NotImplementedError

    def output_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another size."""
        return same_shape(self, (self.size,), event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another size."""
        return same_shape(self, (self.size,), event_shape)

    def extra_repr(self) -> str:
        """The size, for the printed model."""
        return f"size={self.size}"


class LULinear(Dense):
    """W = L U with ones on L's diagonal and exp(s) on U's: log|det W| = sum s.

    The inverse solves two triangular systems; no matrix is inverted.
    """

    def __init__(self, size: int):
        super().__init__(size)
        self.lower = nn.Parameter(torch.zeros(size, size))
        self.upper = nn.Parameter(torch.zeros(size, size))
        self.log_diagonal = nn.Parameter(torch.zeros(size))

    def multiply(self, x: Tensor, bias: Tensor) -> Tensor:
        """By U, then by L."""
        lower, upper = self._factors()
        return F.linear(x @ upper.t(), lower, bias)

    def solve(self, z: Tensor) -> Tensor:
        """For L, then for U."""
        lower, upper = (wide(factor) for factor in self._factors())
        y = solve_triangular(lower, wide(z).t(), upper=False)
        return solve_triangular(upper, y, upper=True).t().to(z.dtype)

    def log_det(self, x: Tensor) -> Tensor:
        """The sum of s."""
        return constant_log_det(self.log_diagonal, x)

    def _factors(self) -> tuple[Tensor, Tensor]:
        one = torch.eye(self.size, dtype=self.bias.dtype, device=self.bias.device)
        diagonal = torch.diag(self.log_diagonal.exp())
        return self.lower.tril(-1) + one, self.upper.triu(1) + diagonal


class HouseholderLinear(Dense):
    """W = H_1 .. H_n S: orthogonal, a product of reflections H_i = I - 2 v_i v_i' / |v_i|^2.

    v_i is 0 before its i-th entry and 1 there, which reaches every orthogonal matrix of one
    orientation with n = D; S changes the signs of the first n variables, so that W starts as the
    identity. The inverse is the transpose.

    Args:
        size: number of variables, D.
        reflections: n; D of them by default.
    """

    def __init__(self, size: int, reflections: int | None = None):
        super().__init__(size)
        reflections = size if reflections is None else reflections
        if not 1 <= reflections <= size:
            raise ValueError(f"reflections must be from 1 to {size}, got {reflections}")
        self.vectors = nn.Parameter(torch.zeros(size, reflections))

    def multiply(self, x: Tensor, bias: Tensor) -> Tensor:
        """Rotates."""
        return F.linear(x, self.matrix(), bias)

    def solve(self, z: Tensor) -> Tensor:
        """Rotates back."""
        return z @ self.matrix()

    def log_det(self, x: Tensor) -> Tensor:
        """Zero."""
        return zero_log_det(x)

    def matrix(self) -> Tensor:
        """W, (D, D)."""
        fast = fused_householder.attempt(self.vectors, self.product)
        return self.product(self.vectors) if fast is None else fast

    def product(self, raw: Tensor) -> Tensor:
        """W of the vectors (D, n), in torch's own operations."""
        return householder_product(raw)


class MatrixExponential(Dense):
    """W = exp(A) with any A: log|det W| = trace A, and W^-1 = exp(-A) is as easy as W."""

    def __init__(self, size: int):
        super().__init__(size)
        self.generator = nn.Parameter(torch.zeros(size, size))

    def multiply(self, x: Tensor, bias: Tensor) -> Tensor:
        """By exp(A)."""
        return F.linear(x, torch.matrix_exp(self.generator), bias)

    def solve(self, z: Tensor) -> Tensor:
        """By exp(-A)."""
        return z @ torch.matrix_exp(-self.generator).t()

    def log_det(self, x: Tensor) -> Tensor:
        """The trace of A."""
        return constant_log_det(self.generator.diagonal(), x)


def householder_product(raw: Tensor) -> Tensor:
    """The rotation (D, D) of the vectors (D, n) of `HouseholderLinear`.

    The product of reflections is I - V S^-1 V' with V = (v_1 .. v_n) and S the upper triangle of
    V'V with half its diagonal. Joffrain et al., "Accumulating Householder transformations,
    revisited" (2006).
    """
    vectors = wide(raw)
    size, count = vectors.shape
    one = torch.eye(size, dtype=vectors.dtype, device=vectors.device)
    v = vectors.tril(-1) + one[:, :count]
    gram = v.t() @ v
    system = gram.triu() - torch.diag(gram.diagonal() / 2)
    product = one - v @ solve_triangular(system, v.t(), upper=True)
    sign = 1 - 2 * one[:, :count].sum(1)
    return (product * sign).to(raw.dtype)


def solve_triangular(system: Tensor, right: Tensor, upper: bool) -> Tensor:
    """X with system @ X = right, for a triangular system (D, D) and right: (D, batch).

    While a program is exported it is substitution row by row: ONNX knows no such operation.
    """
    exporting = getattr(torch.compiler, "is_exporting", lambda: False)
    if not exporting():
        return torch.linalg.solve_triangular(system, right, upper=upper)
    size = len(system)
    rows: list[Tensor] = []
    for i in reversed(range(size)) if upper else range(size):
        value = right[i]
        if rows:
            known = torch.stack(rows[::-1] if upper else rows)
            value = value - (system[i, i + 1 :] if upper else system[i, :i]) @ known
        rows.append(value / system[i, i])
    return torch.stack(rows[::-1] if upper else rows)


def wide(values: Tensor) -> Tensor:
    """Values in float32 or wider: linear algebra knows nothing narrower."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
