"""Are the latents of data what the base says they are?

A flow that fits its data sends it to its base distribution: every latent variable of held-out data
then follows the base's own law, and their norm follows chi with D degrees of freedom. What remains
of the data's structure shows as a difference. All is measured on Gaussian scores

    s_i = Phi^-1(F_base(z_i))              Phi, F_base: distribution functions

which are standard normal if the base fits: z itself for a normal base.

    KS_i = max_u | F_n(u) - Phi(u) |       Kolmogorov-Smirnov; above 1.63 / sqrt(n) in 1 % of cases
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steadyflow.bases import (
    Base,
    DiagonalNormal,
    HullNormal,
    StandardLogistic,
    StandardNormal,
)
from steadyflow.errors import UsageError
from steadyflow.evaluation import access
from steadyflow.evaluation.access import Model

FEWEST = 8  # examples
KS_ONE_PERCENT = 1.63  # sqrt(n) KS exceeds it in one of a hundred draws (Kolmogorov's limit law)


@dataclasses.dataclass(frozen=True)
class LatentGaussianity:
    """Latents of data against the base. n examples, D latent variables.

    Attributes:
        base: 'normal' or 'logistic', what the model says that its latents are.
        scores: Gaussian scores, (n, D).
        mean: of each variable's scores, (D,); 0 if the base fits.
        std: 1 if the base fits.
        skewness: 0 if the base fits.
        kurtosis: excess kurtosis, 0 if the base fits.
        ks: Kolmogorov-Smirnov distance of each variable to the base, in [0, 1].
        norms: |s| of each example, (n,); chi with D degrees of freedom if the base fits.
        non_finite: examples without finite latents, which are left out of all of these.
    """

    base: str
    scores: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    skewness: np.ndarray
    kurtosis: np.ndarray
    ks: np.ndarray
    norms: np.ndarray
    non_finite: int

    def summary(self) -> dict[str, Any]:
        """The few numbers to look at, as plain values."""
        n, size = self.scores.shape
        chi_mean, chi_std = chi_moments(size)
        return {
            "base": self.base,
            "examples": n,
            "non_finite": self.non_finite,
            "dimensions": size,
            "largest_mean": float(np.abs(self.mean).max()),
            "median_std": float(np.median(self.std)),
            "median_skewness": float(np.median(np.abs(self.skewness))),
            "median_kurtosis": float(np.median(self.kurtosis)),
            "median_ks": float(np.median(self.ks)),
            "largest_ks": float(self.ks.max()),
            "rejected_at_1_percent": float((self.ks > KS_ONE_PERCENT / math.sqrt(n)).mean()),
            "norm_mean": float(self.norms.mean()),
            "norm_std": float(self.norms.std()),
            "chi_mean": chi_mean,
            "chi_std": chi_std,
        }


def latent_gaussianity(
    model: Model, x: Tensor, context: Tensor | None = None, *, batch_size: int = 500, seed: int = 0
) -> LatentGaussianity:
    """Compares the latents of data with the model's base.

    Integer data is dequantised with seeded noise, as in training; the latents of an autoencoder
    are drawn from their posterior.

    Args:
        model: with latents.
        x: (N, *event), at least 8 examples.
        context: (N,) labels or (N, features) vectors, or None.
        batch_size: examples at once.
        seed: of the dequantisation noise.

    Raises:
        UsageError: for fewer than 8 examples with finite latents, a model without latents, or a
            base of another kind.
    """
    flow = access.flow_of(model)
    base = StandardNormal(()) if flow is None else flow.base
    encode = access.posterior_encoder(model)
    parts = []
    with access.at_rest(model, seed):
        for start in range(0, len(x), batch_size):
            c = None if context is None else context[start : start + batch_size]
            z = encode(access.bring(model, x[start : start + batch_size]), c)
            parts.append(gaussian_scores(base, z).flatten(1).cpu())
    everything = torch.cat(parts)
    scores = everything[everything.isfinite().all(1)].numpy()
    if len(scores) < FEWEST:
        raise UsageError(
            f"latents are judged on at least {FEWEST} examples, but of the {len(x)} given "
            f"{len(scores)} have finite latents"
        )
    mean, std = scores.mean(0), scores.std(0)
    centred = (scores - mean) / np.maximum(std, 1e-12)
    return LatentGaussianity(
        base="logistic" if isinstance(base, StandardLogistic) else "normal",
        scores=scores,
        mean=mean,
        std=std,
        skewness=(centred**3).mean(0),
        kurtosis=(centred**4).mean(0) - 3,
        ks=ks_distance(scores),
        norms=np.sqrt((scores**2).sum(1)),
        non_finite=len(everything) - len(scores),
    )


def gaussian_scores(base: Base, z: Tensor) -> Tensor:
    """Phi^-1(F_base(z)) of latents z: (batch, *latent event), in float64."""
    z = z.double()
    if isinstance(base, StandardNormal):
        return z
    if isinstance(base, DiagonalNormal):
        return (z - base.mean.double()) * torch.exp(-base.log_std.double())
    if isinstance(base, HullNormal):
        scores = z * torch.exp(-base.log_width.double())
        return scores[:, base.support.bool()]
    if isinstance(base, StandardLogistic):
        # through the lower tail, which float64 resolves to 1e-308; the upper one ends at 1 - 1e-16
        lower = torch.special.ndtri(torch.sigmoid(-z.abs()).clamp_min(1e-300))
        return torch.where(z > 0, -lower, lower)
    raise UsageError(f"latents of a {type(base).__name__} base can not be judged here yet")


def ks_distance(scores: np.ndarray) -> np.ndarray:
    """Kolmogorov-Smirnov distance of each column of (n, D) to the standard normal, (D,)."""
    n = len(scores)
    ordered = torch.from_numpy(np.sort(scores, axis=0))
    law = torch.special.ndtr(ordered.double()).numpy()
    steps = np.arange(n + 1, dtype=law.dtype)[:, None] / n
    return np.maximum(np.abs(law - steps[:-1]), np.abs(law - steps[1:])).max(0)


def chi_moments(size: int) -> tuple[float, float]:
    """Mean and standard deviation of the norm of a standard normal vector of `size` variables."""
    mean = math.sqrt(2) * math.exp(math.lgamma((size + 1) / 2) - math.lgamma(size / 2))
    return mean, math.sqrt(max(size - mean**2, 0.0))
