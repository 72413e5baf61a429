"""What the arrays of a source must be, checked once at the door.

    vectors   (N, D) numbers   -> float32 (N, D), finite, and no column with one value only
    images    (N, C, H, W)     -> uint8, integers in [0, 2**bits)
    labels    (N,)             -> int64 codes 0..K-1 and K class names

Every refusal is a `DataError` of one sentence: what there is, what is expected, what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from steadyflow.errors import UsageError


class DataError(ValueError):
    """The data itself can not be used: damaged, incomplete or of the wrong kind."""


def listed(names: Iterable[object], at_most: int = 4) -> str:
    """Names in a sentence: ``'a', 'b' and 3 more``."""
    names = list(names)
    shown = ", ".join(f"'{name}'" for name in names[:at_most])
    return shown + (f" and {len(names) - at_most} more" if len(names) > at_most else "")


def column_names(columns: Sequence[str] | None, width: int) -> list[str]:
    """The columns' names; a column without one is called by its number, from 0."""
    return list(columns) if columns is not None else [str(i) for i in range(width)]


def checked_vectors(
    x: np.ndarray, columns: Sequence[str] | None, where: str, first: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers as float32, and which columns hold integers only.

    Args:
        x: any real, integer or boolean type, (N, D); not copied if it is float32.
        columns: D names for the messages, or None.
        where: the name of the source, for the messages.
        first: how many rows of the source come before these.

    Returns:
        x as float32 (N, D), and a bool array (D,) that is true for integer-valued columns.

    Raises:
        DataError: if there is nothing in it, if a value is missing, infinite or beyond float32's
            range, or if it holds anything but numbers.
    """
    _check_type_and_size(x, where)
    names = column_names(columns, x.shape[1])
    if x.dtype.kind == "f":
        cure = "fill them in or remove those rows"
        _refuse(np.isnan(x), names, where, "missing (NaN) values", cure, first)
        _refuse(np.isinf(x), names, where, "infinite values", "remove those rows", first)
    with np.errstate(over="ignore"):
        narrow = x.astype(np.float32, copy=False)
    if x.dtype.itemsize > narrow.dtype.itemsize:
        what = "values beyond 3.4e38, float32's range"
        cure = "divide it or take its logarithm"
        _refuse(np.isinf(narrow), names, where, what, cure, first)
    return narrow, _integer_columns(x)


def refuse_constant_columns(x: np.ndarray, columns: Sequence[str] | None, where: str) -> None:
    """Raises a DataError if a column of the training data, (N, D), has one value only."""
    constant = np.flatnonzero((x == x[:1]).all(axis=0))
    if len(constant):
        names = column_names(columns, x.shape[1])
        guilty = [names[i] for i in constant]
        raise DataError(
            f"{where}: column {listed(guilty)} has one value only ({x[0, constant[0]]:g}, as "
            f"float32) in all {len(x)} rows, so a density on it has no bound: leave it out with "
            f"drop={guilty[:4]!r}, or take maf or spline-flow, by name, which do so themselves"
        )


def checked_images(x: np.ndarray, bits: int, where: str) -> np.ndarray:
    """Pixels as uint8 (N, C, H, W), each in [0, 2**bits); not copied if it is uint8.

    Raises:
        DataError: if there is nothing in it, if it is not integers, or if a value lies outside.
    """
    _check_type_and_size(x, where)
    if x.dtype.kind == "f":
        raise DataError(
            f"{where}: images of type {x.dtype} were given, but pixels must be integers in "
            f"0..{2**bits - 1}: scale them and cast with .astype('uint8')"
        )
    low, high = int(x.min()), int(x.max())
    if low < 0 or high >= 2**bits:
        raise DataError(
            f"{where}: pixels run from {low} to {high}, but with {bits} bits they must be in "
            f"0..{2**bits - 1}: rescale them, or give the right bits= (1 to 8)"
        )
    return x.astype(np.uint8, copy=False)


def fewer_bits(x: np.ndarray, bits: int, keep: int, where: str) -> np.ndarray:
    """Images of `bits` bits with only the `keep` highest, as Glow does for its 5-bit faces.

    Raises:
        UsageError: if `keep` is not in 1..bits.
        DataError: if nothing but one value is left.
    """
    if not 1 <= keep <= bits:
        raise UsageError(f"bits={keep} was given, but {where} has {bits} bits: give 1 to {bits}")
    x = x >> np.uint8(bits - keep) if keep < bits else x
    if x.min() == x.max():
        raise DataError(f"{where}: every pixel of every image is {x.flat[0]} at {keep} bits")
    return x


def checked_context(contexts: Sequence[np.ndarray], where: str) -> list[np.ndarray]:
    """Context vectors as float32: one array (N, features) a split.

    Raises:
        DataError: if they are not vectors of finite numbers.
    """
    for context in contexts:
        if context.ndim != 2 or context.dtype.kind not in "fiub":
            raise DataError(
                f"{where}: a context of shape {context.shape} and type {context.dtype} was given, "
                "but numbers of shape (N, features) are expected"
            )
        if not np.isfinite(context).all():
            raise DataError(f"{where}: the context holds NaN or infinite values: fill them in")
    return [context.astype(np.float32, copy=False) for context in contexts]


def checked_labels(labels: Sequence[np.ndarray], where: str) -> tuple[list[np.ndarray], list[str]]:
    """Class labels as codes, and the classes' names.

    Integers that are 0..K-1 already stay as they are (up to half of them may not occur). All
    others, and strings, are numbered in sorted order.

    Args:
        labels: one array (N,) or (N, 1) a split, of integers, booleans or strings.
        where: the name of the source, for the messages.

    Returns:
        int64 (N,) for each split, and K names.

    Raises:
        DataError: for labels that are missing or are not classes.
    """
    flat = [_flat(label, where) for label in labels]
    together = as_integers(np.concatenate(flat), where)
    values, codes = np.unique(together, return_inverse=True)
    if values.dtype.kind in "iu" and values[0] == 0 and values[-1] < 2 * len(values):
        values, codes = np.arange(values[-1] + 1), together
    ends = np.cumsum([len(label) for label in flat])[:-1]
    return np.split(codes.astype(np.int64), ends), [str(value) for value in values]


def _check_type_and_size(x: np.ndarray, where: str) -> None:
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise DataError(
            f"{where}: {np.ma.count_masked(x)} values are masked: fill them in or remove them"
        )
    if x.dtype.kind not in "fiub":
        raise DataError(
            f"{where}: values of type {x.dtype} were given, but real numbers are expected: "
            "convert them with .astype('float32')"
        )
    if x.size == 0:
        raise DataError(f"{where}: nothing in it, its shape is {x.shape}: give at least two rows")


def _refuse(
    bad: np.ndarray, names: list[str], where: str, what: str, cure: str, first: int
) -> None:
    if not bad.any():
        return
    counts = bad.sum(axis=0)
    guilty = [names[i] for i in np.flatnonzero(counts)]
    rows = int(bad.any(axis=1).sum())
    raise DataError(
        f"{where}: column {listed(guilty)} has {what}, in {rows} of {len(bad)} rows (the first "
        f"is row {first + int(bad.any(axis=1).argmax()) + 1}): {cure}"
    )


def _integer_columns(x: np.ndarray) -> np.ndarray:
    if x.dtype.kind != "f":
        return np.ones(x.shape[1], dtype=bool)
    whole = (x[:1000] == np.floor(x[:1000])).all(axis=0)  # most columns are out at once
    for i in np.flatnonzero(whole):
        whole[i] = (x[:, i] == np.floor(x[:, i])).all()
    return whole


def _flat(label: np.ndarray, where: str) -> np.ndarray:
    if label.ndim == 2 and label.shape[1] == 1:
        return label[:, 0]
    if label.ndim != 1:
        raise DataError(
            f"{where}: labels of shape {label.shape} were given, but one class for each example, "
            "shape (N,), is expected"
        )
    return label


def as_integers(labels: np.ndarray, where: str) -> np.ndarray:
    """Labels as integers where they can be; strings that are no numbers stay as they are.

    Raises:
        DataError: for labels that are missing or are not classes.
    """
    if labels.dtype.kind == "b":
        return labels.astype(np.int64)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8")
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels):
        labels = labels.astype(str)  # a data frame's strings
    if labels.dtype.kind == "U":
        return _text_as_integers(labels, where)
    if labels.dtype.kind == "f" and (labels == np.floor(labels)).all():
        return labels.astype(np.int64)
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{where}: labels must be classes, integers or strings, but type {labels.dtype} with "
            f"values such as {labels.flat[0]!s} was given: choose another label column"
        )
    return labels


def _text_as_integers(labels: np.ndarray, where: str) -> np.ndarray:
    missing = np.flatnonzero(np.char.str_len(np.char.strip(labels)) == 0)
    if len(missing):
        raise DataError(
            f"{where}: {len(missing)} of {len(labels)} labels are missing (the first in row "
            f"{missing[0] + 1}): fill them in or remove those rows"
        )
    try:
        numbers = labels.astype(np.int64)
    except (ValueError, OverflowError):
        return labels
    return numbers if (numbers.astype(labels.dtype) == labels).all() else labels
