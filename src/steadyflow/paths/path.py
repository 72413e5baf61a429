"""Probability paths from data to noise, and the one coordinate in which they are all the same.

    x_t = a(t) x_0 + s(t) e,   e ~ N(0, I)                          t grows from data to noise
    score = -noise / s,   velocity dx/dt = a' data + s' noise       data = E[x_0|x_t], noise alike

Divided by its scale a state depends on the ratio s/a alone, so that every path is one ODE. With w
the standard deviation of the data and the angle phi = atan2(s, a w), which is 0 at the data and
pi/2 at the noise,

    u = x_t / r,  r = sqrt(a^2 w^2 + s^2)                  has unit variance everywhere
    du/dphi = v = cos(phi) noise - sin(phi) data / w       log p_x = log p_u - D log r

which is regular at both ends. The prediction of v is EDM's preconditioned network. Any loss on
any prediction is a weight times the error of v: to change the path is to change a word, those of
`paths.schedules`.

Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations" (2021);
Karras, Aittala, Aila & Laine, "Elucidating the Design Space of Diffusion-Based Generative Models"
(2022), table 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
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
