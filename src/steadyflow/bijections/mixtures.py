"""Mixtures of logistics as a transform: smooth, unbounded, with straight tails.

    F(x) = sum_k pi_k sigmoid(u_k),   u_k = (x - mu_k) / s_k
    z    = (1 - m) logit F(x) + m x

Ho, Chen, Srinivas, Duan & Abbeel, "Flow++" (2019), sec. 3.2, with the straight line m x added:
the sigmoidal transform of Huang, Krueger, Lacoste & Courville, "Neural Autoregressive Flows"
(2018), eq. 8-9, with one hidden layer. Integrated networks cost a quadrature a value: here
everything is closed but the inverse.

The slope is in [m, (1 - m) / min s + m]. Below: logit F increases. Above: y -> y (1 - y) is
concave, so sum_k pi_k sigmoid'(u_k) / s_k <= F (1 - F) / min s. The inverse starts from a proven
bracket: logit F lies between the smallest and the largest u_k, so the root lies between the
smallest and the largest root of (1 - m) u_k + m x = z, which are those of straight lines.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from steadyflow.bijections.bijection import Transformed, sum_event
from steadyflow.bijections.roots import invert
from steadyflow.bijections.transforms import Transform


class MixtureOfLogistics(Transform):
    """z = (1 - m) logit(mixture of logistic distribution functions) + m x.

    The conditioner gives K raw weights, K shifts of the means and K raw log-scales. All zero is
    close to the identity: means spread over [-1/2, 1/2] (equal ones would never part), scales 1.

    The inverse is bisection speeded up by Newton's steps, to the precision of the arithmetic.

    Args:
        components: number of logistics, K.
        bound: the bound on |log s|.
        min_slope: the smallest slope, m.
    """

    def __init__(self, components: int = 8, bound: float = 3.0, min_slope: float = 1e-2):
        if components < 1:
            raise ValueError(f"a mixture needs at least 1 component, got {components}")
        if not bound > 0:
            raise ValueError(f"the bound of a log-scale must be positive, got {bound}")
        if not 0 < min_slope < 1:
            raise ValueError(f"min_slope must be in (0, 1), got {min_slope}")
        self.components, self.bound, self.min_slope = components, bound, min_slope
        self.planes = 3 * components

    def forward(self, x: Tensor, parameters: Tensor) -> Transformed:
        """Maps x: (batch, channels, *rest)."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        z, log_slope = self._value(wide, *self._mixture(wide, parameters))
        return z.to(x.dtype), sum_event(log_slope)

    def inverse(self, z: Tensor, parameters: Tensor) -> Transformed:
        """Maps back, by iteration."""
        wide = z.to(torch.promote_types(z.dtype, torch.float32))
        mixture = self._mixture(wide, parameters)
        x, log_slope = invert(self._value, wide, *self._bracket(wide, *mixture), *mixture)
        return x.to(z.dtype), -sum_event(log_slope)

    def _mixture(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights, means and log-scales, each (batch, K, channels, *rest)."""
        raw = parameters.to(x.dtype).unflatten(1, (self.planes, x.shape[1]))
        weights, means, scales = raw.chunk(3, 1)
        spread = torch.linspace(-0.5, 0.5, self.components, dtype=x.dtype, device=x.device)
        spread = spread.view(-1, *(1,) * (x.dim() - 1))
        return weights.log_softmax(1), means + spread, self.bound * torch.tanh(scales / self.bound)

    def _value(
        self, x: Tensor, log_weight: Tensor, mean: Tensor, log_scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The value and the logarithm of its slope."""
        m = self.min_slope
        u = (x.unsqueeze(1) - mean) * torch.exp(-log_scale)
        below, above = F.logsigmoid(u), F.logsigmoid(-u)
        log_cdf = (log_weight + below).logsumexp(1)
        log_rest = (log_weight + above).logsumexp(1)
        log_pdf = (log_weight + below + above - log_scale).logsumexp(1)
        slope = (1 - m) * torch.exp(log_pdf - log_cdf - log_rest) + m
        return (1 - m) * (log_cdf - log_rest) + m * x, slope.log()

    @torch.no_grad()
    def _bracket(self, z: Tensor, *mixture: Tensor) -> tuple[Tensor, Tensor]:
        """Two points with the x of value z between them."""
        m, (_, mean, log_scale) = self.min_slope, mixture
        steep = (1 - m) * torch.exp(-log_scale)
        lines = (z.unsqueeze(1) + steep * mean) / (steep + m)
        return lines.amin(1), lines.amax(1)
