"""The picture of a training: its losses over its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from steadyflow.report.style import BLUE, ORANGE, VERMILION, label_points, sheet

Rows = Sequence[Mapping[str, Any]]


def training_curve(metrics: Rows, path: str | Path, *, unit: str = "nats") -> Path:
    """Training and validation loss over the steps, and where steps were skipped.

    Args:
        metrics: rows of metrics.csv with step, split ('train' or 'validation'), loss in nats per
            dimension, and skipped, the count of skipped steps so far.
        path: the PNG to write.
        unit: 'nats', 'bits' (divides by ln 2), or '' for a loss that is no likelihood.
    """
    scale = 1 / math.log(2) if unit == "bits" else 1.0
    steps, losses = series(metrics, "train")
    tested, held_out = series(metrics, "validation")
    losses, held_out = losses * scale, held_out * scale
    with sheet(path, 7.2, 3.6, layout="constrained") as figure:
        axes = figure.add_subplot()
        axes.plot(steps, losses, color=BLUE, label="training")
        if len(tested):
            axes.plot(tested, held_out, ".-", color=VERMILION, label="validation")
        _mark_skipped(axes, metrics)
        cut = _frame(axes, losses, held_out)
        axes.legend(loc="upper right")
        title = "Loss in training" + (" (the first steps lie above the frame)" if cut else "")
        label_points(axes, "step", f"{unit} per dimension" if unit else "loss", title)
    return Path(path)


def has_curve(metrics: Rows) -> bool:
    """Whether there is a line to draw: two rows of one split."""
    return any(len(series(metrics, split)[0]) > 1 for split in ("train", "validation"))


def series(metrics: Rows, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses of the rows of a split that have a finite loss."""
    rows = [(r["step"], r["loss"]) for r in metrics if r.get("split") == split]
    kept = [(s, v) for s, v in rows if s is not None and v is not None and math.isfinite(v)]
    steps, losses = np.array(kept, dtype=float).reshape(-1, 2).T
    return steps, losses


def _mark_skipped(axes: Axes, metrics: Rows) -> None:
    """A mark at the foot of each row in which the count of skipped steps has grown."""
    rows = [(r["step"], r["skipped"]) for r in metrics if r.get("skipped") is not None]
    steps, counts = np.array(rows, dtype=float).reshape(-1, 2).T
    grown = np.diff(counts, prepend=0) > 0
    if grown.any():
        axes.plot(
            steps[grown],
            np.full(int(grown.sum()), 0.03),
            "^",
            color=ORANGE,
            markersize=6,
            transform=axes.get_xaxis_transform(),
            label=f"skipped, loss not finite ({int(counts.max())} steps)",
        )


def _frame(axes: Axes, *lines: np.ndarray) -> bool:
    """Limits for the bulk of the losses: the height of the first steps must not flatten the rest.

    The last two thirds of each line are shown whole, and a bit more. Says whether more is cut off.
    """
    late = np.concatenate([line[len(line) // 3 :] for line in lines])
    if not len(late):
        return False
    low, high = float(late.min()), float(late.max())
    room = max(high - low, 0.02 * abs(high), 1e-3)
    top = max(float(line.max()) for line in lines if len(line))
    edge = min(high + 1.5 * room, top + 0.1 * room)
    axes.set_ylim(low - 0.15 * room, edge)
    return top > edge
