"""The picture of a table of agreement: Spearman's correlation of every method, with its error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steadyflow.report.style import BLUE, MUTED, VERMILION, panels, sheet

if TYPE_CHECKING:
    from steadyflow.sentences.table import Row


def chart(rows: Sequence[Row], path: str | Path) -> Path:
    """One panel for each pooling, one line for each method; a dashed line where 'raw' is.

    Args:
        rows: of `steadyflow.sentences.table.sts_rows`.
        path: the PNG to write.
    """
    poolings = list(dict.fromkeys(row.pooling for row in rows))
    most = max(sum(row.pooling == pooling for row in rows) for pooling in poolings)
    with sheet(path, 2.6 * len(poolings) + 0.8, 0.24 * most + 1.1, layout="constrained") as figure:
        for axes, pooling in zip(panels(figure, 1, len(poolings)), poolings, strict=True):
            own = [row for row in rows if row.pooling == pooling]
            found = [row.average for row in own]
            for place, (row, one) in enumerate(zip(own, found, strict=True)):
                axes.errorbar(
                    one.spearman,
                    place,
                    xerr=one.standard_error,
                    fmt="o",
                    color=VERMILION if row.seeds else BLUE,
                    markersize=4,
                    linewidth=1.2,
                )
            raw = [one.spearman for row, one in zip(own, found, strict=True) if row.fit == "-"]
            for value in raw[:1]:
                axes.axvline(value, color=MUTED, linewidth=0.8, linestyle="--")
            axes.set_yticks(range(len(own)), [row.method for row in own])
            axes.invert_yaxis()
            axes.set_xlabel("Spearman x 100")
            axes.set_title(pooling)
    return Path(path)
