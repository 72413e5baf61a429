"""metrics.csv: one line for every few steps of training, and one for every validation.

    step, epoch        where training was
    split              'train' (the mean since the line before) or 'validation'
    loss               the model's loss; nats per dimension for likelihood models
    nats               the mean log-likelihood of an example, in nats (likelihood models)
    bits_per_dim       the loss in bits per dimension (likelihood models)
    learning_rate, gradient_norm, examples_per_second
    skipped            steps skipped so far because the loss was not finite
    elapsed            seconds of training so far
    ...                the parts of the loss that the model names (`metrics`), if any

What does not apply to a line is empty in it.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from steadyflow.storage import replace_file

COLUMNS = (
    "step",
    "epoch",
    "split",
    "loss",
    "nats",
    "bits_per_dim",
    "learning_rate",
    "gradient_norm",
    "examples_per_second",
    "skipped",
    "elapsed",
)
WHOLE, WORDS = ("step", "skipped"), ("split",)

Row = dict[str, Any]


class History:
    """The rows of metrics.csv, in memory and, with a path, in the file.

    Args:
        path: the file, or None to keep the rows in memory only.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.rows: list[Row] = []
        self.columns: tuple[str, ...] = COLUMNS

    def start(self, step: int) -> None:
        """Goes back to the rows up to a step, from which training now goes on."""
        if self.path is None:
            return
        earlier = read(self.path) if self.path.exists() else []
        self.rows = [row for row in earlier if row["step"] <= step]
        if earlier:
            self.columns = tuple(earlier[0])
        self._write_all()

    def add(self, **row: Any) -> Row:
        """Adds a row; columns that are not given stay empty, new ones are added at the end."""
        new = tuple(name for name in row if name not in self.columns)
        if new:
            self.columns += new
            self.rows = [{**earlier, **dict.fromkeys(new)} for earlier in self.rows]
            self._write_all()
        full = {column: row.get(column) for column in self.columns}
        self.rows.append(full)
        if self.path is not None:
            with open(self.path, "a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(_short(full))
        return full

    def _write_all(self) -> None:
        if self.path is None:
            return
        with replace_file(self.path) as aside, open(aside, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(map(_short, self.rows))


def read(path: Path) -> list[Row]:
    """The rows of a metrics.csv; empty fields are None.

    Raises:
        ValueError: if the file is something else.
    """
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ())[: len(COLUMNS)] != COLUMNS:
            raise ValueError(f"{path} was not written by steadyflow, or is damaged")
        # a process that was killed may have left half of a last line
        return [_numbers(row) for row in reader if None not in row.values()]


def in_units(loss: float, dimensions: int) -> Row:
    """A loss in nats per dimension as log-likelihood of an example and in bits per dimension."""
    return {"loss": loss, "nats": -loss * dimensions, "bits_per_dim": loss / math.log(2)}


def _short(row: Row) -> Row:
    return {k: f"{v:.9g}" if isinstance(v, float) else v for k, v in row.items()}


def _numbers(row: dict[str, str]) -> Row:
    result: Row = {}
    for name, text in row.items():
        if text == "":
            result[name] = None
        else:
            result[name] = text if name in WORDS else int(text) if name in WHOLE else float(text)
    return result
