"""What a solver gives back: where it arrived, what it took, and how it ended."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

DONE = "done"
ENDINGS = {
    DONE: "arrived",
    "evaluations": "used up its evaluations (max_evaluations)",
    "step": "would need a step too small for the arithmetic",
    "not finite": "met a derivative that is not finite",
}


class SolverError(RuntimeError):
    """A solve that did not arrive; says which examples, where they stand and what to try."""


@dataclasses.dataclass(frozen=True)
class Solution:
    """The end of a solve, or as far as it came.

    Attributes:
        x: the state, of the shape (or tuple of shapes) that was given.
        t: the time that each example has reached, (batch,) float64.
        evaluations: calls of the field.
        work: evaluations of single examples, all calls together.
        steps: accepted steps of each example, (batch,).
        rejected: rejected steps of each example, (batch,).
        status: 'done', 'evaluations', 'step' or 'not finite'.
        unfinished: positions of the examples that did not arrive.
    """

    x: Any
    t: Tensor
    evaluations: int
    work: int
    steps: Tensor
    rejected: Tensor
    status: str
    unfinished: Tensor

    @property
    def ok(self) -> bool:
        """Whether every example arrived."""
        return self.status == DONE

    def require(self) -> Any:
        """The state, if every example arrived.

        Raises:
            SolverError: if not, with the examples, the time they reached and what to try.
        """
        if self.ok:
            return self.x
        raise SolverError(str(self))

    def __str__(self) -> str:
        cost = f"{self.evaluations} evaluations, {_largest(self.steps)} steps"
        if self.ok:
            return f"solved with {cost}"
        first = ", ".join(map(str, self.unfinished[:5].tolist()))
        more = ", ..." if len(self.unfinished) > 5 else ""
        times = self.t[self.unfinished]
        return (
            f"the solver {ENDINGS[self.status]}: {len(self.unfinished)} of {len(self.t)} examples "
            f"({first}{more}) stopped between t={times.min():.6g} and t={times.max():.6g} after "
            f"{cost}; a smoother field (SiLU, weight decay), a looser tolerance, or more "
            "evaluations may help, and the state so far is in the solution"
        )


def _largest(counts: Tensor) -> int:
    return int(counts.max()) if counts.numel() else 0
