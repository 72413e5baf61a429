"""The game of an energy and its generator: what each of the two makes small.

    energy       E_data U - sum_i w_i U(x_i) + lambda E_data |dU/du|^2        x_i = G(z_i), draws
    generator    E_z U(G(z)) - entropy_weight H(G) - likelihood_weight E_data log p_G
    both         E_data U + log Z,   log Z ~ log mean_i exp(-U(x_i)) / p_G(x_i)       -log q

w_i are the importance weights of the draws where p_G is known, so that the first line is the
gradient of the last, and 1 / n where it is not. Two cautions do nothing once the players agree:
`steady_weights` leaves enough draws in the negative phase, and `flattened` keeps the generator
from being led by its few worst draws. In nats; the losses that players get are per dimension.

Kumar, Ozair, Goyal, Courville & Bengio, "Maximum Entropy Generators for Energy-Based Models"
(2019).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steadyflow.evaluation.importance import importance_weights
from steadyflow.models.normalizer import TRUSTED
from steadyflow.models.reference import density

if TYPE_CHECKING:
    from steadyflow.models.energy import EnergyModel

FEW = 2048  # draws for log Z in validation, at least
STEADY = 1 / 16  # the least effective sample size of negative draws, as a share of them
Loss = tuple[Tensor, dict[str, Tensor]]  # a scalar per dimension, and its parts in nats


def of_energy(model: EnergyModel, x: Tensor, context: Tensor | None) -> Loss:
    """Positive minus negative phase and the gradient penalty; x: (batch, *event)."""
    n = len(x)
    rows = model.condition(context, n)
    y = model.real(x)
    with torch.no_grad():
        negative, _, log_prob = model.weighed_draws(n, rows)
    energies = model.energy_of(negative, rows)
    if model.weighted and log_prob is not None:
        weights = negative_weights(-energies.detach() - log_prob, context)
    else:
        weights = torch.full_like(energies, 1 / n)
    loss = model.energy_of(y, rows).mean() - (weights * energies).sum()
    parts = {"energy": loss.detach()}
    if model.penalty > 0:
        slope = model.gradient_of(y, rows)
        loss = loss + model.penalty * slope.square().flatten(1).sum(1).mean()
    return loss / model.dimensions, parts


def of_generator(model: EnergyModel, x: Tensor, context: Tensor | None) -> Loss:
    """E[U] minus the entropy, and maximum likelihood; x: (batch, *event)."""
    n = len(x)
    rows = model.condition(context, n)
    data = model.real(x)
    y, z, log_prob = model.weighed_draws(n, rows)
    entropy = model.entropy(model.normalized(y), z, rows, log_prob)
    with torch.no_grad():
        highest = model.energy_of(data, rows).max()
    # rounding may take a draw out of the cube: there only f counts
    reference = model.reference(y, rows).nan_to_num(neginf=0.0)
    energy = flattened(model.correction(y, rows) - reference, highest).mean()
    loss = energy - model.entropy_weight * entropy
    parts = {"generator": loss.detach(), "entropy": entropy.detach()}
    if model.likelihood_weight:
        fit = -density(model.generator, data, rows).mean()  # type: ignore[arg-type]
        loss = loss + model.likelihood_weight * fit
        parts["generator_nll"] = fit.detach()
    return loss / model.dimensions, parts


def of_both(model: EnergyModel, x: Tensor, context: Tensor | None) -> Tensor:
    """-log q of data x: (batch, *event), a scalar per dimension, with log Z from new draws.

    Where their weights are not to be trusted, that of the generator if it is worse: log Z then
    comes out too small.
    """
    n = max(len(x), 1)
    copies = math.ceil(FEW / n)
    rows = model.condition(context, len(x))
    given = None if rows is None else rows.repeat(copies, 1)
    labels = None if context is None else context.repeat(copies)
    y, _, log_prob = model.weighed_draws(copies * n, given)
    assert log_prob is not None
    log_weights = -model.energy_of(y, given) - log_prob
    data = model.real(x)
    found = model.energy_of(data, rows).mean() + log_mean(log_weights, labels)
    if float(importance_weights(log_weights).pareto_k) > TRUSTED:
        fit = -density(model.generator, data, rows).mean()  # type: ignore[arg-type]
        found = found.maximum(fit)
    return found / model.dimensions


def negative_weights(log_weights: Tensor, labels: Tensor | None) -> Tensor:
    """What draws count in the negative phase, (n,), of sum 1; each class as much as it has draws.

    Args:
        log_weights: -U - log p_G of the draws, (n,).
        labels: their classes, (n,), or None.
    """
    if labels is None:
        return steady_weights(log_weights)
    weights = torch.zeros_like(log_weights)
    for label in labels.unique():
        own = labels == label
        weights[own] = steady_weights(log_weights[own]) * (own.sum() / len(own))
    return weights


def log_mean(log_weights: Tensor, labels: Tensor | None) -> Tensor:
    """The estimate of log Z; with classes the mean of theirs, as frequent as they are."""
    if labels is None:
        return log_weights.logsumexp(0) - math.log(len(log_weights))
    total = log_weights.new_zeros(())
    for label, count in zip(*labels.unique(return_counts=True), strict=True):
        own = log_weights[labels == label]
        total = total + (own.logsumexp(0) - count.log()) * (count / len(labels))
    return total


def steady_weights(log_weights: Tensor, share: float = STEADY) -> Tensor:
    """Importance weights w^b of sum 1, (n,), with the largest b <= 1 that leaves draws enough.

    Enough is an effective sample size of a share of n. Where the generator follows the energy well
    b is 1 and the weights are the exact ones; where it does not yet, a single draw would be all of
    the negative phase.
    """
    powers = torch.logspace(0, -3, 31, dtype=log_weights.dtype, device=log_weights.device)
    powers[-1] = 0.0
    weights = (powers[:, None] * log_weights).softmax(1)
    enough = 1 / weights.square().sum(1) >= share * len(log_weights)
    return weights[enough.to(torch.int8).argmax()]


def flattened(energy: Tensor, highest: Tensor) -> Tensor:
    """Energies, but those beyond the highest of the data rise as a logarithm only.

    A steep energy would otherwise leave the generator to its few worst draws. Where data are,
    nothing is changed.
    """
    excess = (energy - highest).clamp_min(0)
    return energy - excess + torch.log1p(excess)
