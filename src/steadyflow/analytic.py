"""Distributions whose every noise level is known: what solvers and paths are checked against.

p = sum_k w_k N(m_k, C_k)    p * N(0, s^2 I) = sum_k w_k N(m_k, C_k + s^2 I)
E[x_0 | y = x_0 + s e] = sum_k w_k(y) [m_k + C_k (C_k + s^2 I)^-1 (y - m_k)]
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Mixture:
    """A mixture of normals on vectors, with its exact densities, denoisers and samples.

    Args:
        weights: (components,), normalised here.
        means: (components, D).
        covariances: (components, D, D), or (components,) variances of round components.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor):
        means = means.double()
        covariances = covariances.double()
        if covariances.dim() == 1:
            eye = torch.eye(means.shape[1], dtype=torch.float64)
            covariances = covariances[:, None, None] * eye
        self.log_weights = torch.log(weights.double() / weights.sum())
        self.means = means
        self.variances, self.axes = torch.linalg.eigh(covariances)

    def moments(self) -> tuple[Tensor, Tensor]:
        """The mean (D,) and the variance of each variable (D,)."""
        weights = self.log_weights.exp()[:, None]
        mean = (weights * self.means).sum(0)
        each = (self.axes.square() * self.variances[:, None]).sum(2) + self.means.square()
        return mean, (weights * each).sum(0) - mean.square()

    def log_prob(self, y: Tensor, s: float | Tensor = 0.0) -> Tensor:
        """Log-density of y: (batch, D) at noise s: () or (batch,), shape (batch,)."""
        log, _, _ = self._terms(y, s)
        return log.logsumexp(1).to(y.dtype)

    def denoise(self, y: Tensor, s: float | Tensor) -> Tensor:
        """E[x_0 | y], (batch, D)."""
        log, turned, variances = self._terms(y, s)
        kept = (self.variances / variances)[..., None, :] * self.axes  # C (C + s^2)^-1, half done
        each = self.means + torch.einsum("bkij,bkj->bki", kept.expand(len(y), -1, -1, -1), turned)
        return (log.softmax(1)[..., None] * each).sum(1).to(y.dtype)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws (n, D), float64."""
        which = torch.multinomial(self.log_weights.exp(), n, True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        noise = noise * self.variances[which].sqrt()
        return self.means[which] + torch.einsum("nij,nj->ni", self.axes[which], noise)

    def _terms(self, y: Tensor, s: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log w_k N(y; m_k, C_k + s^2), the differences in the axes of C_k, and the variances."""
        s = torch.as_tensor(s, dtype=torch.float64)
        variances = self.variances + (s.reshape(-1, 1, 1) ** 2)
        gap = y.double()[:, None] - self.means
        turned = torch.einsum("kij,bki->bkj", self.axes, gap)
        quadratic = (turned.square() / variances).sum(2)
        log = -0.5 * (quadratic + variances.log().sum(2) + y.shape[1] * math.log(2 * math.pi))
        return log + self.log_weights, turned, variances


def eight_gaussians(radius: float = 5.0, variance: float = 0.1) -> Mixture:
    """Eight round normals on a circle."""
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = radius * torch.stack((torch.cos(angles), torch.sin(angles)), 1)
    return Mixture(torch.ones(8), means, torch.full((8,), variance))
