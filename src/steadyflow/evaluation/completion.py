"""Completing images: the missing pixels are drawn given the known ones, by Langevin dynamics.

    U(z)  = |z|^2 / 2  +  |y_O - x_O(z)|^2 / 2 s_i^2,      x(z) = f^-1(z)
    z    <- z - a_i grad U(z) + sqrt(2 a_i) T e,   e ~ N(0, I),   a_i = a / (1 + (c / s_i)^2)

y_O are the known pixels. The dynamics move among the latents, which are whitened and so of one
scale, instead of among the pixels, whose density is steep where images are black; the tolerance
s_i of the known pixels falls from 1/2 to 1/100 (annealing), and they are put back exactly at the
end. With temperature T = 0 this is the maximum a posteriori of Asim, Daniels, Leong, Ahmed & Hand,
"Invertible generative models for inverse problems" (2020).
Langevin dynamics: Welling & Teh (2011).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from steadyflow.errors import UsageError
from steadyflow.evaluation import access
from steadyflow.models.flow_model import FlowModel

Progress = Callable[[int, int], None]
TOLERANCES = (0.5, 0.01)  # of the known pixels, at the first step and at the last
SCALE = 0.3  # c: how far a pixel moves with a unit of its latents, about
LONGEST = 100.0  # of one component of the gradient


def complete(
    model: FlowModel,
    x: Tensor,
    known: Tensor,
    steps: int = 400,
    size: float = 0.2,
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
        size: a above, the length of the steps.
        temperature: of the latents to begin with and of the noise; 0 for the nearest mode.
        context: labels or vectors, for a conditional model.
        seed: of the first latents and of the noise.
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
        target = access.real_valued(model, x)
        z = model.flow.base.sample(len(x), given, temperature)
        first, last = TOLERANCES
        for i in range(steps):
            tolerance = first * (last / first) ** (i / max(steps - 1, 1))
            a = size / (1 + (SCALE / tolerance) ** 2)
            pull = _gradient(model, z, given, target, known, tolerance)
            z = z - a * pull + (2 * a) ** 0.5 * temperature * torch.randn_like(z)
            if progress is not None:
                progress(i + 1, steps)
        y = model.flow.bijection.inverse(z, given)[0]
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
def _gradient(
    model: FlowModel,
    z: Tensor,
    context: Tensor | None,
    target: Tensor,
    known: Tensor,
    tolerance: float,
) -> Tensor:
    z = z.detach().requires_grad_()
    y = model.flow.bijection.inverse(z, context)[0]
    misfit = torch.where(known, (y - target) / tolerance, 0.0).square().sum() / 2
    energy = misfit - model.flow.base.log_prob(z, context).sum()
    (gradient,) = torch.autograd.grad(energy, z)
    return gradient.nan_to_num(0.0).clamp(-LONGEST, LONGEST)
