"""Pictures of models of vectors: in the plane the whole density, else columns and their pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from torch import Tensor

from steadyflow import evaluation
from steadyflow.errors import UsageError
from steadyflow.evaluation import access
from steadyflow.evaluation.access import Model
from steadyflow.report.drawing import draw, labels_like
from steadyflow.report.style import (
    BLUE,
    HEAT,
    INK,
    MUTED,
    VERMILION,
    bars,
    class_colour,
    label_points,
    panels,
    sheet,
    shown,
)

CELLS = 220  # of the heat map, each way
POINTS = 1000  # points of a scatter
DRAWS = 20  # of a bound, for each cell


def density(
    model: Model,
    x: Tensor,
    y: Tensor | None,
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    seed: int = 0,
) -> Path:
    """Two-dimensional data: learned density, draws, latents, and ways between examples.

    A class-conditional density is averaged over the classes as often as they come in y.

    Args:
        model: of vectors of two variables.
        x: (N, 2) held-out data.
        y: (N,) labels or None.
        path: the PNG to write.
        columns: names of the two variables.
        seed: of the draws.
    """
    x, context = x[:POINTS], access.context_of(model, y)
    context = None if context is None else context[:POINTS]
    low, high = frame(x)
    first, second = shown(columns or ["x₁", "x₂"])
    with sheet(path, 8.6, 8.2, layout="constrained") as figure:
        learned, drawn, latent, ways = panels(figure, 2, 2)
        heat_map(learned, model, low, high, context)
        learned.plot(*x.T.numpy(), ".", color=VERMILION, markersize=2, alpha=0.5)
        learned.grid(False)
        label_points(learned, first, second, "Learned density, held-out data as dots")
        labels = labels_like(context, len(x), seed)
        scatter(drawn, draw(model, len(x), labels, seed=seed), labels)
        label_points(drawn, first, second, "Drawn from the model")
        latent_plane(latent, model, x, context)
        if access.has_latents(model):
            crossings(ways, model, x, context)
        label_points(ways, first, second, "Ways between real examples")
        for axes in (learned, drawn, ways):
            axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    return Path(path)


def heat_map(
    axes: Axes, model: Model, low: np.ndarray, high: np.ndarray, context: Tensor | None
) -> None:
    """The density on a net over the box from low to high, (2,) each."""
    edges = [torch.linspace(float(a), float(b), CELLS) for a, b in zip(low, high, strict=True)]
    net = torch.cartesian_prod(*edges)
    log_prob = _log_likelihoods(model, net) if context is None else _marginal(model, net, context)
    heat = log_prob.exp().reshape(CELLS, CELLS).T.numpy()
    box = (low[0], high[0], low[1], high[1])
    # a density has no upper limit: one sharp peak must not bleach the rest
    known = heat[np.isfinite(heat)]
    top = float(np.quantile(known, 0.998)) if known.any() else 1.0
    axes.imshow(heat, origin="lower", extent=box, cmap=HEAT, aspect="auto", vmin=0, vmax=top)


def scatter(axes: Axes, x: Tensor, labels: Tensor | None = None) -> None:
    """Points (n, 2), coloured by class if there are labels."""
    codes = torch.zeros(len(x)) if labels is None else labels.cpu()
    for value in codes.unique():
        colour = class_colour(int(value))
        axes.plot(*x[codes == value].T.numpy(), ".", color=colour, markersize=2.5, alpha=0.6)


def latent_plane(axes: Axes, model: Model, x: Tensor, context: Tensor | None) -> None:
    """Latents of data and the circles that hold 50, 90 and 99 % of the base."""
    if not access.has_latents(model):
        axes.set_axis_off()
        return
    try:
        found = evaluation.latent_gaussianity(model, x, context)
    except UsageError:  # hardly any finite latents
        axes.set_axis_off()
        return
    if found.scores.shape[1] != 2:
        axes.set_axis_off()
        return
    axes.plot(*found.scores.T, ".", color=BLUE, markersize=2.5, alpha=0.6)
    for share in (0.5, 0.9, 0.99):
        radius = math.sqrt(-2 * math.log(1 - share))
        axes.add_patch(Circle((0, 0), radius, fill=False, color=INK, linewidth=0.9))
        axes.text(0, radius + 0.06, f"{share:.0%}", color=INK, size=7.5, ha="center")
    axes.set(xlim=(-4, 4), ylim=(-4, 4))
    what = "z" if found.base == "normal" else "score of z"
    label_points(axes, f"{what}₁", f"{what}₂", "Latents of held-out data, circles of the base")


def crossings(axes: Axes, model: Model, x: Tensor, context: Tensor | None, pairs: int = 6) -> None:
    """Ways between real examples, of one class if there are classes, over the data."""
    axes.plot(*x.T.numpy(), ".", color=MUTED, markersize=2, alpha=0.25)
    for k, (i, j) in enumerate(couples(len(x), context)[:pairs]):
        ends = None if context is None else (context[i], context[j])
        way = evaluation.interpolate(model, x[i], x[j], 300, ends).cpu().numpy()
        axes.plot(*way.T, color=class_colour(k), linewidth=1.5)
        axes.plot(*way[[0, -1]].T, "o", color=class_colour(k), markersize=5, mec="white")


def couples(n: int, labels: Tensor | None) -> list[tuple[int, int]]:
    """Pairs of neighbours among n examples, within each class if there are labels."""
    codes = torch.zeros(n) if labels is None else labels.cpu()
    groups = [torch.nonzero(codes == value).flatten().tolist() for value in codes.unique()]
    found = [pair for rows in groups for pair in zip(rows[::2], rows[1::2], strict=False)]
    return sorted(found)


def marginals(
    model: Model,
    x: Tensor,
    y: Tensor | None,
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    limit: int = 5,
    seed: int = 0,
) -> Path:
    """Up to five columns of data and draws: histograms on the diagonal, pairs below it.

    Args:
        model: of vectors.
        x: (N, D) held-out data.
        y: (N,) labels or None.
        path: the PNG to write.
        columns: names of the D variables.
        limit: how many columns.
        seed: of the draws.
    """
    x = x[: 2 * POINTS]
    labels = labels_like(access.context_of(model, y), len(x), seed)
    drawn = draw(model, len(x), labels, seed=seed)
    size = min(x.shape[1], limit)
    names = shown(columns or [f"x{i + 1}" for i in range(x.shape[1])], 14)
    low, high = frame(x)
    with sheet(path, max(4.2, 1.8 * size), max(3.4, 1.75 * size), layout="constrained") as figure:
        grid = panels(figure, size, size)
        for k, axes in enumerate(grid):
            i, j = divmod(k, size)
            if j > i:
                axes.set_axis_off()
                continue
            _pair(axes, x, drawn, i, j)
            axes.set_xlim(low[j], high[j])
            if i != j:
                axes.set_ylim(low[i], high[i])
            axes.set_xlabel(names[j] if i == size - 1 else "")
            axes.set_ylabel(names[i] if j == 0 and i else "")
        handles, words = grid[0].get_legend_handles_labels()
        figure.legend(handles, words, loc="upper right")
        rest = x.shape[1] - size
        more = f" (the first {size} of {x.shape[1]} columns)" if rest else ""
        figure.suptitle(
            f"Held-out data and draws{more}", x=0.02, ha="left", size=10, weight="bold"
        )
    return Path(path)


def _pair(axes: Axes, x: Tensor, drawn: Tensor, i: int, j: int) -> None:
    if i == j:
        bins = min(max(int(len(x) ** 0.5), 10), 40)
        span = np.linspace(float(x[:, i].min()), float(x[:, i].max()), bins + 1)
        bars(axes, x[:, i].numpy(), span, "held-out data")
        bars(
            axes,
            drawn[:, i].numpy(),
            span,
            "drawn",
            histtype="step",
            edgecolor=VERMILION,
            linewidth=1.3,
        )
        axes.set_yticks([])
        return
    n = POINTS // 2
    axes.plot(x[:n, j], x[:n, i], ".", color=BLUE, markersize=1.8, alpha=0.5)
    axes.plot(drawn[:n, j], drawn[:n, i], ".", color=VERMILION, markersize=1.8, alpha=0.5)


def frame(x: Tensor, margin: float = 0.12) -> tuple[np.ndarray, np.ndarray]:
    """A box around the data with some room: lower and upper corner, (D,) each."""
    low, high = x.min(0).values.numpy(), x.max(0).values.numpy()
    room = margin * np.where(high > low, high - low, 1.0)
    return low - room, high + room


def _log_likelihoods(model: Model, net: Tensor, context: Tensor | None = None) -> Tensor:
    draws = DRAWS if model.likelihood == "bound" else 1
    return evaluation.log_likelihoods(model, net, context, batch_size=10_000, draws=draws)


def _marginal(model: Model, net: Tensor, context: Tensor) -> Tensor:
    """The marginal log sum_c p(c) p(x|c) with the classes as often as in context."""
    values, counts = context.unique(return_counts=True)
    parts = [
        _log_likelihoods(model, net, value.expand(len(net))) + math.log(int(count) / len(context))
        for value, count in zip(values, counts, strict=True)
    ]
    return torch.stack(parts).logsumexp(0)
