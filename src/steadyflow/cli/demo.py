"""`steadyflow demo`: one flow on handwritten digits, start to finish."""

from __future__ import annotations

import os
from typing import Any

from steadyflow.cli import console


def demo(*, minutes: float = 1.5, run: str = "runs/demo") -> dict[str, Any]:
    """Trains a small RealNVP on real handwritten digits, and shows what it has learned.

    It learns 1437 images that come with scikit-learn, is evaluated on images that it has never
    seen, draws new ones, and writes a report. An earlier demo is replaced.

    Args:
        minutes: how long to train.
        run: the run folder.
    """
    # so small a model gains nothing from threads, and loses much where others use the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from steadyflow import training
    from steadyflow.cli.finish import finish

    console.say(f"training RealNVP on handwritten digits for {minutes:g} minutes, into {run}")
    done = training.fit(
        "realnvp",
        "digits",
        run=run,
        overwrite=True,
        conditional=True,
        minutes=minutes,
        batch_size=64,  # small steps learn these few images soonest
    )
    return finish(done, report=True)
