"""NumPy files, and arrays in memory: which is which.

How an array is understood, by its axes:

    (N, D)                         vectors; D bytes (uint8) are unclear, so ``kind=`` decides
    (N, H, W)                      gray images
    (N, H, W, C) or (N, C, H, W)   images; the axis of length 1 or 3 is the channels, and if that
                                   is none or both of them, ``layout=`` decides

How an npz file is understood, by its names (`{}` is train, val, valid, validation or test):

    x_{}, X_{}, {}_x, {}_images or {}    the splits, with y_{}, {}_y or {}_labels
    x, X, data or images                 everything, with y, labels or target
    names or columns                     the columns' names
"""

from __future__ import annotations

import lzma
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from steadyflow.data.columns import choose
from steadyflow.data.content import DataError, column_names
from steadyflow.data.dataset import Pair, Pieces
from steadyflow.errors import UsageError, unknown

SUFFIXES = (".npy", ".npz")
X_SPLIT = ("x_{}", "X_{}", "{}_x", "{}_images", "{}")
Y_SPLIT = ("y_{}", "{}_y", "{}_labels")
X_WHOLE = ("x", "X", "data", "images")
Y_WHOLE = ("y", "labels", "target")
NAMES = ("names", "columns")
SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("val", "valid", "validation"),
    "test": ("test",),
}
CHANNELS = (1, 3)
Arrays = Mapping[str, np.ndarray]


def read(
    path: Path,
    *,
    key: str | None = None,
    label: str | None = None,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] | None = None,
    kind: str | None = None,
    layout: str | None = None,
) -> Pieces:
    """Reads a .npy or .npz file; never a pickle.

    Args:
        path: the file.
        key: the array of an npz to model, if its names do not tell.
        label: the labels' array of an npz (``smile`` for ``smile_train`` and ``smile_test``).
        columns: the columns to model, by name, or by number from 0 if they have no names.
        drop: columns to leave out.
        kind: 'vector' or 'image', where the array alone does not tell.
        layout: 'NHWC' or 'NCHW', where the array alone does not tell.

    Raises:
        UsageError: for names that are not there.
        DataError: for a damaged file, or arrays that are not understood.
    """
    with _reading(path), _load(path) as arrays:
        found = _found(arrays, key, label, path)
        named = _first(arrays, NAMES)
        names = None if named is None else [str(name) for name in arrays[named].ravel()]
    pieces = as_pieces(found, kind=kind, layout=layout, where=str(path))
    return select(pieces, names, columns=columns, drop=drop, where=str(path))


def as_pieces(
    found: Mapping[str, Pair | None], *, kind: str | None, layout: str | None, where: str
) -> Pieces:
    """Arrays of any understood form as vectors (N, D) or images (N, C, H, W).

    Raises:
        UsageError: for an unknown kind or layout.
        DataError: for a number of axes that is not understood, or an unclear one.
    """
    if kind not in (None, "vector", "image"):
        raise unknown("kind", str(kind), ["vector", "image"])
    if layout not in (None, "NHWC", "NCHW"):
        raise unknown("layout", str(layout), ["NHWC", "NCHW"])
    train, validation, test = (
        None
        if pair is None
        else (canonical(pair[0], kind=kind, layout=layout, where=where), pair[1])
        for pair in map(found.get, ("train", "validation", "test"))
    )
    if train is None:
        raise DataError(f"{where}: nothing to train on was given: give an array")
    boolean = train[0].ndim == 4 and train[0].dtype == bool
    return Pieces(train, validation, test, bits=1 if boolean else 8)


def canonical(
    x: np.ndarray, *, kind: str | None = None, layout: str | None = None, where: str
) -> np.ndarray:
    """One array as vectors (N, D) or images (N, C, H, W), by the rules above; a view if it can.

    Raises:
        DataError: if the axes are not understood.
    """
    if x.ndim == 2 and kind == "image":
        return _square(x, where)
    if x.ndim == 2:
        if x.dtype == np.uint8 and kind is None:
            raise DataError(
                f"{where}: an array of bytes (uint8) of shape {x.shape} may be a table or flat "
                "images: say kind='vector' or kind='image'"
            )
        return x
    if kind == "vector" or x.ndim not in (3, 4) or (x.ndim == 3 and x.dtype.kind == "f"):
        raise DataError(
            f"{where}: an array of shape {x.shape} and type {x.dtype} was given, but vectors have "
            "shape (N, D), and images are integers of shape (N, H, W), (N, H, W, C) or "
            "(N, C, H, W): reshape it"
        )
    if x.ndim == 3:
        return x[:, None]
    layout = layout or _layout(x, where)
    return x if layout == "NCHW" else x.transpose(0, 3, 1, 2)


