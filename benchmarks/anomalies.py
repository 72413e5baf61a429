"""Anomaly detection on ADBench sets: flows and energies with their defaults beside scikit-learn's.

    python benchmarks/anomalies.py FOLDER [--sets cardio thyroid] [--seeds 0 1]
    python benchmarks/anomalies.py FOLDER --detectors flow energy entropy forest

FOLDER holds ADBench's .npz files (X, y with 1 for anomalies). Training sees a random half of the
normal rows (at most 50,000), without labels; the test has the other half (at most 50,000) and all
anomalies. Columns are standardised by the training rows. ROC-AUC, higher is better.

'energy' is the energy with a flow as generator, 'entropy' that of the maximum-entropy GAN (mutual
information), 'slope' the slope of the first instead of its height. No threshold is chosen on
the test, and all see the same standardised columns.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor

from steadyflow import FlowOutlierDetector

MOST = 50_000


class Slope(FlowOutlierDetector):
    """Scores rows by the slope of an energy instead of its height."""

    def score_samples(self, X):
        return -self._through("slope", self._rows(X)[:, self.kept_])


def energy(
    seed: int, steps: int, kind: type = FlowOutlierDetector, **options
) -> FlowOutlierDetector:
    """A detector by an energy of those options."""
    return kind("energy", model_options=options, steps=steps, random_state=seed)


DETECTORS = {
    "flow": lambda seed, steps: FlowOutlierDetector(random_state=seed, steps=steps),
    "forest": lambda seed, _: IsolationForest(random_state=seed),
    "mixture": lambda seed, _: GaussianMixture(20, reg_covar=1e-4, random_state=seed),
    "factor": lambda seed, _: LocalOutlierFactor(novelty=True),
    "energy": energy,
    "entropy": lambda seed, steps: energy(seed, steps, entropy="mutual-information"),
    "slope": lambda seed, steps: energy(seed, steps, Slope),
}


def split(path: Path, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training rows, test rows and the test's labels."""
    with np.load(path, allow_pickle=False) as file:
        x, y = file["X"].astype(np.float64), file["y"].ravel()
    normal = np.random.default_rng(seed).permutation(np.flatnonzero(y == 0))
    half = len(normal) // 2
    train, rest = normal[:half][:MOST], normal[half:][:MOST]
    mean, std = x[train].mean(0), x[train].std(0)
    x = (x - mean) / np.where(std > 0, std, 1)
    test = np.concatenate([rest, np.flatnonzero(y == 1)])
    return x[train], x[test], y[test]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="*")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=2000, help="of flows and energies")
    parser.add_argument(
        "--detectors",
        nargs="*",
        choices=list(DETECTORS),
        default=["flow", "forest", "mixture", "factor"],
    )
    asked = parser.parse_args()
    print("| set | seed |", " | ".join(asked.detectors), "| seconds of the first |")
    print("|---" * (len(asked.detectors) + 3) + "|", flush=True)
    for path in sorted(asked.folder.glob("*.npz")):
        if asked.sets and path.stem not in asked.sets:
            continue
        for seed in asked.seeds:
            train, test, labels = split(path, seed)
            cells, seconds = [], 0.0
            for name in asked.detectors:
                began = time.perf_counter()
                scores = DETECTORS[name](seed, asked.steps).fit(train).score_samples(test)
                cells.append(f"{roc_auc_score(labels, -scores):.3f}")
                seconds = seconds or time.perf_counter() - began
            row = [path.stem, str(seed), *cells, f"{seconds:.0f}"]
            print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
