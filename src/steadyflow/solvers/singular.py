"""The largest singular value of a linear map that is known only by what it does to vectors.

    A = M^T M,   T = Q^T A Q tridiagonal,   T s = theta s         Lanczos, from a vector one has
    some eigenvalue of A lies within  r = |A Q s - theta Q s|  of  theta
    sigma <= sqrt(theta + r)              once the start has a part along the leading vector

Plain power iteration is the special case of one step; a few steps of Lanczos find the end of a
crowded spectrum many times sooner, and the residual, which costs nothing, says when to stop.
A matrix small enough to be squared needs neither a start nor a stop (`squared_norm_bound`).
Golub & Van Loan, "Matrix Computations" (2013), sec. 10.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]
TINY, FOURTH_POWERS = 16, 5  # size up to which eigenvalues are computed; squarings, in pairs
RITZ = (1.0, 0.3, 0.1)  # weights of the leading Ritz vectors in the next start


@dataclasses.dataclass(frozen=True)
class Leading:
    """The leading singular value of a map.

    Attributes:
        value: the estimate sqrt(theta), never above the true one.
        bound: sqrt(theta + r), at least the true one if the start had a part along its vector.
        vector: the right singular vector, of norm 1.
        start: what to begin with the next time, after the map has changed a little.
        steps: applications of the map and of its adjoint.
    """

    value: float
    bound: float
    vector: Tensor
    start: Tensor
    steps: int

    @property
    def gap(self) -> float:
        """How far the bound lies above the value, relative to the value."""
        return self.bound / self.value - 1 if self.value > 0 else 0.0


@torch.no_grad()
def leading_singular(
    apply: Map,
    adjoint: Map,
    start: Tensor,
    tolerance: float = 1e-3,
    steps: int = 16,
    max_steps: int = 200,
) -> Leading:
    """Finds the leading singular value of a linear map.

    Args:
        apply: the map M.
        adjoint: its adjoint M^T.
        start: a vector of M's domain, of any shape; not zero.
        tolerance: on the gap between value and bound, relative to the value.
        steps: of Lanczos between two looks at the residual.
        max_steps: in all; where they run out the bound is as good as it is.
    """
    taken, steps = 0, min(steps, start.numel())
    while True:
        basis, small = _lanczos(apply, adjoint, start, steps)
        taken += steps
        values, vectors = torch.linalg.eigh(small[:, :-1].double().cpu())
        leading = vectors[:, -1]
        theta = float(values[-1].clamp_min(0))
        residual = float(small[-1, -1]) * abs(float(leading[-1]))
        weights = vectors.flip(1)[:, : len(RITZ)] @ vectors.new_tensor(RITZ[: len(values)])
        vector, start = (_combine(basis, w, start) for w in (leading, weights))
        found = Leading(theta**0.5, (theta + residual) ** 0.5, vector, start, taken)
        if found.gap <= tolerance or taken >= max_steps:
            return found


@torch.no_grad()
def squared_norm_bound(gram: Tensor) -> tuple[Tensor, Tensor]:
    """A proven upper bound on |M|^2, the largest eigenvalue of G = M M^T (n, n), and its vector.

        lambda^p <= tr G^p <= n lambda^p,      p = 4^5: at most 0.6 % too large for n = 512

    Squaring takes no start, misses nothing and asks no question on the way (Delattre et al. 2023).
    """
    tiny = torch.finfo(gram.dtype).tiny
    if len(gram) <= TINY:
        values, vectors = torch.linalg.eigh(gram.double())
        return values[-1].clamp_min(0).to(gram.dtype) * (1 + 1e-6), vectors[:, -1]
    power, log, share = gram, gram.new_zeros((), dtype=torch.float64), 1.0
    for _ in range(FOURTH_POWERS):
        trace = power.diagonal().sum().clamp_min(tiny)
        log, share = log + share * trace.double().log(), share / 4
        power = power / trace
        power = power @ power
        power = power @ power
    trace = power.diagonal().sum().clamp_min(tiny)
    log = log + share * trace.double().log()
    # the largest column of the power is along the leading eigenvector
    column = power[:, power.diagonal().argmax()] / trace
    norm = torch.linalg.vector_norm(column).clamp_min(tiny)
    return log.exp().to(gram.dtype) * (1 + 1e-6), column / norm


def _lanczos(apply: Map, adjoint: Map, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """An orthonormal basis (steps, n) and T: (steps, steps), with the next beta at [-1, steps]."""
    wide = torch.promote_types(start.dtype, torch.float32)
    tiny = torch.finfo(wide).tiny
    q = start.flatten().to(wide)
    q = q / torch.linalg.vector_norm(q).clamp_min(tiny)
    rows = [q]
    small = q.new_zeros(steps, steps + 1)
    for i in range(steps):
        image = adjoint(apply(rows[i].view(start.shape))).flatten().to(wide)
        basis = torch.stack(rows)
        parts = basis @ image
        least = 10 * torch.finfo(wide).eps * torch.linalg.vector_norm(image)
        image = image - parts @ basis
        image = image - (basis @ image) @ basis  # twice is enough
        beta = torch.linalg.vector_norm(image)
        beta = torch.where(beta > least, beta, 0)  # the basis holds all that can be reached
        small[i, i] = parts[i]
        if i + 1 < steps:
            small[i, i + 1] = small[i + 1, i] = beta
            rows.append(torch.where(beta > 0, image / beta.clamp_min(tiny), 0))
        else:
            small[i, steps] = beta
    return torch.stack(rows), small


def _combine(basis: Tensor, weights: Tensor, like: Tensor) -> Tensor:
    vector = weights.to(basis) @ basis
    norm = torch.linalg.vector_norm(vector).clamp_min(torch.finfo(vector.dtype).tiny)
    return (vector / norm).view(like.shape)
