"""A data set: checked tensors in three splits, and the record that lets a run repeat it.

A reader hands over `Pieces`, arrays as they are in the file; `assemble` checks them, carves the
splits that the source does not bring itself, and makes tensors. A split that the source brings
(MNIST's test file, ``x_test`` in an npz) is kept as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from steadyflow.data import content, kinds
from steadyflow.data.content import DataError
from steadyflow.data.splitting import carve
from steadyflow.errors import UsageError

if TYPE_CHECKING:
    import torch

Pair = tuple[np.ndarray, np.ndarray | None]
SPLITS = ("train", "validation", "test")


@dataclass(eq=False)
class Split:
    """Examples, and their classes or contexts if there are any.

    Attributes:
        x: uint8 (N, C, H, W) for images, float32 (N, D) for vectors.
        y: int64 (N,) classes, or float32 (N, features) contexts, or None.
    """

    x: torch.Tensor
    y: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)


@dataclass(eq=False)
class Dataset:
    """What `steadyflow.data.open` gives.

    Attributes:
        name: the string that names the source.
        kind: 'vector' or 'image'.
        event_shape: the shape of one example: (D,) or (C, H, W).
        train: the examples to learn from.
        validation: the examples that decide when to stop; may be empty.
        test: the examples for the last word; may be empty.
        classes: the classes' names in the order of their codes, or None without labels.
        columns: the columns' names, or None for images and unnamed columns.
        bits: pixels are integers in [0, 2**bits); None for vectors.
        integer_columns: the positions of the columns that hold integers only, from 0.
        kinds: what kind of numbers each column holds, see `steadyflow.data.kinds`; None for
            images.
        seed: what the splits (and a toy's points) were drawn from.
        fractions: the asked shares, ``{"validation": 0.1, "test": 0.1}``.
        official: the splits that the source brought itself.
        options: the other options that `open` was given.
    """

    name: str
    kind: str
    event_shape: tuple[int, ...]
    train: Split
    validation: Split
    test: Split
    classes: list[str] | None = None
    columns: list[str] | None = None
    bits: int | None = None
    integer_columns: list[int] = field(default_factory=list)
    kinds: list[kinds.Kind] | None = None
    seed: int = 0
    fractions: dict[str, float] = field(default_factory=dict)
    official: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def context_features(self) -> int | None:
        """The length of the context vectors, or None without them."""
        y = self.train.y
        return y.shape[1] if y is not None and y.dim() == 2 else None

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change when any value, label, order or split changes."""
        digest = hashlib.sha256()
        for name in SPLITS:
            split = getattr(self, name)
            for tensor in (split.x, split.y):
                if tensor is not None:
                    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
                    digest.update(np.ascontiguousarray(tensor.numpy()).data)
        return digest.hexdigest()[:16]

    def description(self) -> dict[str, Any]:
        """Plain values for config.yaml: enough to open the same data and to see that it is.

        It is opened again by
        ``data.open(d["source"], seed=d["seed"], **d["fractions"], **d["options"])``.
        """
        return {
            "source": self.name,
            "seed": self.seed,
            "fractions": dict(self.fractions),
            "options": dict(self.options),
            "kind": self.kind,
            "event_shape": list(self.event_shape),
            "sizes": {name: len(getattr(self, name)) for name in SPLITS},
            "official_splits": list(self.official),
            "classes": self.classes and list(self.classes),
            "columns": self.columns and list(self.columns),
            "integer_columns": list(self.integer_columns),
            "bits": self.bits,
            "fingerprint": self.fingerprint,
        }

    def require_unchanged(self, recorded: dict[str, Any]) -> None:
        """Compares with the `description` of an earlier run.

        Raises:
            DataError: if a value, a label or a split is not what it was then.
        """
        if recorded["fingerprint"] != self.fingerprint:
            now = self.description()
            raise DataError(
                f"{self.name} has changed since the run began (then {recorded['sizes']} examples, "
                f"fingerprint {recorded['fingerprint']}; now {now['sizes']}, "
                f"{now['fingerprint']}): restore the data, or start a new run"
            )


@dataclass
class Pieces:
    """What a reader hands over.

    Attributes:
        train: x, (N, D) numbers or (N, C, H, W) integers, and y, (N,) or None. Everything that
            the source does not say to be validation or test.
        validation: the source's own validation examples, or None to carve them from `train`.
        test: the same for the test examples.
        contexts: the second of each pair are context vectors (N, features) and not classes.
        columns: D names, or None.
        bits: how many bits a pixel has.
    """

    train: Pair
    validation: Pair | None = None
    test: Pair | None = None
    columns: list[str] | None = None
    bits: int = 8
    contexts: bool = False


def assemble(
    pieces: Pieces,
    name: str,
    *,
    seed: int,
    validation: float,
    test: float,
    bits: int | None = None,
    options: dict[str, Any] | None = None,
    bounds: Sequence[str] | None = None,
    spread: str = "auto",
) -> Dataset:
    """Checks the pieces, carves what is missing and makes tensors.

    Args:
        pieces: what a reader hands over.
        name: the string that names the source.
        seed: decides which examples are carved.
        validation: the share that is carved for validation, unless the source brings it.
        test: the share that is carved for the test, unless the source brings it.
        bits: keep only that many bits of each pixel; None keeps all.
        options: what `open` was given besides, for the record.
        bounds: of columns of a table, such as 'share=0:1'.
        spread: of columns of a table; see `steadyflow.data.kinds`.

    Raises:
        DataError: if the content can not be used.
        UsageError: if the options do not fit it.
    """
    given = {key: getattr(pieces, key) for key in SPLITS if getattr(pieces, key) is not None}
    _check_agreement(given, name)
    xs, integer_columns = _checked_examples(given, pieces, bits, name)
    ys, classes = (_checked_contexts if pieces.contexts else _checked_classes)(given, name)
    kind = "vector" if xs["train"].ndim == 2 else "image"
    shares = {"validation": validation, "test": test}
    rows = carve(
        len(xs["train"]),
        validation=0 if "validation" in given else validation,
        test=0 if "test" in given else test,
        seed=seed,
        where=name,
    )
    splits = {
        key: _split(xs[key], ys[key])
        if key in given and key != "train"
        else _split(xs["train"], ys["train"], rows[key])
        for key in SPLITS
    }
    if kind == "image" and (bounds or spread != "auto"):
        raise UsageError(f"bounds and spread are for tables, but {name} holds images: leave them")
    return Dataset(
        name=name,
        kind=kind,
        event_shape=tuple(xs["train"].shape[1:]),
        **splits,
        classes=classes,
        columns=pieces.columns if kind == "vector" else None,
        bits=None if kind == "vector" else bits or pieces.bits,
        integer_columns=integer_columns,
        kinds=None
        if kind == "image"
        else _kinds(xs, integer_columns, pieces, bounds, spread, name),
        seed=seed,
        fractions=shares,
        official=[key for key in given if key != "train"],
        options=options or {},
    )


def _kinds(
    xs: dict[str, np.ndarray],
    integer_columns: list[int],
    pieces: Pieces,
    bounds: Sequence[str] | None,
    spread: str,
    name: str,
) -> list[kinds.Kind]:
    """The kinds of a table's columns; in all splits, so that none meets another kind later."""
    x = xs["train"] if len(xs) == 1 else np.concatenate(list(xs.values()))
    edges = kinds.parse_bounds(bounds, pieces.columns, x.shape[1], name)
    found = kinds.column_kinds(
        x, integer_columns, pieces.columns, bounds=edges, spread=spread, where=name
    )
    if all("value" in kind for kind in found):
        content.refuse_constant_columns(x, pieces.columns, name)
    return found


def _check_agreement(given: dict[str, Pair], name: str) -> None:
    shapes = {key: x.shape[1:] for key, (x, _) in given.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"{name}: the splits hold examples of different shapes, {shapes}")
    if len({y is None for _, y in given.values()}) > 1:
        without = [key for key, (_, y) in given.items() if y is None]
        raise DataError(
            f"{name}: {content.listed(without)} has no labels but the other splits do: give "
            "all of them labels, or none"
        )
    for key, (x, y) in given.items():
        if y is not None and len(x) != len(y):
            raise DataError(f"{name}: {len(x)} examples but {len(y)} labels in '{key}'")


def _checked_examples(
    given: dict[str, Pair], pieces: Pieces, bits: int | None, name: str
) -> tuple[dict[str, np.ndarray], list[int]]:
    if pieces.train[0].ndim == 2:
        if bits is not None:
            raise UsageError(f"bits={bits} is for images, but {name} holds vectors: leave it out")
        checked = {
            key: content.checked_vectors(x, pieces.columns, name) for key, (x, _) in given.items()
        }
        whole = np.logical_and.reduce([integer for _, integer in checked.values()])
        return {key: x for key, (x, _) in checked.items()}, np.flatnonzero(whole).tolist()
    images = {key: content.checked_images(x, pieces.bits, name) for key, (x, _) in given.items()}
    keep = pieces.bits if bits is None else bits
    return {key: content.fewer_bits(x, pieces.bits, keep, name) for key, x in images.items()}, []


def _checked_classes(
    given: dict[str, Pair], name: str
) -> tuple[dict[str, np.ndarray | None], list[str] | None]:
    labels = {key: y for key, (_, y) in given.items() if y is not None}
    if not labels:
        return dict.fromkeys(given), None
    codes, classes = content.checked_labels(list(labels.values()), name)
    return dict(zip(labels, codes, strict=True)), classes


def _checked_contexts(
    given: dict[str, Pair], name: str
) -> tuple[dict[str, np.ndarray | None], list[str] | None]:
    contexts = {key: y for key, (_, y) in given.items() if y is not None}
    checked = content.checked_context(list(contexts.values()), name)
    if len({context.shape[1] for context in checked}) > 1:
        raise DataError(f"{name}: the splits hold contexts of different lengths")
    return dict(zip(contexts, checked, strict=True)), None


def _split(x: np.ndarray, y: np.ndarray | None, rows: np.ndarray | None = None) -> Split:
    if rows is not None:
        x, y = x[rows], None if y is None else y[rows]
    return Split(_tensor(x), None if y is None else _tensor(y))


def _tensor(array: np.ndarray) -> torch.Tensor:
    import torch

    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())
