"""Vectors written batch after batch, into a .npy or .parquet file that is whole or not there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from steadyflow.errors import UsageError, require
from steadyflow.storage import replace_file

Write = Callable[[np.ndarray], None]
HEADER = 128  # bytes that the header of a .npy file may take


@contextlib.contextmanager
def writer(path: str | Path, size: int) -> Iterator[Write]:
    """Yields what takes batches (n, size); the file appears when the block succeeds.

    Args:
        path: a .npy file, or a .parquet file with one column 'vector' of lists.
        size: the length of a vector.

    Raises:
        UsageError: for another ending.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "z.npy"
        >>> with writer(target, 2) as write:
        ...     write(np.zeros((3, 2), np.float16))
        ...     write(np.ones((1, 2), np.float16))
        >>> np.load(target).shape, np.load(target).dtype
        ((4, 2), dtype('float16'))
    """
    kinds = {".npy": _npy, ".parquet": _parquet}
    suffix = Path(path).suffix
    if suffix not in kinds:
        raise UsageError(f"'{path}' has an unknown ending: give a .npy or .parquet file")
    with replace_file(path) as aside, kinds[suffix](aside, size) as write:
        yield write


@contextlib.contextmanager
def _npy(path: Path, size: int) -> Iterator[Write]:
    rows, dtype = 0, np.dtype(np.float32)
    with open(path, "wb") as file:
        file.write(bytes(HEADER))

        def write(batch: np.ndarray) -> None:
            nonlocal rows, dtype
            rows, dtype = rows + len(batch), batch.dtype
            file.write(np.ascontiguousarray(batch).tobytes())

        yield write
        file.seek(0)
        file.write(_header(dtype, rows, size))


def _header(dtype: np.dtype, rows: int, size: int) -> bytes:
    """The header of a .npy file, which numpy pads to a multiple of 64 bytes."""
    described = {"descr": dtype.str, "fortran_order": False, "shape": (rows, size)}
    text = repr(described).encode("latin1")
    body = text + b" " * (HEADER - 10 - len(text) - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


@contextlib.contextmanager
def _parquet(path: Path, size: int) -> Iterator[Write]:
    arrow: Any = require("pyarrow", "parquet", f"writing {path.name}")
    parquet = require("pyarrow.parquet", "parquet", f"writing {path.name}")
    with contextlib.ExitStack() as stack:
        file: Any = None

        def write(batch: np.ndarray) -> None:
            nonlocal file
            flat = arrow.array(np.ascontiguousarray(batch).ravel())
            column = arrow.FixedSizeListArray.from_arrays(flat, size)
            table = arrow.table({"vector": column})
            if file is None:
                file = stack.enter_context(parquet.ParquetWriter(path, table.schema))
            file.write_table(table)

        yield write
