"""Tables larger than memory: read in pieces, and written in pieces.

    for piece in pieces("table.parquet", columns=["a", "b"]):
        piece.x                                   # float32 (rows, 2)

CSV is read line by line, Parquet a batch of rows at a time, .npy through a memory map; at no time
is there more than one piece in memory. The checks and their words are those of `data.open`, with
the row counted from the beginning of the file.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steadyflow.data import content, tables
from steadyflow.data.columns import choose
from steadyflow.data.content import DataError
from steadyflow.errors import UsageError, require
from steadyflow.storage import replace_file

ROWS = 10_000
READ = (*tables.SUFFIXES, ".npy")
WRITTEN = (".csv", ".parquet")

Read = tuple[tables.Table, int, int]  # columns by name, and how much of the file is done


@dataclass(frozen=True)
class Piece:
    """Some rows of a table, one after another.

    Attributes:
        x: float32 (rows, D).
        labels: the classes as text, (rows,), or None.
        first: how many rows of the file come before these.
        done: how much of the file has been read, of `total`; bytes or rows.
        total: see `done`.
    """

    x: np.ndarray
    labels: np.ndarray | None
    first: int
    done: int
    total: int


def streams(source: str) -> bool:
    """Whether a source is a table that can be read in pieces."""
    path = Path(source).expanduser()
    return source.lower().endswith(READ) and path.is_file()


def pieces(
    source: str | Path,
    *,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] | None = None,
    label: str | None = None,
    rows: int = ROWS,
) -> Iterator[Piece]:
    """Reads a table in pieces of at most so many rows.

    Args:
        source: a .csv, .tsv (also .gz), .parquet or .npy file.
        columns: the columns, in this order; None takes all but the label.
        drop: columns to leave out.
        label: the column of the classes.
        rows: of a piece.

    Raises:
        UsageError: for a column that is not there.
        DataError: for a damaged file, missing or infinite values, or a column that is not numbers.
        ImportError: for Parquet without pyarrow.
    """
    path = Path(source).expanduser()
    kept: list[str] | None = None
    first = 0
    for table, done, total in _reader(path)(path, rows):
        names = list(table)
        if kept is None:
            places = choose(names, columns=columns, drop=drop, label=label, where=str(path))
            kept = [names[i] for i in places]
        values = [tables.numbers(table[name], name, path, first) for name in kept]
        x, _ = content.checked_vectors(np.stack(values, 1), kept, str(path), first)
        yield Piece(x, _classes(table, label, path), first, done, total)
        first += len(x)
    if not first:
        raise DataError(f"{path} has no rows")


@contextlib.contextmanager
def writer(
    out: str | Path, columns: Sequence[str]
) -> Iterator[Callable[[Sequence[np.ndarray]], None]]:
    """A table that is written piece by piece, and is there when the block succeeds.

    Args:
        out: a .csv or .parquet file.
        columns: the columns' names; each call takes one array a column.

    Raises:
        UsageError: for another ending.
        ImportError: for Parquet without pyarrow.
    """
    suffix = check_written(out).suffix.lower()
    with replace_file(out) as aside, contextlib.ExitStack() as stack:
        if suffix == ".csv":
            file = stack.enter_context(open(aside, "w", newline="", encoding="utf-8"))
            lines = csv.writer(file)
            lines.writerow(columns)
            yield lambda values: lines.writerows(zip(*(v.tolist() for v in values), strict=True))
            return
        arrow = require("pyarrow", "parquet", f"writing {Path(out).name}")
        parquet = require("pyarrow.parquet", "parquet", f"writing {Path(out).name}")
        opened: list[Any] = []

        def write(values: Sequence[np.ndarray]) -> None:
            table = arrow.table(dict(zip(columns, values, strict=True)))
            if not opened:
                opened.append(stack.enter_context(parquet.ParquetWriter(str(aside), table.schema)))
            opened[0].write_table(table)

        yield write


def check_written(out: str | Path) -> Path:
    """The path, if a table can be written under its name; before any work is done."""
    if not str(out).lower().endswith(WRITTEN):
        raise UsageError(f"--out takes a .csv or .parquet file, but '{out}' was given")
    if str(out).lower().endswith(".parquet"):
        require("pyarrow", "parquet", f"writing {Path(out).name}")
    return Path(out)


def _reader(path: Path) -> Callable[[Path, int], Iterator[Read]]:
    suffix = path.suffix.lower()
    return {".parquet": _parquet, ".npy": _numpy}.get(suffix, _csv)


def _csv(path: Path, rows: int) -> Iterator[Read]:
    total = path.stat().st_size
    with open(path, "rb") as raw, _understood(path):
        plain = gzip.GzipFile(fileobj=raw) if path.suffix.lower() == ".gz" else raw
        text = io.TextIOWrapper(plain, "utf-8-sig", newline="")  # type: ignore[arg-type]
        line = text.readline()
        reader = csv.reader(
            itertools.chain([line], text),
            delimiter=max(",;\t", key=line.count),
            skipinitialspace=True,
        )
        names: list[str] | None = None
        filled = (row for row in reader if row)
        while batch := [[cell.strip() for cell in row] for row in itertools.islice(filled, rows)]:
            if names is None:
                names, batch = _header(batch, path)
            for row in batch:
                if len(row) != len(names):
                    raise DataError(
                        f"{path}: a row of {len(row)} cells before line {reader.line_num + 1} "
                        f"where {len(names)} are expected: give every row the same number of cells"
                    )
            if batch:
                columns = map(np.array, zip(*batch, strict=True))
                yield dict(zip(names, columns, strict=True)), raw.tell(), total


def _header(rows: list[list[str]], path: Path) -> tuple[list[str], list[list[str]]]:
    if any(tables.is_number(cell) for cell in rows[0]):
        return [str(i) for i in range(len(rows[0]))], rows
    choose(rows[0], where=str(path))  # refuses columns of one name
    return rows[0], rows[1:]


@contextlib.contextmanager
def _understood(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}): get it again") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not text in UTF-8 ({error.reason}): save it as such"
        ) from error
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file ({error})") from error


def _parquet(path: Path, rows: int) -> Iterator[Read]:
    parquet = require("pyarrow.parquet", "parquet", f"reading {path.name}")
    arrow = require("pyarrow", "parquet", f"reading {path.name}")
    try:
        file = parquet.ParquetFile(path)
        names, total, done = file.schema_arrow.names, file.metadata.num_rows, 0
        choose(names, where=str(path))
        for batch in file.iter_batches(batch_size=rows):
            done += batch.num_rows
            table = arrow.Table.from_batches([batch])
            columns = {name: tables.arrow_values(table.column(name)) for name in names}
            if batch.num_rows:
                yield columns, done, total
    except (arrow.ArrowException, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is not a Parquet file, or it is damaged ({first})") from error


def _numpy(path: Path, rows: int) -> Iterator[Read]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} is not a .npy file of numbers, or it is damaged") from error
    if array.ndim != 2:
        raise UsageError(
            f"{path} holds an array of shape {array.shape}, but a table (rows, columns) is wanted"
        )
    for start in range(0, len(array), rows):
        part = np.array(array[start : start + rows])
        columns = {str(i): column for i, column in enumerate(part.T)}
        yield columns, start + len(part), len(array)


def _classes(table: tables.Table, label: str | None, path: Path) -> np.ndarray | None:
    if label is None:
        return None
    return content.as_integers(tables.labels(table, label, path), str(path)).astype(str)
