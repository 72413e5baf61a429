"""What kind of numbers each column of a table holds, for models that make use of it.

{"name": "country", "value": 3.0}                       constant
{"name": "age", "width": 1.0, "origin": 18.0}           integers, or other values that recur
{"name": "share", "low": 0.0, "high": 1.0}              bounded, if the user says so
{"name": "height"}                                      plain numbers
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from steadyflow.data.content import DataError, column_names
from steadyflow.errors import UsageError, unknown

SPREADS = ("auto", "none")
TIED = 0.5  # a column with a smaller share of different values is spread over its grid
SAMPLE = 2000  # rows that tell at once that a column has hardly a value twice
SAME = 1e-6  # of a standard deviation: what lies nearer is one value, rounded in two ways
FINEST = 1e-3  # of a standard deviation: the smallest step where there is no regular grid

Kind = dict[str, Any]


def parse_bounds(
    bounds: Sequence[str] | None, columns: Sequence[str] | None, width: int, where: str
) -> dict[str, tuple[float, float]]:
    """Bounds such as 'share=0:1' or 'income=0:' by the column's name.

    Raises:
        UsageError: for a column that is not there, or bounds that are not understood.
    """
    names = column_names(columns, width)
    found = {}
    for text in bounds or []:
        name, _, edges = str(text).rpartition("=")
        low, colon, high = edges.partition(":")
        if name not in names:
            raise unknown(f"column of {where}", name or str(text), names)
        try:
            pair = (float(low or "-inf"), float(high or "inf"))
        except ValueError:
            pair = (math.nan, math.nan)
        if not colon or not pair[0] < pair[1] or (math.isinf(pair[0]) and math.isinf(pair[1])):
            raise UsageError(
                f"'{text}' is not understood as bounds: give NAME=LOW:HIGH, such as share=0:1, or "
                "income=0: with no upper one"
            )
        found[name] = pair
    return found


def column_kinds(
    x: np.ndarray,
    integer_columns: Sequence[int],
    columns: Sequence[str] | None,
    *,
    bounds: dict[str, tuple[float, float]] | None = None,
    spread: str = "auto",
    where: str,
) -> list[Kind]:
    """The kind of each column of x: (N, D).

    Args:
        x: all rows, float32.
        integer_columns: the positions of the columns that hold integers only.
        columns: D names, or None.
        bounds: by the column's name; see `parse_bounds`.
        spread: 'auto' finds the columns that are to be spread over their grid; 'none' does not.
        where: the name of the source, for the messages.

    Raises:
        DataError: if a value lies outside of its column's bounds, or on one.
    """
    if spread not in SPREADS:
        raise unknown("spread", spread, SPREADS)
    kinds = []
    for i, name in enumerate(column_names(columns, x.shape[1])):
        column = x[:, i]
        kind: Kind = {"name": name}
        if (column == column[0]).all():
            kinds.append({**kind, "value": float(column[0])})
            continue
        if spread == "auto":
            kind |= grid(column, i in integer_columns)
        if bounds and name in bounds:
            kind |= _bounded(column, name, bounds[name], kind.get("width", 0.0), where)
        kinds.append(kind)
    return kinds


def grid(column: np.ndarray, integer: bool) -> Kind:
    """The step of a column of integers or of recurring values: (N,); nothing for others.

    The step is the smallest gap between different values. If all of them lie on multiples of it
    from the smallest, that is the origin; else the step is at least a thousandth of a standard
    deviation.
    """
    some = column[:: max(1, len(column) // SAMPLE)]
    if not integer and len(np.unique(some)) > 0.9 * len(some) and len(some) > 100:
        return {}
    values = np.unique(column).astype(np.float64)
    if not integer and len(values) >= TIED * len(column):
        return {}
    scale = float(column.std(dtype=np.float64))
    gaps = np.diff(values)
    gaps = gaps[gaps > SAME * scale]
    width = float(gaps.min())
    if not integer:
        width = _rounded(width, values)
    steps = (values - values[0]) / width
    if np.abs(steps - np.round(steps)).max() < 0.01:
        return {"width": width, "origin": float(values[0])}
    return {"width": max(width, FINEST * scale)}


def _rounded(width: float, values: np.ndarray) -> float:
    """The step that fits all values best; float32 leaves three digits to that of two of them."""
    span = values[-1] - values[0]
    steps = max(1, round(span / width))
    fitted = span / steps
    return float(fitted) if abs(fitted - width) < 0.01 * width else width


def _bounded(
    column: np.ndarray, name: str, bounds: tuple[float, float], width: float, where: str
) -> Kind:
    """Bounds that include half a step of the grid to either side."""
    low, high = bounds[0] - width / 2, bounds[1] + width / 2
    least, most = float(column.min()), float(column.max())
    if least <= low or most >= high:
        value, edge = (least, bounds[0]) if least <= low else (most, bounds[1])
        raise DataError(
            f"{where}: column '{name}' has the value {value:g}, but its bound is {edge:g} and "
            "values must lie inside: give wider bounds, or none"
        )
    finite = {"low": low, "high": high}
    return {key: edge for key, edge in finite.items() if math.isfinite(edge)}
