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
    x = np.stack([_numbers(table[name], name, path) for name in chosen], axis=1)
    return Pieces(
        train=(x, None if label is None else _labels(table, label, path)), columns=chosen
    )


def read_csv(path: Path) -> Table:
    """The columns of a CSV file as strings.

    Raises:
        DataError: if it is not text in UTF-8, has rows of different lengths, or no rows.
    """
    rows = _rows(path)
    header = not any(_is_number(cell) for cell in rows[0])
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
    return {name: _arrow_values(table.column(name)) for name in table.column_names}


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


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(cells: np.ndarray, name: str, path: Path) -> np.ndarray:
    if cells.dtype.kind == "U":
        try:
            return _present(cells.astype(np.float64), name, path)
        except ValueError as error:
            _explain(cells, name, path, error)
    return _present(cells, name, path)


def _explain(cells: np.ndarray, name: str, path: Path, error: ValueError) -> None:
    """Says why the cells of a column are not numbers: text, or gaps."""
    if isinstance(error, DataError):
        raise error
    gaps = np.array([cell.strip().lower() in MISSING for cell in cells])
    text = [i for i in np.flatnonzero(~gaps) if not _is_number(cells[i])]
    if not text:
        raise _missing(gaps, name, path)
    raise DataError(
        f"{path}: column '{name}' is not numbers, it has '{cells[text[0]]}' in row {text[0] + 1}: "
        f"leave it out with drop=['{name}'], name the columns to model with columns=, or make it "
        f"the class with label='{name}'"
    )


def _present(numbers: np.ndarray, name: str, path: Path) -> np.ndarray:
    gaps = np.isnan(numbers) if numbers.dtype.kind == "f" else np.zeros(1, dtype=bool)
    if gaps.any():
        raise _missing(gaps, name, path)
    return numbers.astype(np.float64, copy=False)


def _missing(gaps: np.ndarray, name: str, path: Path) -> DataError:
    return DataError(
        f"{path}: column '{name}' has missing values in {gaps.sum()} of {len(gaps)} rows (the "
        f"first is row {gaps.argmax() + 1}): fill them in, remove those rows, or leave the column "
        f"out with drop=['{name}']"
    )


def _labels(table: Table, label: str, path: Path) -> np.ndarray:
    cells = table[label]
    if cells.dtype.kind == "f":
        return _present(cells, label, path)
    if cells.dtype.kind == "U":
        gaps = np.array([cell.strip().lower() in MISSING - {"none"} for cell in cells])
        if gaps.any():
            raise _missing(gaps, label, path)
    return cells


def _arrow_values(column) -> np.ndarray:
    """Numbers as numpy numbers (gaps become NaN), everything else as strings (gaps '')."""
    types = require("pyarrow.types", "parquet", "reading Parquet")
    kind = column.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        values = column.to_numpy()
        return values.astype(np.float64) if values.dtype.kind == "O" else values
    return np.array(["" if value is None else str(value) for value in column.to_pylist()])


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
