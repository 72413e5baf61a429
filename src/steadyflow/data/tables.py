"""Tables: CSV and Parquet.

Columns are numbers; one may hold classes (``label=``). In a CSV file the delimiter is the comma,
semicolon or tab that occurs most in the first line, and the first line is a header if none of its
cells is a number (without a header the columns are called 0, 1, ...).
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from steadyflow.data.columns import choose
from steadyflow.data.content import DataError
from steadyflow.data.dataset import Pieces
from steadyflow.errors import require

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
MISSING = {"", "?", "na", "n/a", "nan", "null", "none"}

Table = dict[str, np.ndarray]


def read(
    path: Path,
    *,
    label: str | None = None,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] | None = None,
) -> Pieces:
    """Reads a table.

    Args:
        path: a file with one of `SUFFIXES`.
        label: the column of the classes, integers or strings.
        columns: the columns to model; None takes all but the label.
        drop: columns to leave out.

    Returns:
        float64 (N, D), the names of the D columns, and the labels (N,).

    Raises:
        UsageError: for a column that is not there.
        DataError: for a damaged file, missing values, or a column that is not numbers.
        ImportError: for Parquet without pyarrow, with the line that installs it.
    """
    table = read_parquet(path) if path.suffix.lower() == ".parquet" else read_csv(path)
    names = list(table)
    kept = choose(names, columns=columns, drop=drop, label=label, where=str(path))
    chosen = [names[i] for i in kept]
    x = np.stack([numbers(table[name], name, path) for name in chosen], axis=1)
    return Pieces(train=(x, None if label is None else labels(table, label, path)), columns=chosen)


def read_csv(path: Path) -> Table:
    """The columns of a CSV file as strings.

    Raises:
        DataError: if it is not text in UTF-8, has rows of different lengths, or no rows.
    """
    rows = _rows(path)
    header = not any(is_number(cell) for cell in rows[0])
    names = rows[0] if header else [str(i) for i in range(len(rows[0]))]
    if "" in names:
        raise DataError(
            f"{path}: column {names.index('') + 1} has no name in the header (a saved row number, "
            "perhaps): name it, or write the file without it"
        )
    if len(set(names)) < len(names):
        choose(names, where=str(path))
    if len(rows) == header:
        raise DataError(f"{path} has a header but no rows under it")
    return {
        name: np.array(cells)
        for name, cells in zip(names, zip(*rows[header:], strict=True), strict=True)
    }


def read_parquet(path: Path) -> Table:
    """The columns of a Parquet file: numbers as they are, everything else as strings.

    Raises:
        DataError: if the file is damaged, of another format, or has no rows.
        ImportError: without pyarrow.
    """
    parquet = require("pyarrow.parquet", "parquet", f"reading {path.name}")
    arrow = require("pyarrow", "parquet", f"reading {path.name}")
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is not a Parquet file, or it is damaged ({_first_line(error)})"
        ) from error
    if not table.num_rows:
        raise DataError(f"{path} has no rows")
    choose(table.column_names, where=str(path))
    return {name: arrow_values(table.column(name)) for name in table.column_names}


def _rows(path: Path) -> list[list[str]]:
    lines = io.StringIO(_text(path), newline="")
    first = lines.readline()
    lines.seek(0)
    reader = csv.reader(lines, delimiter=max(",;\t", key=first.count), skipinitialspace=True)
    rows: list[list[str]] = []
    try:
        for row in reader:
            if row and len(row) != len(rows[0] if rows else row):
                raise DataError(
                    f"{path}: line {reader.line_num} has {len(row)} cells but the first has "
                    f"{len(rows[0])}: give every row the same number of cells"
                )
            if row:
                rows.append([cell.strip() for cell in row])
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file ({error}, line {reader.line_num})") from error
    if not rows:
        raise DataError(f"{path} is empty: a table with at least two rows is expected")
    return rows


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix.lower() == ".gz" else raw).decode("utf-8-sig")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}): get it again") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not text in UTF-8 ({error.reason}): save it as such"
        ) from error
    if "\0" in text:
        raise DataError(f"{path} is not a text file: a CSV table is expected")
    return text


def is_number(cell: str) -> bool:
    """Whether a cell is one."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def numbers(cells: np.ndarray, name: str, path: Path, first: int = 0) -> np.ndarray:
    """The cells of a column as float64: (rows,).

    Args:
        cells: strings or numbers.
        name: of the column, for the messages.
        path: of the file, for the messages.
        first: how many rows of the file come before these.

    Raises:
        DataError: for gaps, or anything but numbers.
    """
    if cells.dtype.kind == "U":
        try:
            return _present(cells.astype(np.float64), name, path, first)
        except ValueError as error:
            _explain(cells, name, path, error, first)
    return _present(cells, name, path, first)


def _explain(cells: np.ndarray, name: str, path: Path, error: ValueError, first: int) -> None:
    """Says why the cells of a column are not numbers: text, or gaps."""
    if isinstance(error, DataError):
        raise error
    gaps = np.array([cell.strip().lower() in MISSING for cell in cells])
    text = [i for i in np.flatnonzero(~gaps) if not is_number(cells[i])]
    if not text:
        raise _missing(gaps, name, path, first)
    raise DataError(
        f"{path}: column '{name}' is not numbers, it has '{cells[text[0]]}' in row "
        f"{first + text[0] + 1}: leave it out with drop=['{name}'], name the columns to model "
        f"with columns=, or make it the class with label='{name}'"
    )


def _present(values: np.ndarray, name: str, path: Path, first: int = 0) -> np.ndarray:
    gaps = np.isnan(values) if values.dtype.kind == "f" else np.zeros(1, dtype=bool)
    if gaps.any():
        raise _missing(gaps, name, path, first)
    return values.astype(np.float64, copy=False)


def _missing(gaps: np.ndarray, name: str, path: Path, first: int = 0) -> DataError:
    return DataError(
        f"{path}: column '{name}' has missing values in {gaps.sum()} of {len(gaps)} rows (the "
        f"first is row {first + gaps.argmax() + 1}): fill them in, remove those rows, or leave "
        f"the column out with drop=['{name}']"
    )


def labels(table: Table, label: str, path: Path) -> np.ndarray:
    """The column of the classes: (rows,); a gap is a DataError."""
    cells = table[label]
    if cells.dtype.kind == "f":
        return _present(cells, label, path)
    if cells.dtype.kind == "U":
        gaps = np.array([cell.strip().lower() in MISSING - {"none"} for cell in cells])
        if gaps.any():
            raise _missing(gaps, label, path)
    return cells


def arrow_values(column) -> np.ndarray:
    """Numbers as numpy numbers (gaps become NaN), everything else as strings (gaps '')."""
    types = require("pyarrow.types", "parquet", "reading Parquet")
    kind = column.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        values = column.to_numpy()
        return values.astype(np.float64) if values.dtype.kind == "O" else values
    return np.array(["" if value is None else str(value) for value in column.to_pylist()])


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
