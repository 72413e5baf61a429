"""Attributes as directions among the latents: a smile, a slant, a class, added to a real image.

    d = mean z(with the attribute) - mean z(without),     x' = decode(z(x) + strength * d)

Kingma & Dhariwal, "Glow" (2018), sec. 4: "semantic manipulation". The latents are whitened at
every level, so that one strength serves all of them; 0 leaves the image as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steadyflow.models.model import FlowModel


@torch.no_grad()
def attribute_direction(
    model: FlowModel,
    positive: Tensor,
    negative: Tensor,
    contexts: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Tensor:
    """The mean latent difference of two groups of examples.

    Args:
        model: a trained flow.
        positive: (n, *event), examples that have the attribute.
        negative: (m, *event), examples that have not.
        contexts: the labels or vectors of either group, for a conditional model.

    Returns:
        (latent variables,).

    Raises:
        ValueError: if a group is empty.
    """
    if not len(positive) or not len(negative):
        raise ValueError("an attribute needs examples with it and examples without it")
    with_it, without = (
        model.encode(x, context).mean(0)
        for x, context in zip((positive, negative), contexts, strict=True)
    )
    return with_it - without


@torch.no_grad()
def manipulate(
    model: FlowModel,
    x: Tensor,
    direction: Tensor,
    strengths: Sequence[float] = (-1.0, -0.5, 0.0, 0.5, 1.0),
    context: Tensor | None = None,
) -> Tensor:
    """Examples with more and less of an attribute.

    Args:
        model: a trained flow.
        x: (batch, *event).
        direction: (latent variables,), from `attribute_direction`.
        strengths: how far to go, in units of the difference between the groups.
        context: labels or vectors of x, for a conditional model.

    Returns:
        (strengths, batch, *event), integers if the model dequantises.
    """
    z = model.encode(x, context)
    return torch.stack([model.decode(z + s * direction, context) for s in strengths])


@torch.no_grad()
def attribute_score(
    model: FlowModel, x: Tensor, direction: Tensor, context: Tensor | None = None
) -> Tensor:
    """How much of an attribute examples have: (batch,), one unit apart between the two groups.

    The coordinate of z along the direction, z . d / |d|^2.
    """
    z = model.encode(x, context)
    return (z * direction).flatten(1).sum(1) / direction.square().sum()
