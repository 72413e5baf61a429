"""Sylvester flows: several planar ridges at once, in an orthonormal frame.

    z = x + Q R tanh(S Q'x + b)          log|det dz/dx| = sum_i log(1 + r_ii s_ii tanh'(.)_i)

Q is D x M with orthonormal columns, R and S are upper triangular with r_ii s_ii > -1, here because
the absolute values of both are below 1. By
Sylvester's identity the determinant is that of the M x M matrix I + diag(tanh') S R, which is
upper triangular.

Van den Berg, Hasenclever, Tomczak & Welling, "Sylvester Normalizing Flows for Variational
Inference" (2018), eq. 8-13, the Householder variant.

The inverse, which the paper leaves out: with y = Q'x the equations y + R tanh(S y + b) = Q'z are
solved from the last to the first, each of them one increasing function of one unknown.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from steadyflow.bijections.bijection import Transformed
from steadyflow.bijections.linear import householder_product
from steadyflow.bijections.planar import MARGIN, Given
from steadyflow.bijections.precision import widened
from steadyflow.bijections.roots import invert
from steadyflow.networks.precision import full_precision


class Sylvester(Given):
    """z = x + Q R tanh(S Q'x + b).

    Draws of a posterior in one pass come from `Inverse(Sylvester(D, M))`; see `planar` for when
    to take such layers.

    Args:
        features: number of variables, D.
        ridges: M, at most D; each costs a step of the inverse.
        context_features: length of the context that R, S and b depend on; None for none.
    """

    closed_form_inverse = False

    def __init__(self, features: int, ridges: int = 4, context_features: int | None = None):
        if not 1 <= ridges <= features:
            raise ValueError(f"ridges must be from 1 to the {features} variables, got {ridges}")
        self.ridges = ridges
        super().__init__(features, 2 * ridges * ridges + ridges, context_features)
        self.vectors = nn.Parameter(0.1 * torch.randn(features, ridges))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Adds the ridges."""
        with full_precision(x):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            q, r, s, b = self._frame(wide, context)
            h = torch.tanh(_times(s, wide @ q) + b)
            z = wide + _times(r, h) @ q.t()
            return z.to(widened(x).dtype), _log_slopes(r, s, h).sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Solves for the last coordinate of the frame, then for the one before it, and so on."""
        with full_precision(z):
            wide = z.to(torch.promote_types(z.dtype, torch.float32))
            q, r, s, b = self._frame(wide, context)
            target = wide @ q
            y: list[Tensor] = []
            h: list[Tensor] = []
            for i in range(self.ridges - 1, -1, -1):
                later = torch.stack(h, 1) if h else target.new_zeros(len(z), 0)
                known = torch.stack(y, 1) if y else later
                aim = target[:, i] - (r[:, i, i + 1 :] * later).sum(1)
                shift = b[:, i] + (s[:, i, i + 1 :] * known).sum(1)
                height = r[:, i, i]
                low, high = aim - height.abs(), aim + height.abs()
                found, _ = invert(_one, aim, low, high, height, s[:, i, i], shift)
                y.insert(0, found)
                h.insert(0, torch.tanh(s[:, i, i] * found + shift))
            ridges = torch.stack(h, 1)
            x = wide - _times(r, ridges) @ q.t()
            return x.to(widened(z).dtype), -_log_slopes(r, s, ridges).sum(1)

    def _frame(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q (D, M); R and S (batch, M, M); b (batch, M)."""
        m = self.ridges
        r, s, b = self.parameters_for(x, context).split((m * m, m * m, m), 1)
        q = householder_product(self.vectors.to(x.dtype))[:, :m]
        return q, _triangle(r.unflatten(1, (m, m))), _triangle(s.unflatten(1, (m, m))), b


def _triangle(raw: Tensor) -> Tensor:
    """Upper triangular, with a diagonal of absolute values below 1, as in the authors' code."""
    diagonal = math.sqrt(1 - MARGIN) * torch.tanh(raw.diagonal(dim1=1, dim2=2))
    return raw.triu(1) + torch.diag_embed(diagonal)


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors.unsqueeze(2)).squeeze(2)


def _log_slopes(r: Tensor, s: Tensor, h: Tensor) -> Tensor:
    inner = r.diagonal(dim1=1, dim2=2) * s.diagonal(dim1=1, dim2=2)
    return torch.log1p(inner * (1 - h * h))


def _one(y: Tensor, height: Tensor, steep: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Value y + r tanh(s y + c) and log-slope."""
    h = torch.tanh(steep * y + shift)
    return y + height * h, torch.log1p(height * steep * (1 - h * h))
