"""The picture of how embeddings fill their space: eigenvalues, and cosines of random pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from steadyflow.report.style import CLASS_COLOURS, MUTED, label_points, panels, sheet
from steadyflow.whitening.isotropy import Isotropy

BINS = np.linspace(-0.4, 1, 85)


def spectrum(found: Mapping[str, Isotropy], path: str | Path) -> Path:
    """Eigenvalues, the share of the variance that the first k hold, and cosines of random pairs.

    Args:
        found: what `steadyflow.whitening.isotropy` measured, by name.
        path: the PNG to write.
    """
    with sheet(path, 10.2, 3.4, layout="constrained") as figure:
        values, shares, cosines = panels(figure, 1, 3)
        for colour, (name, one) in zip(CLASS_COLOURS, found.items(), strict=False):
            kept = one.eigenvalues[: one.rank] / one.eigenvalues[0]
            order = np.arange(1, one.rank + 1)
            held = np.cumsum(one.eigenvalues) / one.eigenvalues.sum()
            k = int((held < 0.9).sum()) + 1
            values.plot(order, kept, color=colour, label=f"{name}, IsoScore {one.iso_score:.2f}")
            shares.plot(np.arange(1, len(held) + 1), held, color=colour, label=f"90 % by {k}")
            shares.plot([k], [held[k - 1]], "o", color=colour, markersize=4)
            heights, edges = np.histogram(one.cosines, BINS, density=True)
            middles = (edges[1:] + edges[:-1]) / 2
            mean = f"mean {one.mean_cosine:.2f}"
            cosines.plot(middles, heights, color=colour, label=mean, drawstyle="steps-mid")
        values.set_yscale("log")
        shares.axhline(0.9, color=MUTED, linewidth=0.8, linestyle="--")
        shares.set_ylim(0, 1.03)
        cosines.set_ylim(0, 1.5 * cosines.dataLim.ymax)
        values.legend(loc="lower left")
        shares.legend(loc="lower right")
        cosines.legend(loc="upper right", ncols=2)
        label_points(values, "direction", "eigenvalue / largest", "Spectrum of the covariance")
        label_points(shares, "directions k", "share of the variance", "What k directions hold")
        label_points(cosines, "cosine", "density", "Random pairs")
    return Path(path)
