"""Probability paths from data to noise, and the one coordinate in which they are all the same.

    x_t = a(t) x_0 + s(t) e,   e ~ N(0, I)                          t grows from data to noise
    score = -noise / s,   velocity dx/dt = a' data + s' noise       data = E[x_0|x_t], noise alike

Divided by its scale a state depends on the ratio s/a alone, so that every path is one ODE. With w
the standard deviation of the data and the angle phi = atan2(s, a w), which is 0 at the data and
pi/2 at the noise,

    u = x_t / r,  r = sqrt(a^2 w^2 + s^2)                  has unit variance everywhere
    du/dphi = v = cos(phi) noise - sin(phi) data / w       log p_x = log p_u - D log r

which is regular at both ends. The prediction of v is EDM's preconditioned network. Any loss on
any prediction is a weight times the error of v: to change the path is to change a word.

Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations" (2021);
Karras, Aittala, Aila & Laine, "Elucidating the Design Space of Diffusion-Based Generative Models"
(2022), table 1; Lipman et al., "Flow Matching for Generative Modeling" (2023); Ho, Jain & Abbeel
(2020) for the betas; Nichol & Dhariwal (2021) for the cosine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from numpy.polynomial import Chebyshev
from torch import Tensor

from steadyflow.errors import unknown
from steadyflow.tracing import recording

KINDS = ("data", "noise", "score", "velocity", "v")
LOSSES = ("noise", "data", "v", "edm", "velocity", "likelihood")


class Prediction(NamedTuple):
    """What a network believes of x_t: E[x_0 | x_t] and E[e | x_t], both (batch, *event)."""

    data: Tensor
    noise: Tensor


class Turn(NamedTuple):
    """A time in the canonical coordinate: phi with its cosine and sine, each () or (batch,)."""

    angle: Tensor
    cos: Tensor
    sin: Tensor


class Path:
    """A Gaussian path: scales a(t) and s(t) for t in [t_min, t_max], all in float64.

    A subclass defines `scales`, `rates` and `time`.

    Attributes:
        t_min: the end at the data.
        t_max: the end at the noise.
    """

    t_min = 1e-3
    t_max = 1.0

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """a(t) and s(t)."""
        raise NotImplementedError

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """da/dt and ds/dt."""
        raise NotImplementedError

    def time(self, ratio: Tensor) -> Tensor:
        """The t at which s/a has this value."""
        raise NotImplementedError

    def ratio(self, t: float | Tensor) -> Tensor:
        """s/a at t, which grows with t."""
        a, s = self.scales(self.check(t))
        return s / a

    def angle(self, t: float | Tensor, width: float = 1.0) -> Tensor:
        """Phi = atan2(s, a w) at t."""
        a, s = self.scales(self.check(t))
        return torch.atan2(s, a * width)

    def size(self, t: float | Tensor, width: float = 1.0) -> Tensor:
        """sqrt(a^2 w^2 + s^2): the standard deviation of x_t for data of standard deviation w."""
        a, s = self.scales(self.check(t))
        return torch.hypot(a * width, s)

    def mix(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of data and noise (batch, *event) at times (batch,)."""
        a, s = (rows(c, data) for c in self.scales(self.check(t)))
        return a * data + s * noise

    def predict(self, kind: str, value: Tensor, x: Tensor, t: float | Tensor) -> Prediction:
        """Data and noise out of any of the field's predictions.

        Args:
            kind: 'data', 'noise', 'score', 'velocity' or 'v' (a e - s x_0, over sqrt(a^2 + s^2)).
            value: the prediction, (batch, *event).
            x: the state x_t, (batch, *event).
            t: () or (batch,).
        """
        t = self.check(t)
        a, s = (rows(c, x) for c in self.scales(t))
        if kind == "data":
            return Prediction(value, (x - a * value) / s)
        if kind == "noise":
            return Prediction((x - s * value) / a, value)
        if kind == "score":
            return Prediction((x + s * s * value) / a, -s * value)
        if kind == "velocity":
            da, ds = (rows(c, x) for c in self.rates(t))
            turn = a * ds - s * da
            return Prediction((ds * x - s * value) / turn, (a * value - da * x) / turn)
        if kind == "v":
            r = torch.sqrt(a * a + s * s)
            return Prediction((a * x / r - s * value) / r, (s * x / r + a * value) / r)
        raise unknown("prediction", kind, KINDS)

    def express(self, kind: str, made: Prediction, t: float | Tensor) -> Tensor:
        """A prediction as 'data', 'noise', 'score', 'velocity' or 'v'."""
        t = self.check(t)
        a, s = (rows(c, made.data) for c in self.scales(t))
        if kind == "data":
            return made.data
        if kind == "noise":
            return made.noise
        if kind == "score":
            return -made.noise / s
        if kind == "velocity":
            da, ds = (rows(c, made.data) for c in self.rates(t))
            return da * made.data + ds * made.noise
        if kind == "v":
            return (a * made.noise - s * made.data) / torch.sqrt(a * a + s * s)
        raise unknown("prediction", kind, KINDS)

    def weight(self, loss: str, t: Tensor, width: float = 1.0) -> Tensor:
        """What |error of v|^2 is multiplied with for each of the field's losses, (batch,).

        Args:
            loss: 'noise' (the simple loss of DDPM), 'data', 'v' or 'edm' (EDM's weighting: the
                same), 'velocity' (conditional flow matching), or 'likelihood' (a bound on the
                negative log-likelihood, up to a constant, in expectation over uniform t).
            t: (batch,).
            width: standard deviation of the data.
        """
        return self.weigh(loss, self.check(t), self.turn(t, width), width)

    def turn(self, t: Tensor, width: float = 1.0) -> Turn:
        """Where in the canonical coordinate t is; not checked, for it is what training does."""
        a, s = self.scales(t)
        a = a if width == 1.0 else a * width
        size = torch.hypot(a, s)
        return Turn(torch.atan2(s, a), a / size, s / size)

    def weigh(self, loss: str, t: Tensor, turn: Turn, width: float = 1.0) -> Tensor:
        """`weight` at a turn that is known already."""
        if loss not in LOSSES:
            raise unknown("loss", loss, LOSSES)
        _, cos, sin = turn
        if loss in ("v", "edm"):
            return torch.ones_like(t)
        if loss == "noise":
            return cos * cos
        if loss == "data":
            return (width * sin) ** 2
        da, ds = self.rates(t)
        if loss == "velocity":
            return (ds * cos - da * width * sin) ** 2
        a, s = self.scales(t)
        return (ds / s - da / a) * cos * cos

    def field(self, denoise: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The ODE in the path's own coordinates, f(t, x), out of E[x_0 | y] = denoise(y, s/a)."""

        def velocity(t: Tensor, x: Tensor, *args: Any) -> Tensor:
            a, s = self.scales(t)
            data = denoise(x / rows(a, x), s / a, *args)
            made = Prediction(data, (x - rows(a, x) * data) / rows(s, x))
            return self.express("velocity", made, t)

        return velocity

    def check(self, t: float | Tensor) -> Tensor:
        """Times as float64, if they lie in the path's range."""
        t = torch.as_tensor(t, dtype=torch.float64)
        slack = 1e-9 * (1 + abs(self.t_max))
        if t.numel() and not recording():
            low, high = float(t.min()), float(t.max())
            if not (low >= self.t_min - slack and high <= self.t_max + slack):
                raise ValueError(
                    f"times of this {type(self).__name__} path lie in "
                    f"[{self.t_min:g}, {self.t_max:g}], got {low:g} to {high:g}"
                )
        return t

    def _range(self, t_min: float, t_max: float, lowest: float, highest: float) -> None:
        if not (lowest <= t_min < t_max <= highest):
            raise ValueError(
                f"t_min and t_max of this {type(self).__name__} path must lie in order in "
                f"[{lowest:g}, {highest:g}], got {t_min} and {t_max}"
            )
        self.t_min, self.t_max = float(t_min), float(t_max)


class VariancePreserving(Path):
    """a = exp(-B(t)/2), s = sqrt(1 - a^2), B the integral of beta(t) from beta_min to beta_max."""

    def __init__(
        self,
        *,
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        t_min: float = 1e-3,
        t_max: float = 1.0,
    ):
        if not 0 < beta_min <= beta_max:
            raise ValueError(f"betas must be positive and in order, got {beta_min}, {beta_max}")
        self._range(t_min, t_max, 0.0, 1.0)
        self.beta_min, self.beta_max = beta_min, beta_max

    def _total(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + t * (self.beta_max - self.beta_min) / 2)

    def _beta(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def _when(self, total: Tensor) -> Tensor:
        """The t at which B(t) has this value."""
        b, slope = self.beta_min, self.beta_max - self.beta_min
        return 2 * total / (b + torch.sqrt(b * b + 2 * slope * total))

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """exp(-B/2) and sqrt(1 - exp(-B))."""
        total = self._total(t)
        return torch.exp(-total / 2), torch.sqrt(-torch.expm1(-total))

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """-a beta / 2 and a^2 beta / 2s."""
        a, s = self.scales(t)
        beta = self._beta(t)
        return -a * beta / 2, a * a * beta / (2 * s)

    def time(self, ratio: Tensor) -> Tensor:
        """B(t) = log(1 + ratio^2)."""
        return self._when(torch.log1p(ratio**2))


class SubVariancePreserving(VariancePreserving):
    """a as in the variance preserving path, s = 1 - a^2."""

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """exp(-B/2) and 1 - exp(-B)."""
        total = self._total(t)
        return torch.exp(-total / 2), -torch.expm1(-total)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """-a beta / 2 and a^2 beta."""
        a, _ = self.scales(t)
        beta = self._beta(t)
        return -a * beta / 2, a * a * beta

    def time(self, ratio: Tensor) -> Tensor:
        """Ratio = 1/a - a = 2 sinh(B/2)."""
        return self._when(2 * torch.asinh(ratio / 2))


class VarianceExploding(Path):
    """a = 1, s = s_min (s_max / s_min)^t."""

    def __init__(self, *, sigma_min: float = 0.01, sigma_max: float = 50.0):
        _sigmas(sigma_min, sigma_max)
        self.sigma_min, self._log = sigma_min, math.log(sigma_max / sigma_min)
        self.t_min, self.t_max = 0.0, 1.0

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """1 and s_min (s_max / s_min)^t."""
        return torch.ones_like(t), self.sigma_min * torch.exp(self._log * t)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """0 and s log(s_max / s_min)."""
        return torch.zeros_like(t), self._log * self.scales(t)[1]

    def time(self, ratio: Tensor) -> Tensor:
        """log(ratio / s_min) / log(s_max / s_min)."""
        return torch.log(ratio / self.sigma_min) / self._log


class EDM(Path):
    """a = 1, s = t: the noise itself is the time."""

    def __init__(self, *, sigma_min: float = 0.002, sigma_max: float = 80.0):
        _sigmas(sigma_min, sigma_max)
        self.t_min, self.t_max = sigma_min, sigma_max

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """1 and t."""
        return torch.ones_like(t), t

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """0 and 1."""
        return torch.zeros_like(t), torch.ones_like(t)

    def time(self, ratio: Tensor) -> Tensor:
        """The ratio itself."""
        return ratio


class Heat(Path):
    """The heat equation dp/dt = D laplace(p): a = 1, s = sqrt(2 D t)."""

    def __init__(
        self, *, diffusivity: float = 1.0, sigma_min: float = 0.002, sigma_max: float = 80.0
    ):
        _sigmas(sigma_min, sigma_max)
        if not diffusivity > 0:
            raise ValueError(f"the diffusivity must be above 0, got {diffusivity}")
        self.diffusivity = diffusivity
        self.t_min = sigma_min**2 / (2 * diffusivity)
        self.t_max = sigma_max**2 / (2 * diffusivity)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """1 and sqrt(2 D t)."""
        return torch.ones_like(t), torch.sqrt(2 * self.diffusivity * t)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """0 and D / s."""
        return torch.zeros_like(t), self.diffusivity / self.scales(t)[1]

    def time(self, ratio: Tensor) -> Tensor:
        """ratio^2 / 2D."""
        return ratio**2 / (2 * self.diffusivity)


class Cosine(Path):
    """a = cos(pi t / 2), s = sin(pi t / 2): the angle is the time."""

    def __init__(self, *, t_min: float = 1e-3, t_max: float = 1.0):
        self._range(t_min, t_max, 0.0, 1.0)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine."""
        return torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * t)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Their derivatives."""
        a, s = self.scales(t)
        return -math.pi / 2 * s, math.pi / 2 * a

    def time(self, ratio: Tensor) -> Tensor:
        """atan(ratio) 2 / pi."""
        return torch.atan(ratio) * 2 / math.pi


class Straight(Path):
    """a = 1 - t, s = t: the straight line of flow matching and rectified flow.

    (The papers of flow matching let time run from noise to data; here, as on every path, t = 0 is
    the data.)
    """

    def __init__(self, *, t_min: float = 0.0, t_max: float = 1.0):
        self._range(t_min, t_max, 0.0, 1.0)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """1 - t and t."""
        return 1 - t, t

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """-1 and 1."""
        return -torch.ones_like(t), torch.ones_like(t)

    def time(self, ratio: Tensor) -> Tensor:
        """Ratio / (1 + ratio)."""
        return ratio / (1 + ratio)


class DDPM(VariancePreserving):
    """a_i^2 = prod_{j<=i} (1 - beta_j), s_i^2 = 1 - a_i^2 at t = i / T, i = 1, ..., T.

    Between its times the sum of the log(1 - beta_j) is continued by the polynomial that it is in
    i, so that ODE solvers have a smooth path through the discrete one.

    Args:
        beta_min: the first beta.
        beta_max: the last one; those between lie evenly.
        levels: T.
    """

    def __init__(self, *, beta_min: float = 1e-4, beta_max: float = 0.02, levels: int = 1000):
        if not (0 < beta_min <= beta_max < 1 and levels >= 2):
            raise ValueError(
                "betas must lie in order in (0, 1) and levels be at least 2, "
                f"got {beta_min}, {beta_max} and {levels}"
            )
        betas = torch.linspace(beta_min, beta_max, levels, dtype=torch.float64)
        self._totals = -torch.log1p(-betas).cumsum(0)
        t = torch.arange(1, levels + 1, dtype=torch.float64) / levels
        degree = min(24, levels - 1)
        # B(t) / t has no zero, so that the fit is exact to rounding also at small t
        fit = Chebyshev.fit(t.numpy(), (self._totals / t).numpy(), degree, domain=[0.0, 1.0])
        self._mean, self._slope = torch.tensor(fit.coef), torch.tensor(fit.deriv().coef)
        self.levels = levels
        self.t_min, self.t_max = 1 / levels, 1.0

    def _total(self, t: Tensor) -> Tensor:
        return t * _chebyshev(self._mean, t)

    def _beta(self, t: Tensor) -> Tensor:
        return _chebyshev(self._mean, t) + t * _chebyshev(self._slope, t)

    def _when(self, total: Tensor) -> Tensor:
        totals = self._totals.to(total.device)
        right = torch.searchsorted(totals, total.contiguous()).clamp(1, self.levels - 1)
        share = (total - totals[right - 1]) / (totals[right] - totals[right - 1])
        t = (right + share) / self.levels
        for _ in range(3):  # Newton's method, from a thousandth away
            t = t - (self._total(t) - total) / self._beta(t)
        return t


def _chebyshev(coefficients: Tensor, t: Tensor) -> Tensor:
    """A Chebyshev series on [0, 1]."""
    turn = torch.acos((2 * t - 1).clamp(-1, 1))
    order = torch.arange(len(coefficients), device=t.device, dtype=torch.float64)
    return (torch.cos(turn[..., None] * order) * coefficients.to(t.device)).sum(-1)


PATHS: dict[str, type[Path]] = {
    "vp": VariancePreserving,
    "sub-vp": SubVariancePreserving,
    "ve": VarianceExploding,
    "edm": EDM,
    "heat": Heat,
    "cosine": Cosine,
    "ddpm": DDPM,
    "straight": Straight,
}


def make_path(name: str, **options: Any) -> Path:
    """A path by its name; an unknown one suggests the nearest.

    Example:
        >>> make_path("edm").ratio(2.0).item()
        2.0
    """
    if name not in PATHS:
        raise unknown("path", name, PATHS)
    return PATHS[name](**options)


def canonical_field(denoise: Callable[..., Tensor], width: float = 1.0) -> Callable[..., Tensor]:
    """du/dphi = v(phi, u), the one ODE of every path, out of E[x_0 | y] = denoise(y, s/a)."""

    def field(phi: Tensor, u: Tensor, *args: Any) -> Tensor:
        ratio = width * torch.tan(phi)
        cos, sin = rows(torch.cos(phi), u), rows(torch.sin(phi), u)
        data = denoise(u * width / cos, ratio, *args) / width
        return cos * (u - cos * data) / sin - sin * data

    return field


def rows(values: Tensor, like: Tensor) -> Tensor:
    """() or (batch,) as it multiplies like: (batch, *event), in its dtype."""
    values = values.to(like.device, like.dtype)
    return values.view(-1, *(1,) * (like.dim() - 1)) if values.dim() else values


def _sigmas(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"sigma_min and sigma_max must be above 0 and in order, got {sigma_min}, {sigma_max}: "
            "at 0 the score of data on a line or at points is infinite"
        )
