"""The paths of the literature by name: how data fade, a(t), and how noise grows, s(t).

    vp, sub-vp, ve    the stochastic differential equations of Song et al.
    edm, heat         the noise itself as time, or its square
    cosine, straight  a quarter of a circle; a straight line, as in flow matching
    ddpm              the discrete betas, continued between their times

Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations" (2021);
Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models" (2022); Lipman
et al., "Flow Matching for Generative Modeling" (2023); Ho, Jain & Abbeel (2020) for the betas;
Nichol & Dhariwal (2021) for the cosine.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from numpy.polynomial import Chebyshev
from torch import Tensor

from steadyflow.errors import unknown
from steadyflow.paths.path import Path


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


def _sigmas(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"sigma_min and sigma_max must be above 0 and in order, got {sigma_min}, {sigma_max}: "
            "at 0 the score of data on a line or at points is infinite"
        )
