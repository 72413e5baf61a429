"""Completing images: the missing pixels are drawn given the known ones, by Langevin dynamics.

    y_H <- y_H + a_i grad log p(y_O, y_H) + sqrt(2 a_i) T e,   a_i = 10 a / (100 + i),  e ~ N(0, I)

y_O are the known pixels and y_H the missing ones, in [0, 1]. With temperature T = 0 this is the
projected gradient ascent of Dinh, Krueger & Bengio, "NICE" (2014), sec. 5.3; the steps get
shorter as there, so that at T = 1 the noise dies out with them (Welling & Teh, 2011).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from steadyflow.errors import UsageError
from steadyflow.evaluation import access
from steadyflow.models.model import FlowModel

Progress = Callable[[int, int], None]


def complete(
    model: FlowModel,
    x: Tensor,
    known: Tensor,
    steps: int = 200,
    size: float = 1e-4,
    temperature: float = 1.0,
    context: Tensor | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Tensor:
    """Fills in the missing pixels of images.

    Args:
        model: a trained flow on integer images.
        x: (batch, channels, height, width); what it holds at missing pixels does not matter.
        known: bool, of the shape of x or of one image; True where the pixel is kept.
        steps: number of Langevin steps.
        size: the first step is a tenth of it; the gradient is clipped to one over its root.
        temperature: of the noise; 0 for the nearest mode.
        context: labels or vectors, for a conditional model.
        seed: of the first values of the missing pixels and of the noise.
        progress: called with (steps done, all).

    Returns:
        (batch, channels, height, width) integers, equal to x where known; on the model's device.

    Raises:
        UsageError: if the model is not one of integer images, or `known` has another shape.
    """
    dequantization = getattr(getattr(model, "flow", None), "dequantization", None)
    if dequantization is None:
        raise UsageError("completion is for flows on integer images (built with bits above 0)")
    if known.dtype != torch.bool or known.shape not in (x.shape, x.shape[1:]):
        raise UsageError(
            f"known must be a bool tensor of shape {tuple(x.shape)} or {tuple(x.shape[1:])}, "
            f"got {known.dtype} of shape {tuple(known.shape)}"
        )
    with access.at_rest(model, seed), _frozen(model):
        x, context = access.bring(model, x), access.context_of(model, context)
        known, given = known.to(x.device), model.condition(context, len(x))
        kept = dequantization(x)[0].to(model.flow.base.dtype)
        y = torch.where(known, kept, torch.rand_like(kept))
        for i in range(steps):
            a = 10 * size / (100 + i)
            pull = _gradient(model, y, given).clamp(-1 / math.sqrt(size), 1 / math.sqrt(size))
            moved = y + a * pull + math.sqrt(2 * a) * temperature * torch.randn_like(kept)
            y = torch.where(known, kept, moved.clamp(0, 1))
            if progress is not None:
                progress(i + 1, steps)
        return torch.where(known, x, dequantization.inverse(y).to(x.dtype))


@contextlib.contextmanager
def _frozen(model: FlowModel) -> Iterator[None]:
    """Spares the gradients of the weights, which nobody wants here."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@torch.enable_grad()
def _gradient(model: FlowModel, y: Tensor, context: Tensor | None) -> Tensor:
    y = y.detach().requires_grad_()
    z, log_det = model.flow.bijection(y, context)
    (gradient,) = torch.autograd.grad((model.flow.base.log_prob(z, context) + log_det).sum(), y)
    return gradient
