"""What to do about a loss or gradient that is not finite: skip the step, count, and give up."""

from __future__ import annotations

from typing import Any

IN_A_ROW = 10
WINDOW, SHARE = 200, 0.1


class NonFiniteGuard:
    """Counts the steps that were skipped and says when there are too many.

    Attributes:
        skipped: how many steps were skipped in all.

    Example:
        >>> guard = NonFiniteGuard()
        >>> guard.saw(finite=False)
        >>> guard.skipped, guard.hopeless
        (1, False)
    """

    def __init__(self):
        self.skipped = 0
        self.in_a_row = 0
        self.recent: list[int] = []  # the steps skipped among the last WINDOW
        self.step = 0

    def saw(self, finite: bool) -> None:
        """Takes note of one step."""
        self.step += 1
        if finite:
            self.in_a_row = 0
            return
        self.skipped += 1
        self.in_a_row += 1
        self.recent = [step for step in self.recent if step > self.step - WINDOW] + [self.step]

    @property
    def hopeless(self) -> bool:
        """Whether 10 steps in a row, or more than a tenth of the last 200, were skipped."""
        return self.in_a_row >= IN_A_ROW or len(self.recent) > WINDOW * SHARE

    def explanation(self, learning_rate: float) -> str:
        """The message of the error, in words that help."""
        count = (
            f"{self.in_a_row} steps in a row"
            if self.in_a_row >= IN_A_ROW
            else f"{len(self.recent)} of the last {WINDOW} steps"
        )
        return (
            f"the loss or its gradient was not finite in {count} (up to step {self.step}): try a "
            f"lower learning rate (it was {learning_rate:.2g}), a smaller clip, or, for affine "
            f"couplings, a smaller bound; and look at the data for extreme values"
        )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from what `state_dict` gave."""
        vars(self).update(state)
