"""Monotone maps of single variables, whose parameters a conditioner network computes.

    z_i = T(x_i; theta_i)            log|det dz/dx| = sum_i log |dT/dx_i|

The same transforms serve coupling and autoregressive flows: only where theta comes from differs.
The parameters of an event of shape (channels, *rest) come as planes stacked along the channels:
(batch, planes * channels, *rest), the first `channels` of them being the first plane.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from steadyflow.bijections.bijection import Transformed, sum_event, zero_log_det
from steadyflow.errors import unknown


class Transform:
    """An elementwise monotone map with parameters given from outside. Holds no weights.

    Attributes:
        planes: how many parameters each variable needs.
    """

    planes: int

    def forward(self, x: Tensor, parameters: Tensor) -> Transformed:
        """Maps x: (batch, channels, *rest) with parameters: (batch, planes * channels, *rest).

        Returns:
            z: like x, and log_det: (batch,) in nats.
        """
        raise NotImplementedError

    def inverse(self, z: Tensor, parameters: Tensor) -> Transformed:
        """Undoes `forward` with the same parameters; log_det is that of the inverse."""
        raise NotImplementedError


class Additive(Transform):
    """z = x + t. Volume preserving.

    Dinh, Krueger & Bengio, "NICE: Non-linear Independent Components Estimation" (2014), eq. 5.
    """

    planes = 1

    def forward(self, x: Tensor, parameters: Tensor) -> Transformed:
        """Adds the shift."""
        z = x + parameters
        return z, zero_log_det(z)

    def inverse(self, z: Tensor, parameters: Tensor) -> Transformed:
        """Subtracts the shift."""
        x = z - parameters
        return x, zero_log_det(x)


class Affine(Transform):
    """z = x * exp(s) + t,   log_det = sum_i s_i, with a bounded log-scale s = scale(r).

    The conditioner gives (r, t). The log-scale comes from r by name, always in log space:

        'tanh'     s = bound * tanh(r / bound)     in (-bound, bound), slope 1 at zero
        'softsign' s = r / (1 + |r| / bound)       the same range, reached more slowly
        'sigmoid'  s = bound * tanh(logsigmoid(r + 2) / bound)    Glow's; only shrinks
        'exp'      s = r                           unbounded: for comparison with the papers

    A bound keeps the inverse stable: no layer can stretch a distance by more than exp(bound).

    Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP" (2017), eq. 7-8.
    """

    planes = 2

    def __init__(self, scale: str = "tanh", bound: float = 2.0):
        if scale not in LOG_SCALES:
            raise unknown("scale", scale, LOG_SCALES)
        if not bound > 0:
            raise ValueError(f"the bound of a log-scale must be positive, got {bound}")
        self.scale, self.bound = scale, bound
        self._log_scale = LOG_SCALES[scale]

    def log_scale(self, raw: Tensor) -> Tensor:
        """The log-scale s of the conditioner's raw output r, of the same shape."""
        return self._log_scale(raw, self.bound)

    def forward(self, x: Tensor, parameters: Tensor) -> Transformed:
        """Scales, then shifts."""
        raw, shift = parameters.chunk(2, 1)
        s = self.log_scale(raw)
        return torch.addcmul(shift, x, s.exp()), sum_event(s)

    def inverse(self, z: Tensor, parameters: Tensor) -> Transformed:
        """Shifts back, then scales back."""
        raw, shift = parameters.chunk(2, 1)
        s = self.log_scale(raw)
        return (z - shift) * torch.exp(-s), -sum_event(s)


def _tanh(raw: Tensor, bound: float) -> Tensor:
    return torch.tanh(raw / bound) * bound


def _softsign(raw: Tensor, bound: float) -> Tensor:
    return raw / (1 + raw.abs() / bound)


def _sigmoid(raw: Tensor, bound: float) -> Tensor:
    return torch.tanh(F.logsigmoid(raw + 2) / bound) * bound


def _exp(raw: Tensor, bound: float) -> Tensor:
    return raw


LOG_SCALES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "tanh": _tanh,
    "softsign": _softsign,
    "sigmoid": _sigmoid,
    "exp": _exp,
}
