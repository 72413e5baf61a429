"""Inverses of increasing functions of one variable, all elements at once.

    x = f^-1(z; theta):   dx = (dz - f_theta dtheta) / f'(x)

Bisection speeded up by Newton's steps finds x to the precision of the arithmetic: a step of
Newton's is taken, inside the bracket, where it is at most half of the one before the last, and the
bracket is halved where it is not (Press et al., "Numerical Recipes", `rtsafe`). Two more steps of
Newton's, with gradients, attach the derivatives of the implicit function: the first is exact to
first order around the root, the second to third order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from steadyflow.tracing import transforming

Function = Callable[..., tuple[Tensor, Tensor]]  # x and parameters to value and log-slope
State = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
MOST = {torch.float32: 52, torch.float64: 110}  # evaluations: twice the halvings to the last digit


def invert(
    function: Function, z: Tensor, low: Tensor, high: Tensor, *parameters: Tensor
) -> tuple[Tensor, Tensor]:
    """The x with f(x) = z, and the log-slope of f there.

    Args:
        function: (x, *parameters) to the value f(x) and log f'(x), each shaped like x; f increases
            and f' is nowhere zero.
        z: the values, float32 or wider.
        low: where f is at most z; no gradient goes through it.
        high: where f is at least z.
        parameters: what f depends on besides.

    Returns:
        x and log f'(x), like z; both twice differentiable in z and the parameters.
    """
    with torch.no_grad():
        fixed = tuple(part.detach() for part in parameters)
        if torch.compiler.is_compiling():  # its loops take no two views of the same memory
            fixed = tuple(part.clone() for part in fixed)
        x = _root(function, z.detach(), low.detach(), high.detach(), *fixed)
    for _ in range(2):
        value, log_slope = function(x, *parameters)
        x = x - (value - z) * torch.exp(-log_slope)
    return x, function(x, *parameters)[1]


def _root(function: Function, z: Tensor, low: Tensor, high: Tensor, *parameters: Tensor) -> Tensor:
    """The x with f(x) = z to rounding, or to what two more steps of Newton's make of it."""
    small = torch.finfo(z.dtype).eps ** 0.6
    most = MOST[z.dtype]

    def is_open(turn: Tensor, x: Tensor, low: Tensor, high: Tensor, *steps: Tensor) -> Tensor:
        return (turn < most) & (steps[1] != 0).any()

    def move(turn: Tensor, x: Tensor, low: Tensor, high: Tensor, *steps: Tensor) -> State:
        before, last = steps
        value, log_slope = function(x, *parameters)
        error = value - z
        low, high = torch.where(error < 0, x, low), torch.where(error < 0, high, x)
        step = (x - error * torch.exp(-log_slope)).clamp(low, high) - x
        good = 2 * step.abs() <= before.abs()
        # small steps that no longer shrink are rounding; an element has ended when its last is 0
        rounding = ~good & (last.abs() <= small * x.abs().clamp(min=1))
        ended = rounding | (last == 0) | (error == 0)
        step = torch.where(good, step, (low + high) / 2 - x)
        step = torch.where(ended | (x + step == x), 0, step)
        return turn + 1, x + step, low, high, last.clone(), step

    state: State = (
        torch.zeros((), dtype=torch.int64, device=z.device),
        (low + high) / 2,
        low.clone(),
        high.clone(),
        high - low,
        high - low,
    )
    if torch.compiler.is_compiling():
        return torch.while_loop(is_open, move, state)[1]
    for _ in range(most):
        if not transforming() and not is_open(*state):
            break
        state = move(*state)
    return state[1]
