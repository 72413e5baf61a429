"""Draws for pictures: seeded, at rest, on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steadyflow.evaluation import access
from steadyflow.evaluation.access import Model


def draw(
    model: Model,
    n: int,
    context: Tensor | None = None,
    *,
    temperature: float = 1.0,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """Draws n examples, (n, *event), on the CPU; the same seed gives the same noise.

    Args:
        model: anything with `sample`.
        n: how many.
        context: (n,) labels or (n, features) vectors, or None.
        temperature: of the draws.
        seed: of the noise.
        **options: of the model's own `sample`.
    """
    device = access.place(model)[0]
    generator = torch.Generator(device).manual_seed(seed)
    with access.at_rest(model, seed):
        c = None if context is None else context.to(device)
        return model.sample(n, c, temperature, generator, **options).cpu()


def labels_like(y: Tensor | None, n: int, seed: int = 0) -> Tensor | None:
    """Draws n labels from those of the data, so that classes come as often as they do there."""
    if y is None:
        return None
    generator = torch.Generator().manual_seed(seed)
    return y[torch.randint(len(y), (n,), generator=generator)]
