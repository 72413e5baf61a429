"""The way from one real example to another, through the latents.

    linear    z_t = (1 - t) z_a + t z_b
    slerp     z_t = sin((1 - t) w) / sin w  z_a  +  sin(t w) / sin w  z_b,    w = angle(z_a, z_b)

In many dimensions the latents of data lie near a sphere of radius sqrt(D), and the straight line
between two of them passes far inside it, through latents that data never has: the middle comes out
grey or blurred. The great circle (spherical linear interpolation, Shoemake 1985; for latents,
White, "Sampling generative networks", 2016) stays on the sphere; it is the default. It is made for
Gaussian latents; for other bases, and where the way should cross the centre, ask for 'linear'.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from steadyflow.errors import UsageError, unknown
from steadyflow.evaluation import access
from steadyflow.evaluation.access import Model

Context = Tensor | tuple[Tensor, Tensor] | None


def linear(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Points on the straight line from a to b, both (*event), at t: (steps,)."""
    t = t.reshape(-1, *[1] * a.dim())
    return (1 - t) * a + t * b


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Points on the great circle from a to b, both (*event), at t: (steps,).

    Lengths go smoothly from |a| to |b|. Where the two are parallel or opposite, or one is zero, no
    great circle is the shortest, and the straight line is taken.
    """
    lengths = float(a.norm() * b.norm())
    cosine = (a * b).sum() / (lengths or 1.0)
    angle = torch.acos(cosine.clamp(-1, 1))
    if not lengths or float(angle.sin()) < 1e-4:
        return linear(a, b, t)
    t = t.reshape(-1, *[1] * a.dim())
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / angle.sin()


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"slerp": slerp, "linear": linear}


def interpolate(
    model: Model, a: Tensor, b: Tensor, steps: int, context: Context = None, kind: str = "slerp"
) -> Tensor:
    """Decodes latents between those of two examples.

    Integer data stands in the middle of its bins, so that the two ends are the two examples
    themselves, up to the rounding of the arithmetic.

    Args:
        model: with latents.
        a: one example, (*event).
        b: another.
        steps: how many, the two ends among them; at least 2.
        context: for a conditional model, one label or vector for all, or a pair for a and b, whose
            embeddings are then interpolated too.
        kind: 'slerp' or 'linear'.

    Returns:
        (steps, *event), from a to b.

    Raises:
        UsageError: for an unknown kind, less than two steps, or a model without latents.
    """
    if kind not in WAYS:
        raise unknown("kind of interpolation", kind, WAYS)
    if steps < 2:
        raise UsageError(f"an interpolation has at least its 2 ends, got {steps} steps")
    with access.at_rest(model, 0):
        y = access.real_valued(model, torch.stack((a, b)))
        ends = _pair(model, context)
        t = torch.linspace(0, 1, steps, dtype=y.dtype, device=y.device)
        z = access.encode(model, y, ends)
        way = WAYS[kind](z[0], z[1], t)
        if ends is None:
            return access.to_data(model, access.decode(model, way, None))
        return access.to_data(model, _decode_between(model, way, ends, t))


def _pair(model: Model, context: Context) -> Tensor | None:
    """One row of context for each end."""
    if context is None:
        return access.context_of(model, None)
    both = context if isinstance(context, tuple) else (context, context)
    rows = [torch.as_tensor(c) for c in both]
    inner = 0 if getattr(model, "num_classes", None) is not None else 1
    return access.context_of(model, torch.cat([c if c.dim() > inner else c[None] for c in rows]))


def _decode_between(model: Model, z: Tensor, ends: Tensor, t: Tensor) -> Tensor:
    flow = access.flow_of(model)
    if flow is None:
        near = (t > 0.5).long()
        return access.decode(model, z, ends[near])
    embedded = access.embed(model, ends, 2)
    assert embedded is not None
    return flow.bijection.inverse(z, torch.lerp(embedded[:1], embedded[1:], t[:, None]))[0]
