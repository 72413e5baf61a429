"""Planar and radial flows: one ridge, or one ball, that stretches or squeezes the space.

    planar   z = x + u tanh(w'x + b)               log|det| = log(1 + w'u tanh'(w'x + b))
    radial   z = x + beta (x - c) / (alpha + r)    log|det| = (D - 1) log(1 + beta / (alpha + r))
             r = |x - c|                               + log(1 + alpha beta / (alpha + r)^2)

Rezende & Mohamed, "Variational Inference with Normalizing Flows" (2015), eq. 10-14. Both are
invertible if w'u > -1 and beta > -alpha; here both hold by construction with a margin of 1/100.

The inverse of the planar flow is one equation in one unknown, a + w'u tanh(a) = w'z + b, whose
left side increases; that of the radial flow a quadratic equation for r. Both are exact in every
direction, where the paper has no inverses.

They are weak: one layer has one ridge. They serve small posteriors, whose parameters a network may
give (`context_features`), where draws must be cheap: `Inverse(Planar(D))` draws in one pass. For
densities of data take a coupling or an autoregressive flow.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.bijections.bijection import Bijection, Shape, Transformed, same_shape
from steadyflow.bijections.precision import widened
from steadyflow.bijections.roots import invert
from steadyflow.networks.precision import full_precision

MARGIN = 1e-2  # of 1 + w'u and 1 + beta / alpha above zero: the smallest slope
ZERO = math.log(math.expm1(1 - MARGIN))  # softplus(ZERO) = 1 - MARGIN


class Given(Bijection):
    """A bijection of vectors whose few parameters are learned, or linear in a context.

    Args:
        features: number of variables, D.
        size: number of parameters.
        context_features: length of the context that the parameters depend on; None for none.
    """

    def __init__(self, features: int, size: int, context_features: int | None = None):
        super().__init__()
        if features < 1:
            raise ValueError(f"{type(self).__name__} needs variables, got {features} of them")
        self.features = features
        self.raw = nn.Parameter(0.1 * torch.randn(size))
        self.context = None
        if context_features:
            self.context = nn.Linear(context_features, size, bias=False)
            nn.init.zeros_(self.context.weight)

    def parameters_for(self, x: Tensor, context: Tensor | None) -> Tensor:
        """The parameters of each example of x, (batch, size)."""
        raw = self.raw.to(x.dtype).expand(len(x), -1)
        if self.context is None or context is None:
            return raw
        return raw + self.context(context.to(self.context.weight.dtype)).to(x.dtype)

    def output_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another one than the constructor's."""
        return same_shape(self, (self.features,), event_shape)

    input_shape = output_shape

    def extra_repr(self) -> str:
        """The number of variables, for the printed model."""
        return f"features={self.features}"


class Planar(Given):
    """z = x + u tanh(w'x + b), with w'u above -1.

    Args:
        features: number of variables, D.
        context_features: length of the context that u, w and b depend on; None for none.

    Example:
        >>> import torch
        >>> layer = Planar(3)
        >>> x = torch.randn(5, 3)
        >>> z, log_det = layer(x)
        >>> bool((layer.inverse(z)[0] - x).abs().max() < 1e-5)
        True
    """

    closed_form_inverse = False

    def __init__(self, features: int, context_features: int | None = None):
        super().__init__(features, 2 * features + 1, context_features)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Adds the ridge."""
        with full_precision(x):
            wide = _wide(x)
            u, w, b, inner = self._ridge(wide, context)
            h = torch.tanh((w * wide).sum(1) + b)
            return (wide + u * h[:, None]).to(widened(x).dtype), torch.log1p(inner * (1 - h * h))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Finds where along w the point came from, and takes the ridge away."""
        with full_precision(z):
            wide = _wide(z)
            u, w, b, inner = self._ridge(wide, context)
            along = (w * wide).sum(1) + b
            a, log_slope = invert(
                _ridge_value, along, along - inner.abs(), along + inner.abs(), inner
            )
            return (wide - u * torch.tanh(a)[:, None]).to(widened(z).dtype), -log_slope

    def _ridge(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """u, moved along w so far that the layer is invertible, w, b and w'u."""
        u, w, b = self.parameters_for(x, context).split((self.features, self.features, 1), 1)
        before = (w * u).sum(1)
        part = _share(before)
        along = before / w.square().sum(1).clamp(min=torch.finfo(w.dtype).tiny)
        return u + w * (part * along)[:, None], w, b[:, 0], before * (1 + part)


class Radial(Given):
    """z = x + beta (x - c) / (alpha + |x - c|), with alpha above 0 and beta above -alpha.

    Args:
        features: number of variables, D.
        context_features: length of the context that c, alpha and beta depend on; None for none.
    """

    def __init__(self, features: int, context_features: int | None = None):
        super().__init__(features, features + 2, context_features)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Stretches the distance from the centre."""
        with full_precision(x):
            wide = _wide(x)
            centre, alpha, ratio = self._ball(wide, context)
            away = wide - centre
            r = torch.linalg.vector_norm(away, dim=1)
            z = wide + away * (alpha * ratio / (alpha + r))[:, None]
            return z.to(widened(x).dtype), self._log_det(r, alpha, ratio)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Solves r + beta r / (alpha + r) = |z - c|, a quadratic equation."""
        with full_precision(z):
            wide = _wide(z)
            centre, alpha, ratio = self._ball(wide, context)
            away = wide - centre
            far = torch.linalg.vector_norm(away, dim=1)
            b = alpha * (1 + ratio) - far
            root = (b.square() + 4 * alpha * far).sqrt()
            # the positive root of r^2 + b r = alpha |z - c|, without cancellation
            r = torch.where(b > 0, 2 * alpha * far / (b.abs() + root), (root - b) / 2)
            x = centre + away / (1 + alpha * ratio / (alpha + r))[:, None]
            return x.to(widened(z).dtype), -self._log_det(r, alpha, ratio)

    def _ball(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Centre, alpha and beta / alpha."""
        centre, size, stretch = self.parameters_for(x, context).split((self.features, 1, 1), 1)
        return centre, F.softplus(size[:, 0]) + MARGIN, above_minus_one(stretch[:, 0])

    def _log_det(self, r: Tensor, alpha: Tensor, ratio: Tensor) -> Tensor:
        share = alpha / (alpha + r)
        across = torch.log1p(ratio * share)
        return (self.features - 1) * across + torch.log1p(ratio * share.square())


def above_minus_one(raw: Tensor) -> Tensor:
    """Numbers above MARGIN - 1, increasing in any numbers, 0 at 0."""
    return F.softplus(raw + ZERO) - (1 - MARGIN)


def _share(raw: Tensor) -> Tensor:
    """above_minus_one(raw) / raw - 1, by its series where that would be rounding."""
    near = raw.abs() < torch.finfo(raw.dtype).eps ** (1 / 3)
    safe = torch.where(near, 1, raw)
    slope = 1 - math.exp(MARGIN - 1)  # of above_minus_one at 0
    series = slope - 1 + slope * (1 - slope) / 2 * raw
    return torch.where(near, series, above_minus_one(safe) / safe - 1)


def _ridge_value(a: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    h = torch.tanh(a)
    return a + inner * h, torch.log1p(inner * (1 - h * h))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
