"""Does the model fit the data? Building it so that it does, and saying why it does not."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from steadyflow.errors import UsageError, unknown

if TYPE_CHECKING:
    from steadyflow.data import Dataset
    from steadyflow.models.model import GenerativeModel


def build(
    model: GenerativeModel | str, dataset: Dataset, conditional: bool, options: dict[str, Any]
) -> GenerativeModel:
    """The model itself, or the one of that name built for the data.

    Args:
        model: a model or a name.
        dataset: gives event_shape, bits, context_features and, if `conditional`, num_classes.
        conditional: whether the model is to be given the class.
        options: arguments of the constructor; they go before what the data say.

    Raises:
        UsageError: for an unknown model or option, or options beside a model that is built.
    """
    from steadyflow.models import model_class

    if not isinstance(model, str):
        if conditional or options:
            raise UsageError(
                "conditional and model_options are for a model given by name, but this one is "
                "built already: build it with them"
            )
        return model
    constructor = model_class(model)
    known = inspect.signature(constructor).parameters
    for option in options:
        if option not in known:
            raise unknown(f"option of {model}", option, known)
    given: dict[str, Any] = {"event_shape": list(dataset.event_shape)}
    if dataset.context_features is not None:
        given["context_features"] = dataset.context_features
    elif conditional:
        if not dataset.classes:
            raise UsageError(
                f"conditional needs classes, but {dataset.name} has none: name the column that "
                "holds them with label=, or leave conditional out"
            )
        given["num_classes"] = len(dataset.classes)
    if dataset.bits is not None and "bits" in known:
        given["bits"] = dataset.bits
    if "columns" in known and any(set(kind) > {"name"} for kind in dataset.kinds or ()):
        given["columns"] = dataset.kinds
    return constructor(**{**given, **options})


def check(model: GenerativeModel, dataset: Dataset) -> None:
    """Compares shapes, classes and pixels.

    Raises:
        UsageError: if the model can not be trained on the data, with both sides.
        DataError: if the data have a constant column, and the model no way with it.
    """
    name = type(model).__name__
    if model.event_shape != tuple(dataset.event_shape):
        raise UsageError(
            f"this {name} is for examples of shape {list(model.event_shape)}, but those of "
            f"{dataset.name} have shape {list(dataset.event_shape)}: build it with "
            f"event_shape={list(dataset.event_shape)}"
        )
    if model.context_features != dataset.context_features:
        there = dataset.context_features
        has = f"a context of {there} for each example" if there else "only examples and classes"
        raise UsageError(
            f"this {name} needs a context of {model.context_features or 0} numbers, but "
            f"{dataset.name} has {has}: build it "
            + (f"with context_features={there}" if there else "without context_features")
        )
    if model.num_classes is not None:
        _check_classes(model, dataset, model.num_classes)
    # a model that whitens all examples finds what is constant by itself, in any direction
    finds_out = model.initializes_on_all or model.config.get("columns")
    if dataset.kind == "vector" and not finds_out:
        _refuse_constant_columns(dataset)
    bits = model.config.get("bits")
    if dataset.bits is not None and bits is not None and bits < dataset.bits:
        raise UsageError(
            f"this {name} is for {bits}-bit pixels, but those of {dataset.name} have "
            f"{dataset.bits} bits: build it with bits={dataset.bits}"
        )


def _refuse_constant_columns(dataset: Dataset) -> None:
    """For models that do not leave constant columns out by themselves."""
    from steadyflow.data.content import refuse_constant_columns

    refuse_constant_columns(dataset.train.x.numpy(), dataset.columns, dataset.name)


def _check_classes(model: GenerativeModel, dataset: Dataset, known: int) -> None:
    name = type(model).__name__
    if dataset.train.y is None or dataset.classes is None:
        raise UsageError(
            f"this {name} needs class labels (num_classes={known}), but {dataset.name} has none: "
            "name the column that holds them with label=, or build it without num_classes"
        )
    if len(dataset.classes) > known:
        raise UsageError(
            f"this {name} knows {known} classes, but {dataset.name} has {len(dataset.classes)}: "
            f"build it with num_classes={len(dataset.classes)}"
        )
