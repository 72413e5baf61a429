"""Gradients through an inverse that was found by iteration, for triangular maps.

    z = f(x; theta)   =>   dx = J^-1 (dz - df)            J = diag(a) + L, L strictly triangular

The gradient of x = f^-1(z) is the transposed solve v = J^-T g by rounds v <- (g - L'v) / a, which
are exact after as many of them as there are steps in the order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Linearize = Callable[[Tensor], tuple[Tensor, Tensor]]


def attach_gradient(x: Tensor, residual: Tensor, linearize: Linearize, rounds: int) -> Tensor:
    """The same x, with the gradient of the inverse.

    Args:
        x: what solves z = f(x), found without gradients.
        residual: z - f(x), differentiable in z and in what f depends on; x held fixed.
        linearize: x to f(x), differentiable in x, and to the diagonal a of its Jacobian.
        rounds: after how many of them the solve is exact.

    Returns:
        x + J^-1 residual: the second term is rounding, and left out; its gradient is not.
    """
    return x + _Solve.apply(residual, x, linearize, rounds)


class _Solve(torch.autograd.Function):
    """J^-1 r for r = 0."""

    @staticmethod
    def forward(ctx, residual, x, linearize, rounds):
        ctx.linearize, ctx.rounds = linearize, rounds
        ctx.save_for_backward(x)
        return torch.zeros_like(residual)

    @staticmethod
    def backward(ctx, g):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the inverse of an autoregressive layer has no second derivatives by autograd "
                "(create_graph=True): take them with torch.func, for example torch.func.hessian"
            )
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            z, slope = ctx.linearize(x)
        slope = slope.detach()
        v = g / slope
        for _ in range(ctx.rounds):
            (product,) = torch.autograd.grad(z, x, v, retain_graph=True)
            step = (g - product) / slope
            v = v + step
            if not step.abs().max() > 0:
                break
        return v, None, None, None
