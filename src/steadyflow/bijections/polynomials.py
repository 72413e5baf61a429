"""Increasing polynomials on a box, with straight tails: Bernstein's, and sums of squares.

A polynomial that leaves its box grows beyond all bounds, and its inverse loses all digits. The
tails (see `boxed`) keep what is far finite, and both slopes have proven bounds.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from steadyflow.bijections.boxed import Boxed


class BernsteinPolynomial(Boxed):
    """A Bernstein polynomial whose coefficients increase.

        z  = sum_k theta_k b_k,n(u)        b_k,n(u) = C(n, k) u^k (1 - u)^(n - k),  k = 0 .. n
        z' = sum_k d_k b_k,n-1(u)          u = (x + B) / 2B,  d_k = (theta_k+1 - theta_k) n / 2B

    The slope is a mean of the d_k: where those are in [min_slope, 1 / min_slope], so is the slope.
    De Casteljau's rule evaluates both by taking means, which loses no digits.

    Ramasinghe, Fernando, Khan & Barnes, "Robust normalizing flows using Bernstein-type
    polynomials" (2022), eq. 3-6; there the box is the whole domain.

    The conditioner gives the middle of the image of the box and n raw slopes; all zero is the
    identity.

    Args:
        degree: n.
        bound: half the width of the box, B.
        min_slope: the smallest slope; 1 / min_slope is the largest.
    """

    def __init__(self, degree: int = 12, bound: float = 5.0, min_slope: float = 1e-2):
        super().__init__(bound)
        if degree < 1:
            raise ValueError(f"the degree of a polynomial must be at least 1, got {degree}")
        if not 0 < min_slope < 1:
            raise ValueError(f"min_slope must be in (0, 1), got {min_slope}")
        self.degree, self.min_slope = degree, min_slope
        self.planes = degree + 1
        self._largest = -float(np.log(min_slope))  # of |log d|

    def _coefficients(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The n + 1 values theta, (batch, n + 1, channels, *rest), and the n slopes d."""
        raw = parameters.to(x.dtype).unflatten(1, (self.planes, x.shape[1]))
        middle, raw = raw[:, :1], raw[:, 1:]
        slope = torch.exp(self._largest * torch.tanh(raw / self._largest))
        rise = (2 * self.bound / self.degree) * slope
        ends = torch.cat((torch.zeros_like(middle), rise.cumsum(1)), 1)
        return middle + ends - ends[:, -1:] / 2, slope

    def _inside(self, x: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        theta, slope = coefficients
        u = ((x + self.bound) / (2 * self.bound)).unsqueeze(1)
        rows = torch.stack((theta[:, :-1], theta[:, 1:], slope))
        for _ in range(self.degree - 1):
            rows = torch.lerp(rows[:, :, :-1], rows[:, :, 1:], u)
        below, above, slope = rows.squeeze(2)
        return torch.lerp(below, above, u.squeeze(1)), slope


class SumOfSquares(Boxed):
    """The integral of a sum of squares of polynomials.

        z = t + int_0^x [m + (1 - m) sum_k p_k(y / B)^2] dy,    p_k(u) = sum_l a_kl T_l(u),  l <= r

    Two squares are enough for every polynomial of degree 2r + 1 whose slope is at least m. In
    Chebyshev's polynomials, |T_l| <= 1, the slope is in [m, m + (1 - m) sum_k (sum_l |a_kl|)^2].
    Gauss's rule with r + 1 points integrates the degree 2r without error.

    Jaini, Selby & Yu, "Sum-of-Squares Polynomial Flow" (2019), eq. 12; there in powers of x on the
    whole line.

    The conditioner gives t and raw numbers that move each coefficient by A at most. All zero is
    close to the identity: p_1 = 1, the others a tenth of T_1, T_2, ... (equal ones would never
    part, and zeros never move).

    Args:
        degree: r.
        squares: how many polynomials.
        bound: half the width of the box, B.
        min_slope: the smallest slope, m.
        largest: how far a coefficient may move, A.
    """

    def __init__(
        self,
        degree: int = 4,
        squares: int = 2,
        bound: float = 5.0,
        min_slope: float = 1e-2,
        largest: float = 1.0,
    ):
        super().__init__(bound)
        if degree < 1 or squares < 1:
            raise ValueError(
                f"sums of squares need polynomials, one or more, of degree 1 or more: "
                f"got {squares} of degree {degree}"
            )
        if not 0 < min_slope < 1:
            raise ValueError(f"min_slope must be in (0, 1), got {min_slope}")
        if not largest > 0:
            raise ValueError(f"the largest move of a coefficient must be positive, got {largest}")
        self.degree, self.squares = degree, squares
        self.min_slope, self.largest = min_slope, largest
        self.planes = squares * (degree + 1) + 1
        nodes, weights = np.polynomial.legendre.leggauss(degree + 1)
        self._nodes, self._weights = ((nodes + 1) / 2).tolist(), (weights / 2).tolist()

    def _coefficients(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The shift, (batch, channels, *rest), and a: (batch, squares, r + 1, channels, *rest)."""
        raw = parameters.to(x.dtype).unflatten(1, (self.planes, x.shape[1]))
        a = raw[:, 1:].unflatten(1, (self.squares, self.degree + 1))
        a = self.largest * torch.tanh(a / self.largest)
        start = x.new_zeros(self.squares, self.degree + 1)
        start[0, 0] = 1.0
        for k in range(1, self.squares):
            start[k, (k - 1) % self.degree + 1] = 0.1
        return raw[:, 0], a + start.view(*start.shape, *(1,) * (x.dim() - 1))

    def _inside(self, x: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        shift, a = coefficients
        u = x / self.bound
        nodes, weights = u.new_tensor(self._nodes), u.new_tensor(self._weights)
        # the last point is u itself, for the slope
        points = torch.cat((u.unsqueeze(-1) * nodes, u.unsqueeze(-1)), -1)
        slope = self._slope(points, a)
        return shift + x * (slope[..., :-1] * weights).sum(-1), slope[..., -1]

    def _slope(self, u: Tensor, a: Tensor) -> Tensor:
        """The integrand at u: (batch, channels, *rest, points)."""
        before, now = torch.ones_like(u), u
        values = a[:, :, 0, ..., None] + a[:, :, 1, ..., None] * now.unsqueeze(1)
        for power in range(2, self.degree + 1):
            before, now = now, 2 * u * now - before
            values = values + a[:, :, power, ..., None] * now.unsqueeze(1)
        return self.min_slope + (1 - self.min_slope) * values.square().sum(1)
