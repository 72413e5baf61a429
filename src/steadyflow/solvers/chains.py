"""Have several Markov chains mixed, and what are their draws worth.

    R-hat^2 = ((n - 1) W + B) / (n W)     W: mean variance within the m half chains of length n,
                                          B: n times the variance of their means
    ESS     = m n / (1 + 2 sum_t rho_t)   rho_t: autocorrelation at lag t over all of them, the sum
                                          cut where its pairs turn negative

Gelman, Carlin, Stern, Dunson, Vehtari & Rubin, "Bayesian Data Analysis" (2013), sec. 11.4-11.5;
Geyer, "Practical Markov Chain Monte Carlo" (1992).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FEWEST = 4  # draws of a chain


def split_r_hat(draws: Tensor) -> Tensor:
    """Split R-hat of draws (steps, chains, *event): (*event); NaN for fewer than four steps."""
    if len(draws) < FEWEST:
        return draws.new_full(draws.shape[2:], math.nan, dtype=torch.float64)
    halves = _halves(draws)
    n = len(halves)
    within = halves.var(0).mean(0)
    between = n * halves.mean(0).var(0)
    return (((n - 1) * within + between) / (n * within)).sqrt().reshape(draws.shape[2:])


def effective_sample_size(draws: Tensor) -> Tensor:
    """Independent draws worth as much as (steps, chains, *event): (*event)."""
    if len(draws) < FEWEST:
        return draws.new_full(draws.shape[2:], math.nan, dtype=torch.float64)
    halves = _halves(draws)
    n, m = halves.shape[:2]
    centred = halves - halves.mean(0)
    spectrum = torch.fft.rfft(centred, n=2 * n, dim=0).abs().square()
    covariance = torch.fft.irfft(spectrum, n=2 * n, dim=0)[:n].mean(1) / n
    within = halves.var(0).mean(0)
    total = within * (n - 1) / n + halves.mean(0).var(0)
    rho = 1 - (within - covariance * n / (n - 1)) / total
    pairs = rho[: n // 2 * 2].reshape(-1, 2, rho.shape[1]).sum(1)
    positive = (pairs > 0).cummin(0).values
    # Geyer's initial monotone sequence
    monotone = pairs.cummin(0).values * positive
    length = (-1 + 2 * monotone.sum(0)).clamp_min(1 / math.log10(m * n))
    return (m * n / length).reshape(draws.shape[2:])


def _halves(draws: Tensor) -> Tensor:
    """(steps, chains, *event) to (steps // 2, 2 chains, variables), in double."""
    n = len(draws) // 2
    flat = draws.double().reshape(*draws.shape[:2], -1)
    return torch.cat((flat[:n], flat[-n:]), 1)