def select(
    pieces: Pieces,
    names: list[str] | None,
    *,
    columns: Sequence[str] | None,
    drop: Sequence[str] | None,
    where: str,
) -> Pieces:
    """Vectors with some of their columns only.

    Raises:
        UsageError: for a column that is not there, or columns of images.
        DataError: if there are more or fewer names than columns.
    """
    x = pieces.train[0]
    if x.ndim != 2:
        if columns or drop:
            raise UsageError(f"columns= and drop= are for vectors, but {where} holds images")
        return pieces
    if names is not None and len(names) != x.shape[1]:
        raise DataError(f"{where}: {len(names)} names were given for {x.shape[1]} columns")
    every = column_names(names, x.shape[1])
    if columns or drop:
        kept = choose(every, columns=columns, drop=drop, where=where)
        every = [every[i] for i in kept]
        for name in ("train", "validation", "test"):
            pair = getattr(pieces, name)
            if pair is not None:
                setattr(pieces, name, (pair[0][:, kept], pair[1]))
        pieces.columns = every
    else:
        pieces.columns = names
    return pieces


def _layout(x: np.ndarray, where: str) -> str:
    last, first = x.shape[3] in CHANNELS, x.shape[1] in CHANNELS
    if last == first:
        found = "both axis 1 and axis 3 have" if last else "neither axis 1 nor axis 3 has"
        raise DataError(
            f"{where}: images of shape {x.shape}, in which {found} length 1 or 3, so the channels "
            "are unclear: say layout='NHWC' or layout='NCHW'"
        )
    return "NHWC" if last else "NCHW"


def _square(x: np.ndarray, where: str) -> np.ndarray:
    side = round(x.shape[1] ** 0.5)
    if side**2 != x.shape[1]:
        raise DataError(
            f"{where}: {x.shape[1]} pixels an image are not a square: reshape it to (N, H, W)"
        )
    return x.reshape(len(x), 1, side, side)


@contextmanager
def _load(path: Path) -> Iterator[Arrays]:
    with path.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        if path.suffix.lower() == ".npy":
            if start != b"\x93NUMPY":
                raise DataError(f"{path} is not a .npy file: it starts with {start!r}")
            # a map of the file: what is carved from it is the only copy in memory
            yield {"x": np.load(path, mmap_mode="r", allow_pickle=False)}
            return
        if start[:2] != b"PK":
            raise DataError(f"{path} is not a .npz file: it starts with {start!r}")
        with np.load(file, allow_pickle=False) as arrays:
            yield arrays


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what NumPy raises for damaged files into one sentence."""
    try:
        yield
    except (DataError, UsageError):
        raise
    except (
        ValueError,
        EOFError,
        OSError,
        KeyError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        NotImplementedError,
        MemoryError,
        SyntaxError,
        tokenize.TokenError,  # of a header, which NumPy reads as Python's
    ) as error:
        if "pickle" in str(error) or "Python object" in str(error):
            raise DataError(
                f"{path} holds Python objects, which are never opened because they can run code: "
                "save plain numbers"
            ) from error
        raise DataError(f"{path} is damaged or cut off ({error}): get it again") from error


def _found(
    arrays: Arrays, key: str | None, label: str | None, path: Path
) -> dict[str, Pair | None]:
    """The arrays of each split, by their names."""
    whole = key or _first(arrays, X_WHOLE)
    if key is None and _split_key(arrays, X_SPLIT, "train"):
        return {name: _split_pair(arrays, name, label, path) for name in SPLIT_NAMES}
    if key is not None and key not in arrays:
        raise unknown(f"array of {path}", key, arrays)
    if whole is None and len(list(arrays)) == 1:
        whole = next(iter(arrays))
    if whole is None:
        raise DataError(
            f"{path} has the arrays {_shapes(arrays)}, none of which is called x or x_train: "
            "name the one to model with key="
        )
    if label is not None and label not in arrays:
        raise unknown(f"array of {path}", label, arrays)
    labels = label or (None if key else _first(arrays, Y_WHOLE))
    return {"train": (arrays[whole], None if labels is None else arrays[labels])}


def _split_pair(arrays: Arrays, split: str, label: str | None, path: Path) -> Pair | None:
    x = _split_key(arrays, X_SPLIT, split)
    if x is None:
        return None
    patterns = Y_SPLIT if label is None else (f"{label}_{{}}", f"{{}}_{label}")
    y = _split_key(arrays, patterns, split)
    if label is not None and y is None:
        raise unknown(f"array of {path}", f"{label}_{split}", arrays)
    return arrays[x], None if y is None else arrays[y]


def _split_key(arrays: Arrays, patterns: Sequence[str], split: str) -> str | None:
    return _first(arrays, [p.format(name) for p in patterns for name in SPLIT_NAMES[split]])


def _first(arrays: Arrays, keys: Sequence[str]) -> str | None:
    return next((key for key in keys if key in arrays), None)


def _shapes(arrays: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {arrays[key].shape}" for key in arrays)
