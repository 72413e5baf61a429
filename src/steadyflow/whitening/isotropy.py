"""Do vectors point in all directions alike? What whitening is for, measured without labels.

    mean cosine       of random pairs; 0 for vectors without a common direction
    effective rank    exp(-sum p_i log p_i), p = lambda / sum lambda     (Roy & Vetterli 2007)
    IsoScore          0 for one direction, 1 for all alike               (Rudman et al. 2022)
    condition         largest over smallest eigenvalue that is not empty

Where the mean cosine is near 0 (contrastively trained encoders) whitening costs agreement with
people; where it is 0.5 and more (averages of BERT's layers) it gives several points.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from steadyflow.whitening.moments import Moments, as_rows
from steadyflow.whitening.solution import spectrum

PAIRS = 100_000
ISOTROPIC, ANISOTROPIC = 0.1, 0.4  # mean cosines between which nothing can be said


@dataclasses.dataclass(frozen=True)
class Isotropy:
    """What was measured.

    Attributes:
        rows: how many vectors.
        size: their length.
        mean_cosine: of random pairs.
        cosines: of the random pairs, for a histogram.
        effective_rank: directions that count.
        iso_score: from 0 to 1.
        condition: largest over smallest eigenvalue that is not empty.
        rank: directions that are not empty.
        eigenvalues: of the covariance, falling.
    """

    rows: int
    size: int
    mean_cosine: float
    cosines: np.ndarray
    effective_rank: float
    iso_score: float
    condition: float
    rank: int
    eigenvalues: np.ndarray

    @classmethod
    def of(cls, rows: Any, seed: int = 0, rank_tol: float = 1e-7) -> Isotropy:
        """Measures how isotropic rows are.

        Args:
            rows: (n, d), at least two.
            seed: of the random pairs.
            rank_tol: directions with less than this share of the largest eigenvalue are empty.
        """
        rows = np.asarray(as_rows(rows))
        eigenvalues, _ = spectrum(Moments.of(rows).covariance())
        generator = np.random.default_rng(seed)
        first = generator.integers(len(rows), size=PAIRS)
        second = (first + generator.integers(1, len(rows), size=PAIRS)) % len(rows)
        cosine = _cosines(rows, first, second)
        kept = eigenvalues[eigenvalues > rank_tol * eigenvalues[0]]
        share = kept / kept.sum()
        return cls(
            rows=len(rows),
            size=rows.shape[1],
            mean_cosine=float(cosine.mean()),
            cosines=cosine,
            effective_rank=float(np.exp(-(share * np.log(share)).sum())),
            iso_score=iso_score(eigenvalues),
            condition=float(kept[0] / kept[-1]),
            rank=len(kept),
            eigenvalues=eigenvalues,
        )

    def advice(self) -> str:
        """What the numbers suggest, in one sentence."""
        if self.mean_cosine < ISOTROPIC:
            return (
                f"mean cosine {self.mean_cosine:.2f}: already isotropic, whitening is likely to "
                "cost; to make vectors shorter use beta=0, gamma=0 and components"
            )
        if self.mean_cosine > ANISOTROPIC:
            return (
                f"mean cosine {self.mean_cosine:.2f}: far from isotropic, whitening is likely to "
                "help; use components=0.9 and shrinkage='oas'"
            )
        return (
            f"mean cosine {self.mean_cosine:.2f}: whitening may help or cost; try gamma=0.5 with "
            "components=128 on labelled pairs"
        )

    def summary(self) -> dict[str, Any]:
        """The numbers as plain values."""
        return {
            "rows": self.rows,
            "size": self.size,
            "mean_cosine": self.mean_cosine,
            "effective_rank": self.effective_rank,
            "iso_score": self.iso_score,
            "condition": self.condition,
            "rank": self.rank,
            "advice": self.advice(),
        }


def iso_score(eigenvalues: np.ndarray) -> float:
    """IsoScore of a covariance with these eigenvalues.

    With v = sqrt(d) lambda / |lambda| and delta = |v - 1| / sqrt(2 (d - sqrt d)):

        phi = (d - delta^2 (d - sqrt d))^2 / d^2,    IsoScore = (d phi - 1) / (d - 1)

    Rudman, Gillman, Rayne & Eickhoff, "IsoScore: Measuring the Uniformity of Embedding Space
    Utilization" (2022), algorithm 1.
    """
    size = len(eigenvalues)
    if size < 2:
        return 1.0
    scaled = np.sqrt(size) * eigenvalues / np.linalg.norm(eigenvalues)
    room = size - np.sqrt(size)
    delta = np.linalg.norm(scaled - 1) / np.sqrt(2 * room)
    phi = (size - delta**2 * room) ** 2 / size**2
    return float((size * phi - 1) / (size - 1))


def drift(solution: Any, rows: Any) -> float:
    """The largest variance of whitened new rows: 1 where they are like the fitted ones.

    Sentences of another kind give 8 to 16; an alarm that needs no labels.
    """
    z = solution.transform(np.asarray(as_rows(rows)), np.float64)
    return float(spectrum(Moments.of(z).covariance())[0][0])


def _cosines(rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosines of pairs, some thousand at a time: (pairs,)."""
    found = []
    for start in range(0, len(first), 8192):
        a = rows[first[start : start + 8192]].astype(np.float64)
        b = rows[second[start : start + 8192]].astype(np.float64)
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        found.append((a * b).sum(1) / np.where(lengths == 0, 1, lengths))
    return np.concatenate(found)
