"""The log-likelihood of every row of a table, however long, and of many tables at once.

    score_table(model, "table.parquet", "scores.parquet")
    score_tables("runs/table", ["a.parquet", "b.parquet"], "scores/", workers=4)

A table is read, scored and written a piece at a time, so that memory does not grow with it. Many
tables are shared out among processes or machines by `steadyflow.distributed`: each worker opens
the model by its name once and writes its tables' scores itself.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steadyflow.data import streaming
from steadyflow.errors import UsageError, unknown
from steadyflow.evaluation.access import Model, context_of
from steadyflow.evaluation.likelihood import log_likelihoods

COLUMNS = ("example", "log_likelihood")
LEAST = 5  # how many of the least likely rows are named

Progress = Callable[[int, int], None]  # how much is done, of how much


@dataclass(frozen=True)
class Scores:
    """What a scored table is like in short.

    Attributes:
        source: the table.
        out: the file with the scores.
        examples: its rows.
        mean: of the finite log-likelihoods, in nats; None if there is none.
        non_finite: how many rows have no finite log-likelihood.
        least_likely: the numbers (from 0) of the least likely rows, the worst first.
        lowest: their log-likelihoods.
    """

    source: str
    out: str
    examples: int
    mean: float | None
    non_finite: int
    least_likely: tuple[int, ...]
    lowest: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def score_table(
    model: Model,
    source: str | Path,
    out: str | Path,
    *,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] | None = None,
    label: str | None = None,
    classes: Sequence[str] | None = None,
    batch_size: int = 500,
    draws: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scores:
    """Writes the log-likelihood of every row of a table: its number from 0, and nats.

    Args:
        model: a model of vectors with a likelihood.
        source: a .csv, .tsv, .parquet or .npy file of any length.
        out: a .csv or .parquet file.
        columns: those that the model was trained on; None takes all but the label.
        drop: columns to leave out.
        label: the column of the classes, for a class-conditional model.
        classes: the classes' names in the order of the model.
        batch_size: rows at once in the model.
        draws: noise draws for each row, where noise is part of the likelihood.
        seed: of the noise; the same seed gives the same numbers.
        progress: called with (how much of the file is done, its size).

    Raises:
        UsageError: if table and model do not fit together.
        DataError: if the table can not be used; then nothing is written.
    """
    values = _Summary()
    number = 0
    conditional = getattr(model, "num_classes", None) is not None
    parts = streaming.pieces(
        source, columns=columns, drop=drop, label=label if conditional else None
    )
    with streaming.writer(out, COLUMNS) as write:
        for number, piece in enumerate(parts):
            _same_width(model, piece.x, source)
            found = log_likelihoods(
                model,
                torch.from_numpy(piece.x),
                context_of(model, _codes(piece.labels, classes, source)),
                batch_size=batch_size,
                draws=draws,
                seed=seed + number,
            ).numpy()
            write([np.arange(piece.first, piece.first + len(found)), found])
            values.add(piece.first, found)
            if progress is not None:
                progress(piece.done, piece.total)
    return values.scores(str(source), str(out))


def score_tables(
    run: str,
    sources: Sequence[str | Path],
    folder: str | Path,
    *,
    workers: int = 0,
    scheduler: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[Scores]:
    """Scores many tables, each into a file of the folder that has its name.

    Args:
        run: the run folder, the folder of a saved model, or a model on the hub; every worker must
            be able to open it.
        sources: the tables.
        folder: where the scores go; every worker must be able to write there.
        workers: processes of this machine; 0 scores here, one table after another.
        scheduler: the address of a Dask cluster, instead of workers.
        progress: called with (tables done, tables in all).
        **options: those of `score_table`.

    Returns:
        one summary a table, in their order.

    Raises:
        UsageError: if two tables would write the same file, or as `score_table` does.
    """
    from steadyflow.distributed import map_files

    outs = {str(source): Path(folder) / _name(Path(source)) for source in sources}
    if len(set(outs.values())) < len(outs):
        raise UsageError("two of the tables have the same name: score them into two folders")
    Path(folder).mkdir(parents=True, exist_ok=True)
    one = functools.partial(_score_one, run=run, folder=str(folder), options=options)
    return map_files(one, list(outs), workers=workers, scheduler=scheduler, progress=progress)


def summary(values: np.ndarray, source: str, out: str) -> Scores:
    """Log-likelihoods that are in memory, (N,), in short."""
    whole = _Summary()
    whole.add(0, values)
    return whole.scores(source, out)


def _score_one(source: str, *, run: str, folder: str, options: dict[str, Any]) -> Scores:
    """What a worker does."""
    return score_table(_opened(run), source, Path(folder) / _name(Path(source)), **options)


@functools.cache
def _opened(run: str) -> Model:
    import steadyflow

    return steadyflow.load(run)


def _name(source: Path) -> str:
    """The name of a table's scores."""
    if source.suffix.lower() == ".parquet":
        return source.name
    return source.name.removesuffix(".gz").rpartition(".")[0] + ".csv"


class _Summary:
    """Sums up log-likelihoods that come in pieces."""

    def __init__(self) -> None:
        self.examples, self.finite, self.total = 0, 0, 0.0
        self.least: list[tuple[float, int]] = []

    def add(self, first: int, values: np.ndarray) -> None:
        finite = values[np.isfinite(values)]
        self.examples += len(values)
        self.finite += len(finite)
        self.total += float(finite.sum())
        ranked = np.nan_to_num(values, nan=-math.inf)
        here = np.argsort(ranked, kind="stable")[:LEAST]
        found = [(float(ranked[i]), first + int(i)) for i in here]
        self.least = heapq.nsmallest(LEAST, [*self.least, *found])

    def scores(self, source: str, out: str) -> Scores:
        return Scores(
            source=source,
            out=out,
            examples=self.examples,
            mean=self.total / self.finite if self.finite else None,
            non_finite=self.examples - self.finite,
            least_likely=tuple(row for _, row in self.least),
            lowest=tuple(value for value, _ in self.least),
        )


def _same_width(model: Model, x: np.ndarray, source: str | Path) -> None:
    if x.shape[1:] != tuple(model.event_shape):
        raise UsageError(
            f"the model was trained on examples of shape {list(model.event_shape)}, but the rows "
            f"of {source} have {x.shape[1]} columns: name those of the training with columns="
        )


def _codes(
    labels: np.ndarray | None, classes: Sequence[str] | None, source: str | Path
) -> torch.Tensor | None:
    """The classes' numbers of their names: int64 (rows,)."""
    if labels is None:
        return None
    place = {name: i for i, name in enumerate(classes or [])}
    for name in np.unique(labels):
        if name not in place:
            raise unknown(f"class in {source}", str(name), place)
    return torch.tensor([place[name] for name in labels])
