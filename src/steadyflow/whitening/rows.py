"""Rows of any number from anywhere, some thousand at a time.

    array, memory map, tensor     (n, d)
    x.npy                         read as a memory map
    x.npz                         the array `x` (or `vectors`, `embeddings`, the only one), or key=
    x.parquet                     one column of lists, or numeric columns; or columns=
    folder                        of such files, in the order of their names
    iterable                      of arrays, one batch each

Nothing is held but one batch. A damaged file gives all whole rows before the damage, and then the
error: what was done with them is not lost.
"""

from __future__ import annotations

import functools
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steadyflow.data.content import DataError
from steadyflow.distributed import map_files
from steadyflow.errors import UsageError, require
from steadyflow.whitening.moments import Moments

BATCH = 8192
SUFFIXES = (".npy", ".npz", ".parquet")
KEYS = ("x", "vectors", "embeddings")


def batches(
    source: Any,
    *,
    key: str | None = None,
    columns: Sequence[str] | None = None,
    batch_size: int = BATCH,
) -> Iterator[np.ndarray]:
    """The rows of a source: (at most batch_size, d) at a time.

    Args:
        source: an array, a tensor, a path or an iterable of arrays; see above.
        key: the array of an npz.
        columns: the columns of a Parquet file.
        batch_size: rows at a time.

    Raises:
        UsageError: for a path that does not exist, or another ending.
        DataError: for a damaged file; after the rows before the damage.
    """
    if isinstance(source, str | os.PathLike):
        for path in _files(Path(source).expanduser()):
            if path.suffix == ".npy":
                yield from _from_npy(path, batch_size)
            elif path.suffix == ".npz":
                yield from _sliced(_from_npz(path, key), batch_size)
            else:
                yield from _from_parquet(path, columns, batch_size)
    elif hasattr(source, "shape"):
        yield from _sliced(source, batch_size)
    elif isinstance(source, Iterable):
        for batch in source:
            yield from _sliced(batch if hasattr(batch, "shape") else np.asarray(batch), batch_size)
    else:
        raise UsageError(f"a {type(source).__name__} was given: an array or a path is expected")


def stream_moments(
    source: Any, into: Moments | None = None, *, precision: str = "float64", **options: Any
) -> Moments:
    """The moments of a source larger than memory.

    Args:
        source: as for `batches`.
        into: moments that are updated in place, batch by batch, so that they hold what came
            before an error.
        precision: as for `Moments.update`.
        **options: of `batches`.

    Raises:
        UsageError: if there are no rows.
    """
    for batch in batches(source, **options):
        into = Moments(batch.shape[1]) if into is None else into
        into.update(batch, precision)
    if into is None:
        raise UsageError("there are no rows to fit on")
    return into


def fit_files(
    files: Sequence[str],
    *,
    workers: int = 0,
    scheduler: str | None = None,
    progress: Any = None,
    **options: Any,
) -> Moments:
    """The moments of many files, in parts on Dask's workers, and merged.

    What travels is the state of 8 (d^2 + d + 1) bytes and never a vector.

    Args:
        files: as every worker sees them.
        workers: processes of this machine; 0 works here, one file after another.
        scheduler: the address of a Dask scheduler, instead of workers.
        progress: called with (files done, files in all).
        **options: of `stream_moments`.

    Raises:
        ImportError: for workers without Dask, with the line that installs it.
    """
    part = functools.partial(stream_moments, **options)
    found = map_files(part, list(files), workers=workers, scheduler=scheduler, progress=progress)
    if not found:
        raise UsageError("no files were given: there is nothing to fit on")
    return functools.reduce(Moments.merge, found)


