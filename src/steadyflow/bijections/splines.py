"""Monotone rational-quadratic splines, whose smallest slope is a proven bound.

A box [-B, B] is cut into K bins of widths w_k and heights h_k. In a bin with secant slope
s = h / w and knot slopes d0, d1, with xi = (x - X) / w in [0, 1] and p = xi (1 - xi),

    z   = Y + h (s xi^2 + d0 p) / (s + (d0 + d1 - 2 s) p)
    z'  = s^2 (d1 xi^2 + 2 s p + d0 (1 - xi)^2) / (s + (d0 + d1 - 2 s) p)^2

Durkan, Bekasov, Murray & Papamakarios, "Neural Spline Flows" (2019), eq. 4-5; Gregory & Delbourgo
(1982). The inverse solves a quadratic. With eta = (z - Y) / h, a = d0/s, b = d1/s and
beta = a - eta (a + b - 2) it is (1 - beta) xi^2 + beta xi = eta, whose discriminant
(beta - 2 eta)^2 + 4 eta (1 - eta) is a sum of two terms that can not be negative.

**The bound.** If every knot slope d lies in [delta, s^2 / delta] for both bins that it joins, then
z' >= delta everywhere. Proof. Write q = 1 - xi and e = delta / s, so that a and b are in [e, 1/e],
N = b xi^2 + 2 xi q + a q^2 and D = xi^2 + q^2 + (a + b) xi q. Then z' = s N / D^2, and
N - e D^2 >= 0 is to be shown. N is linear in (a, b) and D^2 convex, so N - e D^2 is concave and
smallest at a corner of the square. At (e, 1/e), N = (xi + e q)^2 / e and
D = (xi + e q)(e xi + q) / e, so N / D^2 = e / (e xi + q)^2 >= e; (1/e, e) is its mirror image. At
(e, e), N >= e and D <= 1. At (1/e, 1/e) put c = 1/e and t = 2 (c - 1) p, in [0, (c - 1) / 2]:
N = c - t, D = 1 + t, and c N - D^2 falls with t, to (c^2 - 1) / 4 >= 0. QED

Here h_k = m w_k + (1 - m) softmax_k, so that s >= m; and d = H phi, where H is the harmonic mean
of the two secant slopes (between their minimum and twice it) and phi is in
[delta / m, m / (2 delta)]. With m = sqrt(delta) the slope 1 of the tails is allowed too. Libraries
that bound knots and bins apart, 'at least 1e-3', let the slope inside a bin fall to 1e-7, and
their inverses break there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from steadyflow.bijections import fused_splines
from steadyflow.bijections.bijection import Transformed, sum_event
from steadyflow.bijections.transforms import Transform
from steadyflow.errors import unknown

TAILS = ("unit", "free", "circular")


class RationalQuadraticSpline(Transform):
    """A monotone spline from [-bound, bound] onto itself, with straight tails outside.

    The conditioner gives, for each variable, K raw widths, K raw heights and the raw slopes of the
    inner knots; all zero is the identity. No slope is below `min_slope`, whatever the parameters,
    so that the inverse is as stable as the arithmetic: a round trip in float32 loses at most about
    1e-6 / min_slope.

    Args:
        bins: number of bins, K.
        bound: half the width of the box, B.
        tails: 'unit' continues with slope 1 outside the box; 'free' with slopes of its own, two
            more parameters.
        min_slope: the smallest slope, delta.
        min_width: the smallest width of a bin, as a part of the box.

    Example:
        >>> import torch
        >>> spline = RationalQuadraticSpline(bins=4)
        >>> x = torch.tensor([[-7.0, 0.5]])
        >>> z, log_det = spline.forward(x, torch.zeros(1, 2 * spline.planes))
        >>> z, log_det
        (tensor([[-7.0000,  0.5000]]), tensor([0.]))
    """

    def __init__(
        self,
        bins: int = 8,
        bound: float = 5.0,
        tails: str = "unit",
        min_slope: float = 1e-3,
        min_width: float = 1e-2,
    ):
        if tails not in TAILS:
            raise unknown("kind of tails", tails, TAILS)
        if bins < 2:
            raise ValueError(f"a spline needs at least 2 bins, got {bins}")
        if not bound > 0:
            raise ValueError(f"the bound of a spline must be positive, got {bound}")
        if not 0 < min_slope <= 0.1:
            raise ValueError(f"min_slope must be in (0, 0.1], got {min_slope}")
        if not 0 < min_width * bins < 1:
            raise ValueError(
                f"{bins} bins of at least {min_width} of the box do not fit: lower min_width"
            )
        self.bins, self.bound, self.tails = bins, float(bound), tails
        self.min_slope, self.min_width = min_slope, min_width
        self.planes = 2 * bins + {"unit": bins - 1, "free": bins + 1, "circular": bins}[tails]
        self.min_secant = math.sqrt(min_slope)
        self.low, self.high = min_slope / self.min_secant, self.min_secant / (2 * min_slope)
        self.offset = math.log((1 - self.low) / (self.high - 1))  # phi = 1 at a raw slope of 0

    def forward(self, x: Tensor, parameters: Tensor) -> Transformed:
        """Maps x: (batch, channels, *rest) through the spline."""
        return self._apply_to(x, parameters, inverse=False)

    def inverse(self, z: Tensor, parameters: Tensor) -> Transformed:
        """Maps back, by the root of a quadratic whose discriminant can not be negative."""
        return self._apply_to(z, parameters, inverse=True)

    def _apply_to(self, x: Tensor, parameters: Tensor, inverse: bool) -> Transformed:
        fast = fused_splines.attempt(self, x, parameters, inverse)
        return self.plain(x, parameters, inverse) if fast is None else fast

    def plain(self, x: Tensor, parameters: Tensor, inverse: bool) -> Transformed:
        """The definition, in torch's own operations."""
        wide, knots = self._knots(x, parameters)
        inside = wide.abs() < self.bound
        left, width, bottom, height, d0, d1 = _bin(wide, knots, axis=1 if inverse else 0)
        secant = height / width
        if inverse:
            xi = _root(((wide - bottom) / height).clamp(0, 1), d0 / secant, d1 / secant)
        else:
            xi = ((wide - left) / width).clamp(0, 1)
        z, log_slope = _value(xi, bottom, height, secant, d0, d1)
        if inverse:
            z, log_slope = left + width * xi, -log_slope
        if self.tails == "free":
            tail, log_tail = self._tails(wide, knots, inverse)
        else:
            tail, log_tail = wide, torch.zeros_like(log_slope)
        z, log_slope = torch.where(inside, z, tail), torch.where(inside, log_slope, log_tail)
        return z.to(x.dtype), sum_event(log_slope)

    def _knots(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Left, width, bottom, height, slopes of the bins: (6, batch, bins, channels, *rest)."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        raw = parameters.to(wide.dtype).unflatten(1, (self.planes, x.shape[1]))
        k, box = self.bins, 2 * self.bound
        share = raw[:, : 2 * k].unflatten(1, (2, k)).softmax(2)
        width = torch.add(self.min_width * box, share[:, 0], alpha=box * (1 - k * self.min_width))
        height = width * self.min_secant + share[:, 1] * (box * (1 - self.min_secant))
        left = width.cumsum(1) - width - self.bound
        bottom = height.cumsum(1) - height - self.bound
        slopes = self._slopes(height / width, raw[:, 2 * k :])
        return wide, torch.stack((left, width, bottom, height, slopes[:, :-1], slopes[:, 1:]))

    def _slopes(self, secant: Tensor, raw: Tensor) -> Tensor:
        """The slopes at the K + 1 knots."""
        phi = self.low + (self.high - self.low) * torch.sigmoid(raw + self.offset)
        first, second = secant[:, :-1], secant[:, 1:]
        if self.tails == "circular":
            first, second = secant.roll(1, 1), secant
        mean = 2 * first * second / (first + second)
        if self.tails == "unit":
            ones = torch.ones_like(secant[:, :1])
            return torch.cat((ones, mean * phi, ones), 1)
        if self.tails == "free":
            mean = torch.cat((secant[:, :1], mean, secant[:, -1:]), 1)
            return mean * phi
        inner = mean * phi
        return torch.cat((inner, inner[:, :1]), 1)

    def _tails(self, x: Tensor, knots: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """The straight lines outside, with the slopes at the box's edges, and log-slopes."""
        slope = torch.where(x > 0, knots[5, :, -1], knots[4, :, 0])
        slope = 1 / slope if inverse else slope
        edge = x.sign() * self.bound
        return edge + (x - edge) * slope, slope.log()


class CircularSpline(Transform):
    """A monotone spline of the circle: angles in [-pi, pi) to angles, turned by a learned angle.

    The slope is continuous where the circle closes. Angles beyond +-pi count as what they are on
    the circle, and results are in [-pi, pi).

    Rezende et al., "Normalizing Flows on Tori and Spheres" (2020), sec. 2.1.3.

    Args:
        bins: number of bins.
        min_slope: the smallest slope.
        min_width: the smallest width of a bin, as a part of the circle.
    """

    def __init__(self, bins: int = 8, min_slope: float = 1e-3, min_width: float = 1e-2):
        self.spline = RationalQuadraticSpline(bins, math.pi, "circular", min_slope, min_width)
        self.planes = self.spline.planes + 1

    def forward(self, x: Tensor, parameters: Tensor) -> Transformed:
        """Turns the circle, then bends it."""
        knots, angle = self._split(x, parameters)
        return self.spline.forward(wrap(x + angle), knots)

    def inverse(self, z: Tensor, parameters: Tensor) -> Transformed:
        """Bends back, then turns back."""
        knots, angle = self._split(z, parameters)
        x, log_det = self.spline.inverse(wrap(z), knots)
        return wrap(x - angle), log_det

    def _split(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        channels = x.shape[1]
        return parameters[:, channels:], parameters[:, :channels]


def wrap(angle: Tensor) -> Tensor:
    """The same angle in [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def _bin(value: Tensor, knots: Tensor, axis: int) -> tuple[Tensor, ...]:
    """What belongs to the bin of each value: left, width, bottom, height and both slopes.

    Args:
        value: (batch, channels, *rest).
        knots: (6, batch, bins, channels, *rest).
        axis: 0 to look values up among the bins' left edges, 1 among their bottoms.
    """
    edges = knots[2 * axis, :, 1:]
    index = (value.unsqueeze(1) >= edges).sum(1, keepdim=True)
    picked = knots.gather(2, index.expand(6, *index.shape)).squeeze(2)
    return picked.unbind(0)


def _value(
    xi: Tensor, bottom: Tensor, height: Tensor, secant: Tensor, d0: Tensor, d1: Tensor
) -> tuple[Tensor, Tensor]:
    """The spline and the logarithm of its slope at xi in [0, 1] of a bin."""
    rest = 1 - xi
    p = xi * rest
    square = secant * xi * xi
    denominator = secant + (d0 + d1 - 2 * secant) * p
    z = bottom + height * (square + d0 * p) / denominator
    slope = (d1 * xi * xi + 2 * secant * p + d0 * rest * rest) * (secant / denominator).square()
    return z, slope.log()


def _root(eta: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The root xi in [0, 1] of (1 - beta) xi^2 + beta xi = eta, without cancellation."""
    beta = a - eta * (a + b - 2)
    root = ((beta - 2 * eta).square() + 4 * eta * (1 - eta)).sqrt()
    positive = beta > 0
    top = torch.where(positive, 2 * eta, root - beta)
    below = torch.where(positive, beta + root, 2 * (1 - beta))
    return (top / below).clamp(0, 1)
