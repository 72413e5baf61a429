"""One string names the data: which reader opens it.

A reader is a function that gives `Pieces`; the options it takes are those of its signature, so an
option that makes no sense for a source is refused instead of being passed over.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from steadyflow.data import arrays, content, hub, idx, images, tables, toys
from steadyflow.data.content import DataError
from steadyflow.data.dataset import Dataset, Pieces, assemble
from steadyflow.errors import UsageError, unknown

TOY_POINTS = 10_000
DIGITS = "Handwritten digits 0 to 9, 1797 images of 8 x 8 pixels (from scikit-learn)."

Reader = Callable[..., Pieces]


def open(
    source: str,
    *,
    seed: int = 0,
    validation: float = 0.1,
    test: float = 0.1,
    n: int | None = None,
    size: int | None = None,
    gray: bool = False,
    bits: int | None = None,
    label: str | None = None,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] | None = None,
    key: str | None = None,
    kind: str | None = None,
    layout: str | None = None,
    bounds: Sequence[str] | None = None,
    spread: str = "auto",
) -> Dataset:
    """Opens, checks and splits a data source.

    Args:
        source: a name from `names()`; a .csv, .tsv, .parquet, .npy or .npz file; a folder of
            images; a folder or file in MNIST's IDX format; or ``hub:owner/name/file``. A name
            comes before a file that is called the same: write ``./moons`` for that.
        seed: decides the splits, and a toy's points.
        validation: the share for validation, unless the source brings its own.
        test: the share for the test, unless the source brings its own.
        n: how many points of a toy (10 000).
        size: scale and crop a folder's images to size x size pixels.
        gray: turn a folder's images to gray.
        bits: keep only that many of the bits of each pixel (images; all).
        label: the column of a table, or the array of an npz, that holds the classes.
        columns: the columns to model (all but the label).
        drop: the columns to leave out (none).
        key: the array of an npz to model, where the names do not tell.
        kind: 'vector' or 'image', where an array alone does not tell.
        layout: 'NHWC' or 'NCHW', where an array of images alone does not tell.
        bounds: bounds of columns, NAME=LOW:HIGH, such as share=0:1 or income=0: (models of
            tables).
        spread: 'auto' finds columns of integers and of values that recur, which models of tables
            spread over their grid with noise; 'none' takes all columns as they are.

    Raises:
        UsageError: for an unknown name, a path that does not exist, an option that does not fit.
        DataError: for data that can not be used; the sentence says why and what to do.

    Example:
        >>> moons = open("moons", n=1000)
        >>> moons.event_shape, len(moons.train), len(moons.validation), len(moons.test)
        ((2,), 800, 100, 100)
    """
    asked = {
        "n": n,
        "size": size,
        "gray": gray or None,
        "label": label,
        "columns": list(columns or []) or None,
        "drop": list(drop or []) or None,
        "key": key,
        "kind": kind,
        "layout": layout,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    source = str(source)
    reader = _reader(source, seed)
    _check_options(given, reader, source)
    pieces = reader(**given)
    more = {"bits": bits, "bounds": list(bounds or []) or None}
    options = {**given, **{name: value for name, value in more.items() if value is not None}}
    if spread != "auto":
        options["spread"] = spread
    return assemble(
        pieces,
        source,
        seed=seed,
        validation=validation,
        test=test,
        bits=bits,
        options=options,
        bounds=bounds,
        spread=spread,
    )


def from_arrays(
    x: Any,
    y: Any = None,
    *,
    context: Any = None,
    test_x: Any = None,
    test_y: Any = None,
    validation_x: Any = None,
    validation_y: Any = None,
    seed: int = 0,
    validation: float = 0.1,
    test: float = 0.1,
    name: str = "array",
    bits: int | None = None,
    columns: Sequence[str] | None = None,
    kind: str | None = None,
    layout: str | None = None,
    bounds: Sequence[str] | None = None,
    spread: str = "auto",
) -> Dataset:
    """Checks and splits arrays or tensors that are in memory.

    Args:
        x: vectors (N, D), or images of integers (N, H, W), (N, H, W, C) or (N, C, H, W). With
            ``validation=0, test=0`` float32 vectors and uint8 images are not copied.
        y: classes, (N,), integers or strings, or None.
        context: vectors (N, features) to condition on, p(x | context), instead of classes.
        test_x: examples for the test; None carves them from x.
        test_y: their classes, or contexts.
        validation_x: examples for validation; None carves them from x.
        validation_y: their classes, or contexts.
        seed: decides the splits.
        validation: the share for validation, unless `validation_x` is given.
        test: the share for the test, unless `test_x` is given.
        name: what messages and the run's record call it.
        bits: the pixels are integers in [0, 2**bits) (8).
        columns: the D columns' names (those of x, if it is a data frame).
        kind: 'vector' or 'image', where x alone does not tell.
        layout: 'NHWC' or 'NCHW', where x alone does not tell.
        bounds: bounds of columns, 'NAME=LOW:HIGH'; see `open`.
        spread: 'auto' or 'none'; see `open`.

    Raises:
        UsageError: for an option that does not fit.
        DataError: for data that can not be used.

    Example:
        >>> import numpy as np
        >>> ds = from_arrays(np.random.default_rng(0).normal(size=(50, 3)))
        >>> ds.kind, ds.event_shape, len(ds.train)
        ('vector', (3,), 40)
    """
    if bits is not None and not 1 <= bits <= 8:
        raise UsageError(f"bits={bits} was given: give 1 to 8")
    if y is not None and context is not None:
        raise UsageError("give classes (y=) or vectors to condition on (context=), not both")
    columns = columns if columns is not None else getattr(x, "columns", None)
    y = context if y is None else y
    parts = {"train": (x, y), "validation": (validation_x, validation_y), "test": (test_x, test_y)}
    found = {
        split: None if part is None else (_array(part, name), _array(labels, name))
        for split, (part, labels) in parts.items()
    }
    pieces = arrays.as_pieces(found, kind=kind, layout=layout, where=name)
    is_image = pieces.train[0].ndim == 4
    if not is_image and bits is not None:
        raise UsageError(f"bits={bits} is for images, but {name} holds vectors: leave it out")
    pieces.bits, pieces.contexts = bits or pieces.bits, context is not None
    named = None if columns is None or is_image else [str(column) for column in columns]
    pieces = arrays.select(pieces, named, columns=None, drop=None, where=name)
    return assemble(
        pieces,
        name,
        seed=seed,
        validation=validation,
        test=test,
        bounds=bounds,
        spread=spread,
    )


def as_dataset(data: Any, **options: Any) -> Dataset:
    """Whatever names or holds data, as a `Dataset`.

    Args:
        data: a Dataset (returned as it is), a source (see `open`), or an array, tensor or nested
            list (see `from_arrays`).
        **options: those of `open` or `from_arrays`.

    Raises:
        UsageError: for options beside a Dataset, or an option that is unknown.
        DataError: for data that can not be used.
    """
    if isinstance(data, Dataset):
        if options:
            raise UsageError(
                f"{content.listed(options)} can not be changed for data that is open already: "
                "give them to data.open or data.from_arrays"
            )
        return data
    named = isinstance(data, str | Path)
    function: Callable[..., Dataset] = open if named else from_arrays
    known = list(inspect.signature(function).parameters)[1:]
    for option in options:
        if option not in known:
            raise unknown("data option", option, known)
    return function(str(data) if named else data, **options)


def names() -> dict[str, str]:
    """The bundled sources and one line about each."""
    lines = {name: (draw.__doc__ or "").splitlines()[0] for name, draw in toys.TOYS.items()}
    return {"digits": DIGITS, **lines}


def describe(source: str, **options: Any) -> dict[str, Any]:
    """What is in a source: plain values for ``steadyflow data SOURCE``.

    Args:
        source: as for `open`.
        **options: those of `open`.

    Returns:
        `Dataset.description`, and of the training examples: how many each class has, and for
        vectors of up to 1000 columns the minimum, maximum, mean and standard deviation of each.
    """
    dataset = as_dataset(source, **options)
    result = dataset.description()
    x, y = dataset.train.x.numpy(), dataset.train.y
    if y is not None and dataset.classes is not None:
        counts = np.bincount(y.numpy(), minlength=len(dataset.classes)).tolist()
        result["class_counts"] = dict(zip(dataset.classes, counts, strict=True))
    if dataset.kind == "vector" and x.shape[1] <= 1000:
        wide = x.astype(np.float64)
        result["statistics"] = {
            what: getattr(wide, what)(axis=0).tolist() for what in ("min", "max", "mean", "std")
        }
    return result


def _reader(source: str, seed: int) -> Reader:
    """The function that reads a source; its keyword-only parameters are the options it takes."""
    if source == "digits":
        return _read_digits
    if source in toys.TOYS:
        return partial(_read_toy, source, seed)
    if source.startswith(hub.PREFIX):
        return _file_reader(hub.download(source), source)
    return _file_reader(Path(source).expanduser(), source)


def _file_reader(path: Path, source: str) -> Reader:
    if not path.exists():
        raise _not_found(path, source)
    if idx.is_idx(path):
        return partial(idx.read, path)
    if images.is_image_folder(path):
        return partial(images.read, path)
    for module in (tables, arrays):
        if path.is_file() and path.name.lower().endswith(tuple(module.SUFFIXES)):
            return partial(module.read, path)
    if path.is_dir():
        raise DataError(f"{path} is a folder without images or IDX files: give a file in it")
    raise DataError(
        f"{path} is of a kind that is not known: give one of {', '.join(_suffixes())}, an IDX "
        "file, or a folder of images"
    )


def _suffixes() -> tuple[str, ...]:
    return (*tables.SUFFIXES, *arrays.SUFFIXES)


def _not_found(path: Path, source: str) -> UsageError:
    looks_like_a_path = any(mark in source for mark in "/\\~") or source.endswith(_suffixes())
    if not looks_like_a_path:
        return unknown("data source", source, names())
    beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    hint = f"did you mean {path.parent / near[0]}?" if near else "check the path"
    return UsageError(f"there is no file or folder '{source}': {hint}")


def _check_options(given: dict[str, Any], reader: Reader, source: str) -> None:
    allowed = list(inspect.signature(reader).parameters)
    for name, value in given.items():
        if name not in allowed:
            raise UsageError(
                f"{name}={value!r} does not apply to '{source}', which takes "
                f"{', '.join(allowed) or 'no options of its own'}: leave it out"
            )


def _read_digits() -> Pieces:
    """17 levels a pixel, 0 to 16: five bits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Pieces(train=(digits.images.astype(np.uint8)[:, None], digits.target), bits=5)


def _read_toy(name: str, seed: int, /, *, n: int = TOY_POINTS) -> Pieces:
    return Pieces(train=(toys.toy(name, n, seed), None))


def _array(values: Any, name: str) -> Any:
    """A tensor, list or data frame as a NumPy array; None stays None."""
    if values is None:
        return None
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float().numpy() if "bfloat16" in str(values.dtype) else values.numpy()
    try:
        return values if isinstance(values, np.ndarray) else np.asarray(values)
    except ValueError as error:
        raise DataError(f"{name}: rows of different lengths were given ({error})") from error
