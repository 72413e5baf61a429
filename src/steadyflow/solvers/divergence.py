"""The divergence of a vector field, tr df/dx, exactly or by random probes.

    exact        sum_i d f_i / d x_i                     one backward pass for each variable
    Hutchinson   e . (df/dx) e,  E[e e^T] = I            one backward pass for each probe
    variance     2 sum_{i != j} S_ij^2  (e = +-1)   or   2 |S|_F^2  (e normal),   S = sym(df/dx)

Since |det(I + h J)| = 1 + h tr J + O(h^2), a density that is carried by dx/dt = f changes along
the way by d log p / dt = -div f. Hutchinson (1990); Chen et al., "Neural Ordinary Differential
Equations" (2018), theorem 1; Grathwohl et al., "FFJORD" (2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from steadyflow.errors import unknown

EXACT_UP_TO = 16  # variables: beyond, a probe is cheaper than a backward pass for each variable
PROBES = ("rademacher", "gauss")


def exact_divergence(
    f: Callable[[Tensor], Tensor], x: Tensor, create_graph: bool | None = None
) -> tuple[Tensor, Tensor]:
    """The value of a field and its exact divergence.

    Args:
        f: acts on each example by itself.
        x: (batch, *event).
        create_graph: whether both are differentiable; as gradients are enabled, without it.

    Returns:
        f(x): (batch, *event) and its divergence: (batch,), float32 or wider.
    """
    graph = torch.is_grad_enabled() if create_graph is None else create_graph
    with torch.inference_mode(False), torch.enable_grad():
        x = _leaf(x, graph)
        value = f(x)
        columns = value.flatten(1)
        total = columns.new_zeros(len(x), dtype=torch.promote_types(x.dtype, torch.float32))
        size = columns.shape[1]
        for i in range(size):
            if not value.requires_grad:  # a constant field
                break
            keep = graph or i < size - 1
            (row,) = torch.autograd.grad(
                columns[:, i].sum(), x, create_graph=graph, retain_graph=keep, allow_unused=True
            )
            if row is not None:
                total = total + row.flatten(1)[:, i]
    return (value, total) if graph else (value.detach(), total.detach())


def hutchinson_divergence(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    probes: Sequence[Tensor],
    create_graph: bool | None = None,
    with_norm: bool = False,
) -> tuple[Tensor, ...]:
    """The value of a field and an unbiased estimate of its divergence for each probe.

    Args:
        f: acts on each example by itself.
        x: (batch, *event).
        probes: tensors like x, see `draw_probes`; along a trajectory always the same ones.
        create_graph: whether both are differentiable; as gradients are enabled, without it.
        with_norm: estimate |df/dx|_F^2 as well, by the mean of |e^T df/dx|^2.

    Returns:
        f(x): (batch, *event) and the estimates: (batch, number of probes), float32 or wider. Their
        mean over the probes is the estimate, `standard_error` its error. With `with_norm` also the
        norms, (batch,).
    """
    graph = torch.is_grad_enabled() if create_graph is None else create_graph
    wide = torch.promote_types(x.dtype, torch.float32)
    with torch.inference_mode(False), torch.enable_grad():
        x = _leaf(x, graph)
        value = f(x)
        estimates, norms = [], []
        for i, probe in enumerate(probes):
            row = None
            if value.requires_grad:
                (row,) = torch.autograd.grad(
                    value,
                    x,
                    probe.to(value.dtype),
                    create_graph=graph,
                    retain_graph=graph or i < len(probes) - 1,
                    allow_unused=True,
                )
            if row is None:
                row = torch.zeros_like(x)
            estimates.append((row * probe).flatten(1).sum(1, dtype=wide))
            if with_norm:
                norms.append(row.flatten(1).square().sum(1, dtype=wide))
        found = [value, torch.stack(estimates, 1)]
        if with_norm:
            found.append(torch.stack(norms, 1).mean(1))
    return tuple(found if graph else (v.detach() for v in found))


def draw_probes(
    x: Tensor, count: int = 1, kind: str = "rademacher", generator: torch.Generator | None = None
) -> list[Tensor]:
    """Random probes like x, with independent entries of mean 0 and variance 1.

    Args:
        x: (batch, *event).
        count: how many; their mean has 1 / count of the variance.
        kind: 'rademacher' (+1 or -1, the smaller variance) or 'gauss'.
        generator: the source of randomness; torch's global one without it.
    """
    if kind not in PROBES:
        raise unknown("probe", kind, PROBES)
    if count < 1:
        raise ValueError(f"the number of probes must be at least 1, got {count}")
    options: dict[str, Any] = {"generator": generator, "dtype": x.dtype, "device": x.device}
    if kind == "gauss":
        return [torch.randn(x.shape, **options) for _ in range(count)]
    return [
        torch.rand(x.shape, **options).sub_(0.5).sign_().add_(0.5).sign_() for _ in range(count)
    ]


def standard_error(estimates: Tensor) -> Tensor:
    """The standard error of the mean over probes: (batch, probes) to (batch,).

    With one probe it can not be known: NaN.
    """
    if estimates.shape[1] == 1:
        return torch.full_like(estimates[:, 0], math.nan)
    return estimates.std(1) / math.sqrt(estimates.shape[1])


def _leaf(x: Tensor, graph: bool) -> Tensor:
    """A tensor that gradients reach; the caller's own is left as it is."""
    if x.is_inference():
        x = x.clone()
    if graph and x.requires_grad:
        return x
    return x.detach().requires_grad_()
