"""One file a model, each a `GenerativeModel` that reads like its paper.

Models are imported when they are first asked for, so that `steadyflow --help` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from steadyflow.errors import unknown

if TYPE_CHECKING:
    from steadyflow.models.model import GenerativeModel as GenerativeModel
    from steadyflow.models.nice import NICE as NICE
    from steadyflow.models.realnvp import RealNVP as RealNVP

# name on the command line -> (module, class, one line for the list of models)
MODELS: dict[str, tuple[str, str, str]] = {
    "nice": ("nice", "NICE", "additive coupling and a diagonal scaling (Dinh et al. 2014)"),
    "realnvp": ("realnvp", "RealNVP", "affine coupling, multi-scale for images (Dinh et al. 2016)"),
}


def model_class(name: str) -> type[GenerativeModel]:
    """The class of a model by its command-line name; an unknown one suggests the nearest."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    module, attribute, _ = MODELS[name]
    return getattr(importlib.import_module(f"steadyflow.models.{module}"), attribute)


def __getattr__(attribute: str) -> Any:
    if attribute == "GenerativeModel":
        return importlib.import_module("steadyflow.models.model").GenerativeModel
    for name, (_, known, _) in MODELS.items():
        if attribute == known:
            return model_class(name)
    raise AttributeError(f"module 'steadyflow.models' has no attribute '{attribute}'")


def __dir__() -> list[str]:
    return ["MODELS", "GenerativeModel", "model_class", *(known for _, known, _ in MODELS.values())]
