"""Pictures of whether a model can be trusted: its round trip and its latents."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from steadyflow.evaluation import access
from steadyflow.evaluation.access import Model
from steadyflow.evaluation.latents import LatentGaussianity, chi_moments
from steadyflow.evaluation.round_trip import trip_errors
from steadyflow.report import mosaic
from steadyflow.report.style import (
    BLUE,
    DPI,
    INK,
    ORANGE,
    VERMILION,
    bars,
    label_points,
    panels,
    sheet,
)

SMALLEST = 1e-10  # errors below it are drawn there


def reconstruction(
    model: Model,
    x: Tensor,
    y: Tensor | None,
    path: str | Path,
    *,
    white: float | None = None,
) -> Path:
    """Real examples, what comes back of them through x -> z -> x, and the size of the error.

    Args:
        model: with latents.
        x: (N, *event), up to some hundreds.
        y: (N,) labels or None.
        path: the PNG to write.
        white: the integer that is shown as white, for images.
    """
    context = access.context_of(model, y)
    errors = trip_errors(model, x, context)
    way = "Round trip" if access.is_exact(model) else "Reconstruction"
    if x.dim() != 4:
        with sheet(path, 6.5, 3.2, layout="constrained") as figure:
            error_histogram(figure.add_subplot(), errors, "the variable's range", way)
        return Path(path)
    shown = x[:10]
    with access.at_rest(model, 0):
        c = None if context is None else context[:10]
        z = access.encode(model, access.real_valued(model, shown), c)
        back = access.to_data(model, access.decode(model, z, c)).cpu()
    images = torch.stack((shown, back))
    pixels, rows = mosaic.mosaic(images, white), ["real", "x → z → x"]
    left, top, lower = mosaic.label_width(rows), mosaic.EDGE, 420
    width = left + pixels.shape[1] + mosaic.EDGE
    height = top + pixels.shape[0] + 70 + lower
    with sheet(path, width / DPI, height / DPI) as figure:
        mosaic.put(figure, pixels, left, top)
        mosaic.name_cells(figure, images, left, top, rows, None)
        box = (left / width, 75 / height, pixels.shape[1] / width, (lower - 95) / height)
        error_histogram(figure.add_axes(box), errors, "black to white", way)
    return Path(path)


def error_histogram(axes: Axes, errors: Tensor, unit: str, way: str = "Round trip") -> None:
    """The distribution of log10 of the round-trip errors."""
    values = errors.flatten().double().numpy()
    exact = float((values == 0).mean())
    logs = np.log10(np.maximum(values[values > 0], SMALLEST))
    span = np.arange(math.floor(logs.min()) if len(logs) else -9, 1.01, 0.125)
    share = np.full(len(logs), 1 / max(len(values), 1))
    bars(axes, logs, span, weights=share, density=False)
    axes.axvline(-3, color=VERMILION, linewidth=1.2, linestyle="--")
    axes.text(
        -2.95,
        0.94,
        "one thousandth",
        color=VERMILION,
        size=8,
        va="top",
        transform=axes.get_xaxis_transform(),
    )
    label_points(
        axes,
        f"log10 of the error, in units of {unit}",
        "share of all values",
        f"{way}: largest error {values.max():.1e}; {exact:.0%} come back exactly",
    )


def latent_gaussianity(found: LatentGaussianity, path: str | Path) -> Path:
    """Four views of latents against the base: density, quantiles, moments, norms.

    Args:
        found: what `steadyflow.evaluation.latent_gaussianity` measured.
        path: the PNG to write.
    """
    with sheet(path, 8.4, 6.4, layout="constrained") as figure:
        density, quantiles, moments, norms = panels(figure, 2, 2)
        _density(density, found)
        _quantiles(quantiles, found)
        _moments(moments, found)
        _norms(norms, found)
    return Path(path)


def _density(axes: Axes, found: LatentGaussianity) -> None:
    u = np.linspace(-4.5, 4.5, 200)
    bars(axes, np.clip(found.scores, -4.5, 4.5), np.linspace(-4.5, 4.5, 73), "held-out data")
    axes.plot(u, np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi), color=INK, label="the base")
    axes.legend(loc="upper right")
    label_points(axes, _score(found), "density", "All latent variables together")


def _quantiles(axes: Axes, found: LatentGaussianity) -> None:
    levels = torch.special.ndtr(torch.linspace(-3.5, 3.5, 141, dtype=torch.float64))
    theory = torch.special.ndtri(levels).numpy()
    data = np.quantile(found.scores, levels.numpy())
    axes.plot([-4, 4], [-4, 4], color=INK, linewidth=1)
    axes.plot(theory, data, ".", color=BLUE, markersize=4)
    axes.set_xlim(-4, 4)
    axes.set_ylim(-max(4.0, -data.min() * 1.1), max(4.0, data.max() * 1.1))
    label_points(
        axes, "quantile of the base", "quantile of the data", "On the line: the base fits"
    )


def _moments(axes: Axes, found: LatentGaussianity) -> None:
    n = len(found.scores)
    inside = 2.576 / math.sqrt(n)
    axes.axhspan(
        1 - inside / math.sqrt(2), 1 + inside / math.sqrt(2), color=ORANGE, alpha=0.2, lw=0
    )
    axes.axvspan(-inside, inside, color=ORANGE, alpha=0.2, lw=0)
    axes.plot(found.mean, found.std, ".", color=BLUE, markersize=5, alpha=0.6)
    reach = max(0.3, 1.1 * float(np.abs(found.mean).max()), 2 * inside)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(min(0.7, 0.95 * found.std.min()), max(1.3, 1.05 * found.std.max()))
    label_points(
        axes, "mean", "standard deviation", "Each latent variable (bands: 99 % of chance)"
    )


def _norms(axes: Axes, found: LatentGaussianity) -> None:
    size = found.scores.shape[1]
    mean, std = chi_moments(size)
    low = min(mean - 4 * std, np.quantile(found.norms, 0.002))
    high = max(mean + 4 * std, np.quantile(found.norms, 0.998))
    r = np.linspace(max(low, 1e-3), high, 300)
    log_chi = (
        (size - 1) * np.log(r) - r**2 / 2 - (size / 2 - 1) * math.log(2) - math.lgamma(size / 2)
    )
    bars(axes, np.clip(found.norms, low, high), 50, "held-out data")
    axes.plot(r, np.exp(log_chi), color=INK, label=f"chi, {size} degrees of freedom")
    axes.legend(loc="upper right")
    axes.margins(y=0.25)
    label_points(axes, "distance from the centre", "density", "Norm of each example's latents")


def _score(found: LatentGaussianity) -> str:
    return "latent z" if found.base == "normal" else f"Gaussian score of z ({found.base} base)"
