"""The one training loop and the run folder that it leaves.

    fit(model, data, run="runs/moons")     trains; what `steadyflow train` does
    resume("runs/moons")                   continues exactly where a run stopped
    load("runs/moons")                     the trained model
    Run.open("runs/moons")                 everything else that the run left

Importing this package imports neither torch nor Lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steadyflow.training.fitting import FitResult as FitResult
    from steadyflow.training.fitting import fit as fit
    from steadyflow.training.fitting import load as load
    from steadyflow.training.fitting import resume as resume
    from steadyflow.training.options import TrainingOptions as TrainingOptions
    from steadyflow.training.processes import is_main_process as is_main_process
    from steadyflow.training.run import Run as Run

_HOMES = {
    "FitResult": "fitting",
    "Run": "run",
    "TrainingOptions": "options",
    "fit": "fitting",
    "is_main_process": "processes",
    "load": "fitting",
    "resume": "fitting",
}

__all__ = ["FitResult", "Run", "TrainingOptions", "fit", "is_main_process", "load", "resume"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"steadyflow.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'steadyflow.training' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
