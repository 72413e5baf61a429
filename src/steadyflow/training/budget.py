"""How long training lasts, and the learning rate on the way.

    p = max(step / steps, step / (epochs * steps per epoch), time / (60 minutes))    in [0, 1]
    learning rate = highest * min(1, max((step + 1) / warmup, 10 p)) * (1 + cos(pi p)) / 2

The warm-up takes at most a tenth of the budget. With a budget of time the learning rate follows
the clock, so that it reaches 0 when the time is up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from steadyflow.training.options import TrainingOptions

WARMUP_SHARE = 0.1


@dataclass(frozen=True)
class Budget:
    """When training ends.

    Attributes:
        steps: that many steps, or None.
        seconds: that much time, or None.
    """

    steps: int | None
    seconds: float | None

    @classmethod
    def of(cls, options: TrainingOptions, steps_per_epoch: int) -> Budget:
        """The budget of the options; epochs are turned into steps (at least one)."""
        given = options.budget
        steps = [int(given["steps"])] if "steps" in given else []
        if "epochs" in given:
            steps.append(max(1, round(given["epochs"] * steps_per_epoch)))
        minutes = given.get("minutes")
        return cls(min(steps) if steps else None, None if minutes is None else 60 * minutes)

    def progress(self, step: int, seconds: float) -> float:
        """The share of the budget that is used up, from 0 to 1.

        Example:
            >>> Budget(steps=100, seconds=60).progress(step=10, seconds=30)
            0.5
        """
        shares = [0.0]
        if self.steps is not None:
            shares.append(step / self.steps)
        if self.seconds is not None:
            shares.append(seconds / self.seconds)
        return min(1.0, max(shares))


def learning_rate(options: TrainingOptions, step: int, progress: float) -> float:
    """The learning rate of a step (from 0), when `progress` of the budget is used up."""
    ramp = (step + 1) / options.warmup if options.warmup else 1.0
    warm = min(1.0, max(ramp, progress / WARMUP_SHARE))
    fall = (1 + math.cos(math.pi * progress)) / 2 if options.schedule == "cosine" else 1.0
    return options.learning_rate * warm * fall
