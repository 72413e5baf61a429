"""Gradients of an ODE's end by a second ODE, which runs backwards.

    da/dt = -a . df/dx,   dg/dt = -a . df/dtheta       a(t1) = dL/dz,  g(t1) = 0

The state is solved backwards together with a and g, so that the memory of a gradient does not
depend on the number of steps. Pontryagin et al. (1962); Chen et al. (2018), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steadyflow.solvers import solve


def adjoint_solve(
    augmented: Callable[..., Any],
    parameters: Iterable[nn.Parameter],
    x: Tensor,
    begin: float,
    end: float,
    args: Sequence[Tensor],
    options: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Solves dx/dt together with log-determinants, with gradients by the adjoint method.

    Args:
        augmented: augmented(t, (x, sums), *args) gives the derivatives of x: (batch, *event) and
            of the sums (batch, n), whose mean is the log-determinant.
        parameters: those of the field; all of them get gradients.
        x: (batch, *event).
        begin: the time to begin at.
        end: the time to end at.
        args: tensors (batch, ...) of the field; the last may need a gradient (the context).
        options: of `solve`.

    Returns:
        the end of x, and the log-determinants (batch,).
    """
    trained = [p for p in parameters if p.requires_grad]
    return _Adjoint.apply(augmented, begin, end, options, len(args), x, *args, *trained)


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, augmented, begin, end, options, count, x, *tensors):
        args = tensors[:count]
        with torch.no_grad():
            probe = augmented(torch.full((), begin, dtype=torch.float64), (x, None), *args)[1]
            z, sums = solve(
                augmented, (x, torch.zeros_like(probe)), begin, end, args=args, **options
            ).require()
        ctx.given = (augmented, begin, end, options, count, sums.shape[1])
        ctx.save_for_backward(z, *tensors)
        return z, sums.mean(1)

    @staticmethod
    def backward(ctx, grad_z, grad_log_det):
        augmented, begin, end, options, count, n = ctx.given
        z, *tensors = ctx.saved_tensors
        args, trained = tensors[:count], tensors[count:]
        wanted = [arg.requires_grad for arg in args]
        pull = (grad_log_det / n)[:, None].expand(-1, n)
        own = [arg for arg, needs in zip(args, wanted, strict=True) if needs]
        state = [z, grad_z, *(torch.zeros_like(t) for t in (*own, *trained))]
        shapes = [part.shape for part in state]

        def backwards(t: Tensor, packed: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x, a = (p.reshape(s) for p, s in zip(packed[:2], shapes[:2], strict=True))
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                given = [
                    arg.detach().requires_grad_() if needs else arg
                    for arg, needs in zip(args, wanted, strict=True)
                ]
                value, rates = augmented(t, (x, None), *given)
                pulled = (a * value).sum() + (pull * rates).sum()
                sources = [x, *(g for g, needs in zip(given, wanted, strict=True) if needs)]
                grads = torch.autograd.grad(pulled, [*sources, *trained], allow_unused=True)
            rest = [
                torch.zeros(1, s.numel(), dtype=x.dtype, device=x.device)
                if g is None
                else -g.reshape(1, -1)
                for g, s in zip(grads, shapes[1:], strict=True)
            ]
            return (value.detach().reshape(1, -1), *rest)

        whole = {**options, "per_example": False}
        packed = tuple(part.reshape(1, -1).to(z.dtype) for part in state)
        with torch.no_grad():
            back = solve(backwards, packed, end, begin, **whole).require()
        grads = [p.reshape(s) for p, s in zip(back[1:], shapes[1:], strict=True)]
        into_x, *others = grads
        into_args = iter(others[: len(own)])
        return (
            None,
            None,
            None,
            None,
            None,
            into_x,
            *(next(into_args) if needs else None for needs in wanted),
            *(g.to(t.dtype) for g, t in zip(others[len(own) :], trained, strict=True)),
        )
