"""Attributes as directions among the latents: a smile, a slant, a class, added to a real image.

    d = mean z(with the attribute) - mean z(without),     x' = decode(z(x) + strength * d)

Kingma & Dhariwal, "Glow" (2018), sec. 4: "semantic manipulation". The groups may be classes of
labelled data or any two sets of images; strength 1 goes as far as the two groups are apart, and 0
leaves the image as it is. The latents of a flow here are whitened at every level, so that one
strength serves all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steadyflow.errors import UsageError
from steadyflow.evaluation import access
from steadyflow.evaluation.access import Model

STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0)


def attribute_direction(
    model: Model,
    positive: Tensor,
    negative: Tensor,
    contexts: tuple[Tensor | None, Tensor | None] = (None, None),
    *,
    batch_size: int = 200,
) -> Tensor:
    """The mean latent difference of two groups of examples.

    Args:
        model: with latents.
        positive: (n, *event), examples that have the attribute.
        negative: (m, *event), examples that have not.
        contexts: the labels or vectors of either group, for a conditional model.
        batch_size: examples at once.

    Returns:
        (*latent event), on the model's device.

    Raises:
        UsageError: if a group is empty, or the model has no latents.
    """
    if not len(positive) or not len(negative):
        raise UsageError(
            f"an attribute needs examples with it and examples without it, got {len(positive)} "
            f"and {len(negative)}"
        )
    means = [
        _mean_latent(model, x, context, batch_size)
        for x, context in zip((positive, negative), contexts, strict=True)
    ]
    return means[0] - means[1]


def manipulate(
    model: Model,
    x: Tensor,
    direction: Tensor,
    strengths: Sequence[float] = STRENGTHS,
    context: Tensor | None = None,
) -> Tensor:
    """Examples with more and less of an attribute.

    Args:
        model: with latents.
        x: (batch, *event).
        direction: (*latent event), from `attribute_direction`.
        strengths: how far to go, in units of the difference between the groups.
        context: labels or vectors of x, for a conditional model.

    Returns:
        (strengths, batch, *event), integers if the model dequantises.
    """
    context = access.context_of(model, context)
    with access.at_rest(model, 0):
        z = access.encode(model, access.real_valued(model, x), context)
        moved = [access.decode(model, z + s * direction, context) for s in strengths]
        return torch.stack([access.to_data(model, y) for y in moved])


def attribute_score(
    model: Model, x: Tensor, direction: Tensor, context: Tensor | None = None
) -> Tensor:
    """How much of an attribute examples have: (batch,), one unit apart between the two groups.

    The coordinate of z along the direction, z . d / |d|^2.
    """
    context = access.context_of(model, context)
    with access.at_rest(model, 0):
        z = access.encode(model, access.real_valued(model, x), context)
        return (z * direction).flatten(1).sum(1) / direction.square().sum()


def _mean_latent(model: Model, x: Tensor, context: Tensor | None, batch_size: int) -> Tensor:
    context = access.context_of(model, context)
    total: Tensor | None = None
    with access.at_rest(model, 0):
        for start in range(0, len(x), batch_size):
            rows = slice(start, start + batch_size)
            y = access.real_valued(model, x[rows])
            z = access.encode(model, y, None if context is None else context[rows]).double().sum(0)
            total = z if total is None else total + z
    assert total is not None
    return (total / len(x)).to(access.place(model)[1])
