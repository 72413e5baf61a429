"""One look for all pictures: fonts, colours that colour-blind eyes tell apart, crisp pixels.

Pictures are drawn through `Figure` objects on the Agg canvas. Nothing of matplotlib's global state
is changed: the settings hold only while a `sheet` is open, and pyplot is never imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from steadyflow.storage import replace_file

DPI = 160

# Okabe & Ito, "Color universal design" (2008)
BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, YELLOW = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#F0E442",
)
INK, MUTED, FAINT = "#1f2933", "#66727e", "#e4e8ec"
CLASS_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, MUTED, YELLOW, INK, "#8c510a")
HEAT = LinearSegmentedColormap.from_list("stream", ["#ffffff", "#b9dcef", "#3a94c5", "#06345c"])

SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.5,
    "axes.edgecolor": "#b8c0c8",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": "#b8c0c8",
    "ytick.color": "#b8c0c8",
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextlib.contextmanager
def sheet(path: str | Path, width: float, height: float, **options: Any) -> Iterator[Figure]:
    """A figure of width x height inches; when the block succeeds it is written to `path` as PNG.

    Args:
        path: what to write; replaced in one step.
        width: in inches.
        height: in inches.
        **options: of `Figure`, such as ``layout="constrained"``.
    """
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), dpi=DPI, **options)
        FigureCanvasAgg(figure)
        yield figure
        with replace_file(path) as aside:
            figure.savefig(aside, format="png", dpi=DPI)


def panels(figure: Figure, rows: int, columns: int, **options: Any) -> list[Axes]:
    """The axes of a rows x columns arrangement, row by row."""
    return list(np.atleast_1d(figure.subplots(rows, columns, **options)).ravel())


def bars(axes: Axes, values: np.ndarray, bins: Any = 60, label: str = "", **options: Any) -> None:
    """A histogram scaled to a density; values that are not finite are left out and counted."""
    values = np.asarray(values, dtype=float).ravel()
    kept = values[np.isfinite(values)]
    lost = len(values) - len(kept)
    if lost:
        label = f"{label} ({lost:,} not finite left out)"
    look = {"color": SKY, "edgecolor": "white", "linewidth": 0.3, "density": True, **options}
    if len(kept):
        axes.hist(kept, bins=bins, label=label or None, **look)


def label_points(axes: Axes, x: str, y: str, title: str) -> None:
    """Names the two axes and says what is seen."""
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title)


def class_colour(index: int) -> str:
    """The colour of a class; they repeat after ten."""
    return CLASS_COLOURS[index % len(CLASS_COLOURS)]


def shown(names: Sequence[str], limit: int = 18) -> list[str]:
    """Names short enough for a label, with dollar signs that do not start a formula."""
    cut = [n if len(n) <= limit else n[: limit - 1] + "…" for n in map(str, names)]
    return [n.replace("$", r"\$") for n in cut]
