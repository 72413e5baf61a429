"""Choosing columns by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from steadyflow.data.content import DataError, listed
from steadyflow.errors import UsageError, unknown


def choose(
    names: Sequence[str],
    *,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] | None = None,
    label: str | None = None,
    where: str,
) -> list[int]:
    """The positions of the columns that are modelled.

    Args:
        names: all columns of the source.
        columns: keep these, in this order; None keeps all but the label.
        drop: leave these out.
        label: the column that holds the class, which is not modelled.
        where: the name of the source, for the messages.

    Raises:
        UsageError: for a name that is not there, or that is asked for in two ways.
        DataError: if the names are not unique or nothing is left.
    """
    position = {name: i for i, name in enumerate(names)}
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{where}: several columns are called {listed(twice)}: rename them")
    for name in [*(columns or []), *(drop or []), *([label] if label is not None else [])]:
        if name not in position:
            raise unknown(f"column of {where}", name, names)
    both = sorted(set(columns or []) & {*(drop or []), label})
    if both:
        raise UsageError(
            f"column {listed(both)} is in columns= and also in drop= or label=: name it once"
        )
    if len(set(columns or [])) < len(columns or []):
        raise UsageError(f"columns={list(columns or [])!r} names a column twice: name it once")
    kept = [name for name in columns or names if name not in (drop or []) and name != label]
    if not kept:
        raise DataError(f"{where}: no column is left to model: name some with columns=")
    return [position[name] for name in kept]
