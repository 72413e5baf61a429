"""Models that are trained as a game: several players, each with weights and a loss of its own.

    energy       min_theta  E_data U_theta(x) - E_z U_theta(G_phi(z))
    generator    min_phi    E_z U_theta(G_phi(z)) - H(G_phi)

Training lets the players move in turns, each with an optimizer of its own; the weights of the
others stand still meanwhile. An ordinary model is a game of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Player:
    """One player.

    Attributes:
        name: for messages and metrics.
        parameters: the weights that it moves.
        loss: of (x, context), a scalar that it makes small.
        every: it moves in each so many-th step.
        rate: its learning rate, in units of that of the training.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    loss: Callable[[Tensor, Tensor | None], Tensor]
    every: int = 1
    rate: float = 1.0

    def moves(self, step: int) -> bool:
        """Whether it moves in a step (from 0)."""
        return (step + 1) % self.every == 0


def parameters_of(*modules: nn.Module) -> tuple[nn.Parameter, ...]:
    """The weights of some modules that are to be trained."""
    found: Iterable[nn.Parameter] = (p for module in modules for p in module.parameters())
    return tuple(p for p in found if p.requires_grad)
