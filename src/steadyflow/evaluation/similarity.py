"""How well cosines agree with people: Spearman's correlation over pairs of sentences.

    rho = Pearson's correlation of the ranks; equal values share the mean of their ranks

Over several sub-tasks it is put together in one of three ways, which differ by several points and
must never be compared with each other:

    wmean   mean over the sub-tasks, weighted by their pairs    BERT-flow's and BERT-whitening's
    mean    plain mean over the sub-tasks
    all     one correlation over all pairs                      SBERT's and SimCSE's

Standard errors are by bootstrap over pairs with the ranks held fixed. With one seed all methods
see the same draws, so that the spread of a difference is that of the draws' differences.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np
from scipy.stats import rankdata

from steadyflow.errors import UsageError, unknown

AGGREGATES = ("wmean", "mean", "all")


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A Spearman correlation, times 100.

    Attributes:
        spearman: the correlation.
        standard_error: by bootstrap.
        draws: (B,) the correlation of each draw; the spread of a difference is that of draws.
        pairs: how many.
    """

    spearman: float
    standard_error: float
    draws: np.ndarray
    pairs: int

    def __str__(self) -> str:
        return f"{self.spearman:.2f} ± {self.standard_error:.2f}"


def agreement(
    cosine: np.ndarray,
    scores: np.ndarray,
    tasks: np.ndarray | None = None,
    *,
    aggregate: str = "wmean",
    bootstrap: int = 1000,
    seed: int = 0,
) -> Agreement:
    """The agreement of cosines with scores.

    Args:
        cosine: (n,) of each pair.
        scores: (n,) what people said.
        tasks: (n,) the sub-task of each pair; one for all without it.
        aggregate: 'wmean', 'mean' or 'all'.
        bootstrap: draws for the standard error.
        seed: of the draws.

    Raises:
        UsageError: for a sub-task of fewer than three pairs or without two different scores.
    """
    if aggregate not in AGGREGATES:
        raise unknown("aggregate", aggregate, AGGREGATES)
    if tasks is None or aggregate == "all":
        tasks = np.zeros(len(scores), dtype=int)
    parts = [(str(task), tasks == task) for task in dict.fromkeys(tasks.tolist())]
    sizes = [int(chosen.sum()) for _, chosen in parts]
    values, spreads = [], []
    for (task, chosen), counts in zip(parts, _draws(tuple(sizes), bootstrap, seed), strict=True):
        value, draws = _one(cosine[chosen], scores[chosen], counts, task)
        values.append(value)
        spreads.append(draws)
    weights = np.array(sizes if aggregate == "wmean" else [1] * len(sizes), dtype=float)
    weights /= weights.sum()
    together = 100 * weights @ np.array(spreads)
    return Agreement(
        spearman=float(100 * weights @ np.array(values)),
        standard_error=float(together.std(ddof=1)) if bootstrap > 1 else float("nan"),
        draws=together,
        pairs=int(sum(sizes)),
    )


def cosines(z: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The cosine of rows `first` and rows `second` of z: (n, k), in float64; 0 for a zero row."""
    a, b = z[first].astype(np.float64), z[second].astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(1) / np.where(lengths == 0, 1, lengths)


def mean_agreement(parts: Iterable[Agreement]) -> Agreement:
    """The plain mean over several sets, whose draws are independent."""
    parts = list(parts)
    draws = np.mean([part.draws for part in parts], axis=0)
    return Agreement(
        spearman=float(np.mean([part.spearman for part in parts])),
        standard_error=float(draws.std(ddof=1)) if len(draws) > 1 else float("nan"),
        draws=draws,
        pairs=sum(part.pairs for part in parts),
    )


@functools.lru_cache(maxsize=8)  # one for each set: the methods all take the same draws
def _draws(sizes: tuple[int, ...], bootstrap: int, seed: int) -> list[np.ndarray]:
    """How often each pair is drawn: (bootstrap, n) for each sub-task of n pairs."""
    generator = np.random.default_rng(seed)
    return [
        generator.multinomial(n, np.full(n, 1 / n), size=bootstrap).astype(np.float32)
        for n in sizes
    ]


def _one(
    cosine: np.ndarray, scores: np.ndarray, counts: np.ndarray, task: str
) -> tuple[float, np.ndarray]:
    n = len(scores)
    if n < 3 or (scores == scores[0]).all():
        raise UsageError(
            f"sub-task {task} has {n} pairs with {len(set(scores.tolist()))} different scores: a "
            "correlation needs at least three pairs and two scores"
        )
    a, b = rankdata(cosine), rankdata(scores)
    a, b = a - a.mean(), b - b.mean()  # sums of squares about zero would cancel
    columns = np.stack([np.ones(n), a, b, a * a, b * b, a * b], axis=1)
    return float(_pearson(columns.sum(0)[None])[0]), _pearson(counts @ columns)


def _pearson(sums: np.ndarray) -> np.ndarray:
    """Pearson's correlation of sums of 1, a, b, a^2, b^2, a b: (m, 6) to (m,)."""
    n, a, b, aa, bb, ab = sums.T
    spread = (n * aa - a * a) * (n * bb - b * b)
    return (n * ab - a * b) / np.sqrt(np.where(spread > 0, spread, np.inf))