def count_rows(path: str | Path, key: str | None = None) -> int | None:
    """How many rows a path holds, where its header tells; None where one would have to read it."""
    total = 0
    for file in _files(Path(path).expanduser()):
        if file.suffix == ".npz":
            return None
        if file.suffix == ".npy":
            total += _header(file)[0][0]
        else:
            parquet = require("pyarrow.parquet", "parquet", f"reading {file.name}")
            total += parquet.ParquetFile(file).metadata.num_rows
    return total


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        if not found:
            raise UsageError(f"{path} holds no {', '.join(SUFFIXES)} files")
        return found
    if not path.exists():
        raise UsageError(f"there is no file {path}")
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path} is none of {', '.join(SUFFIXES)}, nor a folder of them")
    return [path]


def _sliced(rows: Any, batch_size: int) -> Iterator[Any]:
    if rows.ndim != 2:
        raise UsageError(f"rows of shape (n, d) are expected, got {tuple(rows.shape)}")
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]


@functools.lru_cache(maxsize=64)
def _header(path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, type and the place of the first number of a .npy file."""
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read(file)
        except ValueError as error:
            raise DataError(f"{path} is not a .npy file, or it is damaged: {error}") from error
        if fortran or dtype.hasobject or len(shape) != 2:
            raise DataError(
                f"{path} holds an array of shape {shape}: rows (n, d) of numbers, one after "
                "another, are expected; save np.ascontiguousarray(x)"
            )
        return shape, dtype, file.tell()


def _from_npy(path: Path, batch_size: int) -> Iterator[np.ndarray]:
    shape, dtype, start = _header(path)
    there = (path.stat().st_size - start) // (dtype.itemsize * shape[1])
    whole = min(there, shape[0])
    if whole:
        rows = np.memmap(path, dtype, "r", start, (whole, shape[1]))
        yield from _sliced(rows, batch_size)
    if whole < shape[0]:
        raise DataError(
            f"{path} is cut off: it holds {whole} of its {shape[0]} rows; get it again"
        )


def _from_npz(path: Path, key: str | None) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = list(file)
            chosen = key or next((k for k in KEYS if k in names), None)
            if chosen is None and len(names) == 1:
                chosen = names[0]
            if chosen in names:
                return file[chosen]
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} is not a .npz file, or it is damaged: {error}") from error
    raise UsageError(f"{path} holds {', '.join(names)}: name the array of the vectors with key")


def _from_parquet(
    path: Path, columns: Sequence[str] | None, batch_size: int
) -> Iterator[np.ndarray]:
    parquet = require("pyarrow.parquet", "parquet", f"reading {path.name}")
    arrow = require("pyarrow", "parquet", f"reading {path.name}")
    try:
        with parquet.ParquetFile(path) as file:
            names = list(columns) if columns else _numeric(file.schema_arrow, path)
            for batch in file.iter_batches(batch_size, columns=names):
                yield _as_rows(batch, path)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is not a Parquet file, or it is damaged ({str(error).splitlines()[0]})"
        ) from error


def _numeric(schema: Any, path: Path) -> list[str]:
    """The column of lists, or all columns of numbers."""
    types = require("pyarrow.types", "parquet", "reading Parquet")
    lists = [f.name for f in schema if types.is_list(f.type) or types.is_fixed_size_list(f.type)]
    if len(lists) == 1:
        return lists
    numbers = [f.name for f in schema if types.is_floating(f.type) or types.is_integer(f.type)]
    if lists or not numbers:
        raise UsageError(
            f"{path} has the columns {', '.join(schema.names)}: name that of the vectors with "
            "columns"
        )
    return numbers


def _as_rows(batch: Any, path: Path) -> np.ndarray:
    if batch.num_columns == 1 and hasattr(batch.column(0), "flatten"):
        lists = batch.column(0)
        flat = lists.flatten()
        if len(lists) and hasattr(lists, "offsets"):
            lengths = np.diff(lists.offsets.to_numpy())
            if (lengths != lengths[0]).any():
                raise DataError(f"{path}: the vectors have different lengths")
        if type(lists).__name__.endswith("ListArray"):
            values = flat.to_numpy(zero_copy_only=False)
            return values.reshape(len(lists), -1)
    return np.stack([c.to_numpy(zero_copy_only=False) for c in batch.columns], axis=1)
