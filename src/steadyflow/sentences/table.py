"""The table: every method on every set of pairs, with what it was fitted on.

Fitting uses sentences and never scores. On the evaluated sentences themselves it is transductive,
and the table says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from steadyflow.evaluation.similarity import Agreement, agreement, cosines, mean_agreement
from steadyflow.sentences.methods import Method
from steadyflow.sentences.pairs import Pairs

Vectors = Mapping[str, np.ndarray]
Progress = Callable[[int, int], None] | None


@dataclasses.dataclass(frozen=True)
class Row:
    """One method with one pooling.

    Attributes:
        pooling: how the sentences were encoded.
        method: the name of the method.
        fit: what it was fitted on: 'target', or the name of a corpus.
        cells: the agreement on each group, the mean over the seeds of a flow.
        seeds: (groups, seeds) the Spearman of each seed, for a flow; None otherwise.
        sizes: the length of the calibrated vectors, by group.
        notes: what should be known of the fits, by group.
    """

    pooling: str
    method: str
    fit: str
    cells: dict[str, Agreement]
    seeds: dict[str, list[float]] | None
    sizes: dict[str, int]
    notes: dict[str, tuple[str, ...]]

    @property
    def average(self) -> Agreement:
        """The plain mean over the groups."""
        return mean_agreement(self.cells.values())

    def plain(self) -> dict[str, Any]:
        """The row for a JSON document."""
        return {
            "pooling": self.pooling,
            "method": self.method,
            "fit": self.fit,
            "sizes": self.sizes,
            "spearman": {name: cell.spearman for name, cell in self.cells.items()},
            "standard_error": {name: cell.standard_error for name, cell in self.cells.items()},
            "average": self.average.spearman,
            "average_standard_error": self.average.standard_error,
            "seeds": self.seeds,
            "notes": {name: list(notes) for name, notes in self.notes.items() if notes},
        }


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the table is made.

    Attributes:
        split: the pairs that are scored; the sentences of all splits may be fitted on.
        aggregate: how sub-tasks are put together.
        bootstrap: draws for standard errors.
        seeds: of the flows.
        training: values of `TrainingOptions` for the flows.
    """

    split: str = "test"
    aggregate: str = "wmean"
    bootstrap: int = 1000
    seeds: Sequence[int] = (0,)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)


def sts_rows(
    groups: Sequence[Pairs],
    vectors: Vectors,
    methods: Sequence[Method],
    *,
    pooling: str = "",
    corpus: tuple[str, np.ndarray] | None = None,
    protocol: Protocol | None = None,
    progress: Progress = None,
) -> list[Row]:
    """Scores methods on groups of pairs.

    Args:
        groups: with the pairs of all splits.
        vectors: for each group's name, one row for each of its sentences.
        methods: what is compared.
        pooling: of the vectors, for the table.
        corpus: the name and the vectors of other sentences to fit on; None fits each method on
            the sentences of the group that it is scored on.
        protocol: how.
        progress: called with how many cells are done, and of how many.
    """
    how = protocol or Protocol()
    rows, done = [], 0
    for method in methods:
        cells, sizes, notes, seeds = {}, {}, {}, {}
        for group in groups:
            x = vectors[group.name] if corpus is None else corpus[1]
            made = _cell(method, x, vectors[group.name], group.split(how.split), how)
            cells[group.name], sizes[group.name], notes[group.name], seeds[group.name] = made
            done += 1
            if progress is not None:
                progress(done, len(methods) * len(groups))
        fit = "-" if method.kind == "raw" else "target" if corpus is None else corpus[0]
        per_seed = seeds if method.trained else None
        rows.append(Row(pooling, method.name, fit, cells, per_seed, sizes, notes))
    return rows


def _cell(
    method: Method, x: np.ndarray, own: np.ndarray, pairs: Pairs, how: Protocol
) -> tuple[Agreement, int, tuple[str, ...], list[float]]:
    found, fitted = [], None
    for seed in how.seeds if method.trained else how.seeds[:1]:
        fitted = method.fit(x, seed=seed, **how.training)
        cosine = cosines(fitted.apply(own), pairs.first, pairs.second)
        found.append(
            agreement(
                cosine,
                pairs.scores,
                pairs.tasks,
                aggregate=how.aggregate,
                bootstrap=how.bootstrap,
            )
        )
    assert fitted is not None
    each = [one.spearman for one in found]
    mean = dataclasses.replace(mean_agreement(found), pairs=found[0].pairs)
    return mean, fitted.size, fitted.notes, each


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown, with standard errors; the best of each pooling and fit in bold."""
    groups = list(rows[0].cells)
    several = len(groups) > 1
    head = ["pooling", "method", "k", "fitted on", *groups, *["average"] * several]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = _cells(row)
        best = [
            max(_cells(other)[i].spearman for other in rows if _rivals(row, other))
            for i in range(len(cells))
        ]
        shown = [
            f"**{cell}**" if cell.spearman >= top - 1e-9 else str(cell)
            for cell, top in zip(cells, best, strict=True)
        ]
        lines.append(
            "| " + " | ".join([row.pooling, row.method, sizes(row), row.fit, *shown]) + " |"
        )
    return "\n".join(lines)


def _cells(row: Row) -> list[Agreement]:
    return [*row.cells.values(), *[row.average] * (len(row.cells) > 1)]


def _rivals(row: Row, other: Row) -> bool:
    """Whether two rows are compared: one pooling, and fitted on the same or on nothing."""
    return row.pooling == other.pooling and (row.fit == other.fit or "-" in (row.fit, other.fit))


def sizes(row: Row) -> str:
    """The lengths of a row's vectors: one number, or from the least to the most."""
    low, high = min(row.sizes.values()), max(row.sizes.values())
    return str(low) if low == high else f"{low}-{high}"
