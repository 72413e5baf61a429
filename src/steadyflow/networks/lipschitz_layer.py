"""A linear map whose norm stays below a coefficient, whatever its weights become.

    W_c = W min(1, c / sigma(W))             |W_c x - W_c y| <= c |x - y|

sigma is the norm of the operator itself: for a convolution, of the map between whole images with
its padding at their size. (The norm of the reshaped kernel is up to k times too small.) It is
bounded from above by Lanczos steps with a vector that is kept, whenever the weights have changed:
the bound holds by construction, whoever changed them, and needs no step in a training loop.

Miyato et al. (2018) for the constraint, Gouk et al. (2021) for the true operator.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from steadyflow.errors import unknown
from steadyflow.networks.precision import exact_arithmetic
from steadyflow.solvers.singular import leading_singular, squared_norm_bound

NORMS = ("2", "1", "inf")
DENSE = 512  # rank up to which a matrix is squared, not iterated
DENSE_IMAGES = {"cpu": 128, "cuda": 1024}  # the same for a convolution, written as a matrix
SMALL, MANY, FEW = 512, 16, 10  # Lanczos steps: small maps have crowded spectra
TOLERANCE = 2e-3  # between the estimate of a norm and its bound
MARGIN = 4e-3  # by which a bound is raised, for a leading vector that has changed places
SAME = 1e-5  # relative change of a number that is only rounding


class LipschitzLayer(nn.Module):
    """A linear map whose norm stays below a coefficient, whatever its weights become.

    The norm is measured whenever the weights have changed since the last call, whoever changed
    them: in training their sums are compared (fused optimisers leave no other trace), in
    evaluation torch's count of changes. The vectors that a measurement starts from are kept.

    Args:
        weight: the free parameter W, (out, in, *kernel).
        coefficient: c, the largest norm; above 0.
        norm: '2', '1' or 'inf', in which the map is bounded.
        size: (height, width) of the images that a convolution is measured for; () for matrices.

    Attributes:
        bound: an upper bound on the norm of W.
    """

    bound: Tensor
    fingerprint: Tensor
    vectors: Tensor

    def __init__(self, weight: Tensor, coefficient: float, norm: str, size: Sequence[int] = ()):
        super().__init__()
        if not coefficient > 0 or math.isinf(coefficient):
            raise ValueError(f"a Lipschitz coefficient must be above 0, got {coefficient}")
        if norm not in NORMS:
            raise unknown("norm", norm, NORMS)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(weight.new_zeros(len(weight)))
        self.coefficient, self.norm, self.size = coefficient, norm, tuple(size)
        self._transposed = weight.shape[0] < weight.shape[1]  # vectors live on the smaller side
        self.register_buffer("bound", weight.new_zeros(()))
        self.register_buffer("fingerprint", weight.new_zeros(2))
        self.register_buffer("vectors", weight.new_zeros(2, *self._domain()))
        self._seen: tuple[Any, ...] | None = None
        self._sums: tuple[Any, ...] | None = None
        self._factor = 1.0

    def extra_repr(self) -> str:
        """The shape and the bound."""
        out, into, *kernel = self.weight.shape
        return f"{into}, {out}, kernel={kernel}, c={self.coefficient}, norm={self.norm}"

    @property
    def lipschitz(self) -> float:
        """An upper bound on the norm of the map as it acts."""
        self.measure()
        return min(float(self.bound), self.coefficient)

    def constrained(self) -> Tensor:
        """The weight that acts, W min(1, c / bound), differentiable in W."""
        if not torch.compiler.is_compiling():
            self.measure()
        if self._factor == 1.0:
            return self.weight
        if not torch.is_grad_enabled() or not self.weight.requires_grad:
            return self.weight * self._factor
        norm = self._norm_of(self.weight)  # for its gradient alone
        return self.weight * (self._factor * (norm.detach() / norm))

    @torch.no_grad()
    def measure(self) -> None:
        """Brings the bound up to date, if the weights or the size have changed."""
        key = (weakref.ref(self.weight), self.weight._version, self.size)
        if self._seen == key and not self.training:
            return
        sums = self._summed()
        mark = (*sums.tolist(), self.size)
        if self._sums == mark:
            self._seen = key
            return
        if not math.isfinite(mark[0]):
            raise ValueError("the norm of a layer is not finite: its weights hold NaN or infinity")
        with exact_arithmetic(self.weight):
            if self.norm != "2":
                self.bound.copy_(self._norm_of(self.weight))
            elif self._sums is not None or not self._known(sums):
                self._measure_spectral()
            self.fingerprint.copy_(sums)
        bound = float(self.bound)
        self._factor = min(1.0, self.coefficient / bound) if bound > 0 else 1.0
        self._seen, self._sums = key, mark

    @torch.no_grad()
    def true_norm(self, tolerance: float = 1e-6, max_steps: int = 400) -> float:
        """The norm of the map as it acts, in float64, by long iterations.

        One starts at random and one from the vector that is kept: where two singular values are
        nearly the same, either may settle on the smaller of them.
        """
        weight = self.constrained().double()
        if self.norm != "2":
            return float(self._norm_of(weight))
        starts = [self._random(), *([self.vectors[1]] if self.vectors[1].any() else [])]
        return max(
            leading_singular(
                lambda v: self._there(weight, v),
                lambda u: self._back(weight, u),
                start.double(),
                tolerance,
                steps=20,
                max_steps=max_steps,
            ).value
            for start in starts
        )

    @torch.no_grad()
    def certified_norm(self) -> float:
        """A number that the norm of the map as it acts is proven not to exceed, in float64."""
        weight = self.constrained().double()
        if self.norm != "2":
            return float(self._norm_of(weight))
        return float(torch.linalg.matrix_norm(self._blocks(weight), 2).max())

    def train(self, mode: bool = True) -> Self:
        """Looks at the weights anew: they may have been changed by then."""
        self._seen = None
        return super().train(mode)

    def _summed(self) -> Tensor:
        """Two numbers that change with the weights."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        weight = self.weight.to(wide)
        return torch.stack((torch.linalg.vector_norm(weight), weight.sum()))

    def _known(self, sums: Tensor) -> bool:
        """Whether the bound is of these weights already: of a copy, or of a file."""
        close = (sums - self.fingerprint).abs() <= SAME * sums[0]
        return bool(self.bound > 0) and bool(self.vectors.any()) and bool(close.all())

    def _measure_spectral(self) -> None:
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        weight = self.weight.to(wide)
        size = weight.abs().amax().clamp_min(torch.finfo(wide).tiny)
        weight = weight / size  # whose square neither overflows nor vanishes
        gram = self._gram(weight)
        if gram is not None:
            bound, vector = squared_norm_bound(gram)
            self.bound.copy_(size * bound.sqrt())
            self.vectors.copy_(vector.view(self._domain()))
        else:
            start = self.vectors[1] if self.vectors.any() else self._random()
            found = leading_singular(
                lambda v: self._there(weight, v),
                lambda u: self._back(weight, u),
                start.to(wide),
                TOLERANCE,
                steps=MANY if start.numel() <= SMALL else FEW,
            )
            self.vectors[0], self.vectors[1] = found.vector, found.start
            self.bound.copy_(size * (found.bound * (1 + MARGIN)))

    def _norm_of(self, weight: Tensor) -> Tensor:
        """The norm, differentiable in the weight."""
        if self.norm == "2":
            return self._image_norm(weight, self.vectors[0])
        axes = [1, *range(2, weight.dim())] if self.norm == "inf" else [0, *range(2, weight.dim())]
        return weight.abs().sum(axes).amax()

    def _image_norm(self, weight: Tensor, vector: Tensor) -> Tensor:
        wide = torch.promote_types(weight.dtype, torch.float32)
        with exact_arithmetic(weight):
            return torch.linalg.vector_norm(self._there(weight.to(wide), vector.to(wide)))

    def _random(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self._domain(), generator=generator, dtype=torch.float64).to(
            self.weight.device, torch.promote_types(self.weight.dtype, torch.float32)
        )

    def _domain(self) -> tuple[int, ...]:
        return (min(self.weight.shape[:2]), *self.size)

    def _there(self, weight: Tensor, vector: Tensor) -> Tensor:
        """The map or its adjoint, whichever starts from the smaller space."""
        return (self._adjoint if self._transposed else self._map)(weight, vector)

    def _back(self, weight: Tensor, vector: Tensor) -> Tensor:
        return (self._map if self._transposed else self._adjoint)(weight, vector)

    def _gram(self, weight: Tensor) -> Tensor | None:
        """M M^T or M^T M on the smaller side, if that is small enough to be squared."""
        rows = math.prod(self._domain())
        if weight.shape[2:].numel() == 1:
            matrix = weight.flatten(1) if self._transposed else weight.flatten(1).T
            return matrix @ matrix.T if rows <= DENSE else None
        if rows > DENSE_IMAGES.get(weight.device.type, 0):
            return None
        eye = torch.eye(rows, dtype=weight.dtype, device=weight.device)
        images = eye.view(rows, *self._domain())
        if self._transposed:
            return self.linear(self.transposed(images, weight), weight).flatten(1)
        return self.transposed(self.linear(images, weight), weight).flatten(1)

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """The map of x: (batch, in, ...) by a constrained weight, without the bias."""
        raise NotImplementedError

    def transposed(self, y: Tensor, weight: Tensor) -> Tensor:
        """The adjoint map of y: (batch, out, ...)."""
        raise NotImplementedError

    def shift(self, x: Tensor) -> Tensor:
        """The bias, as it is added to (batch, out, ...)."""
        return self.bias.view(-1, *(1,) * (x.dim() - 2))

    # the map of a matrix, or of a kernel of one pixel; a larger kernel overrides these

    def _map(self, weight: Tensor, x: Tensor) -> Tensor:
        return weight.flatten(1) @ x

    def _adjoint(self, weight: Tensor, y: Tensor) -> Tensor:
        return weight.flatten(1).T @ y

    def _blocks(self, weight: Tensor) -> Tensor:
        """Matrices (number, out, in) whose largest norm is not below that of the map."""
        return weight.flatten(1)[None]

    def _save_to_state_dict(self, *args: Any) -> None:
        self.measure()  # what is saved is true of the weights beside it
        super()._save_to_state_dict(*args)

    def _load_from_state_dict(self, state: dict, prefix: str, *rest: Any) -> None:
        saved = state.get(prefix + "vectors")
        if saved is not None and saved.shape != self.vectors.shape and saved.dim() == 4:
            self.size = tuple(saved.shape[2:])  # measured for other images last
            self.vectors = self.vectors.new_zeros(saved.shape)
        self._seen = self._sums = None
        super()._load_from_state_dict(state, prefix, *rest)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_seen": None, "_sums": None}
