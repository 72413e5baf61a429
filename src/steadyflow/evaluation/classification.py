"""How often Bayes' rule finds the class: a class-conditional likelihood model as a classifier.

c(x) = argmax_c p(x | c) P(c)             accuracy = mean [c(x) = c], with its standard error
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from steadyflow.errors import UsageError
from steadyflow.evaluation import access
from steadyflow.evaluation.access import Model
from steadyflow.evaluation.round_trip import evenly


@dataclasses.dataclass(frozen=True)
class Classification:
    """How a model classifies.

    Attributes:
        right: examples whose class was found.
        examples: in all.
        confusion: (classes, classes), how often examples of a class (row) were given each class.
    """

    right: int
    examples: int
    confusion: list[list[int]]

    @property
    def accuracy(self) -> float:
        """The share of right ones."""
        return self.right / self.examples

    @property
    def standard_error(self) -> float:
        """Of the accuracy."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.examples)

    def __str__(self) -> str:
        return (
            f"class found by Bayes' rule for {self.right:,} of {self.examples:,} examples: "
            f"{self.accuracy:.2%} ± {self.standard_error:.2%}"
        )


def classify(
    model: Model,
    split: Any,
    *,
    draws: int = 1,
    limit: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
) -> Classification:
    """Classifies the examples of a split by the model's `predict_proba`, all classes alike.

    Args:
        model: class-conditional.
        split: with `x`, (N, *event), and labels `y`, (N,).
        draws: of the noise of dequantization.
        limit: at most so many examples, taken evenly from the split.
        batch_size: examples at once.
        seed: of the noise.

    Raises:
        UsageError: if the model or the split has no classes.
    """
    classes = getattr(model, "num_classes", None)
    if classes is None or not hasattr(model, "predict_proba"):
        raise UsageError(f"this {access.model_name(model)} knows no classes: it can not classify")
    rows = evenly(len(split.x), limit)
    truth = access.context_of(model, None if split.y is None else split.y[rows])
    found: list[Tensor] = []
    with access.at_rest(model, seed):
        for part in split.x[rows].split(batch_size):
            found.append(model.predict_proba(access.bring(model, part), draws=draws).argmax(1))
    assert truth is not None
    pairs = (truth * classes + torch.cat(found)).bincount(minlength=classes**2)
    confusion = pairs.view(classes, classes)
    return Classification(int(confusion.trace()), len(rows), confusion.tolist())
