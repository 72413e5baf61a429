"""The options of models, data and training, as one command offers them side by side.

They are read off the model's constructor, `data.open` and `TrainingOptions`. What the data decide
(the shape, the classes, the bits of a pixel) is not asked of the user.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from steadyflow.cli.options import Option, read
from steadyflow.models import model_class

ALL_SAMPLE = ("n", "context", "temperature", "generator")
FROM_DATA = ("event_shape", "num_classes", "context_features", "bits", "columns")


def model_options(name: str) -> list[Option]:
    """What can be chosen about a model; this imports it, and torch."""
    return read(model_class(name), leave_out=FROM_DATA)


def sampling_options(model: Any) -> list[Option]:
    """What can be chosen about a model's draws, besides what all models can do."""
    return [option for option in read(model.sample, ALL_SAMPLE) if not option.positional]


def data_options() -> list[Option]:
    """What can be chosen about a source; its seed is ``--data-seed``."""
    from steadyflow import data

    return [
        dataclasses.replace(option, flag="data-seed" if option.name == "seed" else option.flag)
        for option in read(data.open, leave_out=["source"])
    ]


def training_options() -> list[Option]:
    """What can be chosen about the training."""
    from steadyflow.training import TrainingOptions

    return read(TrainingOptions)


def apart(groups: dict[str, list[Option]]) -> dict[str, list[Option]]:
    """The groups with no flag twice: of two, the later one is led by its group's name.

    A model's own options give way to all others, so that data and training are the same for all.
    """
    taken: set[str] = set()
    result = dict(groups)
    for title in sorted(groups, key=lambda title: title == "model"):
        result[title] = [
            dataclasses.replace(o, flag=f"{title}-{o.flag}") if o.flag in taken else o
            for o in groups[title]
        ]
        taken |= {o.flag for o in result[title]}
    return result
