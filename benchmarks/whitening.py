"""Whitening beside scikit-learn's PCA and IncrementalPCA: time, memory and exactness.

    python benchmarks/whitening.py [--rows 100000] [--size 384] [--rounds 5]

Rows like those of an encoder: a falling spectrum of condition 1e4 and a mean of ten times the
smallest spread. All libraries run in one process, in turn, on the same rows; times are medians of
CPU seconds, with the median of the ratio to scikit-learn's PCA in the same round and quartiles.
The error is the largest entry of |W' S W - I| with S the covariance in float64 of the same rows.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable

import numpy as np
import sklearn
from coupling import machine
from sklearn.decomposition import PCA, IncrementalPCA

from steadyflow import EmbeddingWhitener
from steadyflow.whitening import Moments, stream_moments

SLOW = ("scikit-learn PCA, full", "scikit-learn IncrementalPCA")  # measured once


def rows_like_embeddings(n: int, size: int, dtype: str, seed: int = 0) -> np.ndarray:
    """(n, size) with eigenvalues from 1 to 1e-4 and a mean of 0.1 in each variable."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(size, size)))[0].astype(np.float32)
    spread = np.logspace(0, -2, size).astype(np.float32)
    x = np.empty((n, size), dtype)
    for start in range(0, n, 10_000):
        block = rng.standard_normal((min(10_000, n - start), size), dtype=np.float32)
        x[start : start + len(block)] = (block * spread) @ axes + 0.1
    return x


def whitening_error(matrix: np.ndarray, covariance: np.ndarray) -> float:
    """The largest entry of |W' S W - I|."""
    with np.errstate(all="ignore"):
        return float(np.abs(matrix.T @ covariance @ matrix - np.eye(matrix.shape[1])).max())


def of_pca(pca: PCA | IncrementalPCA) -> np.ndarray:
    """W of scikit-learn's fit, for the covariance with 1 / n."""
    n = getattr(pca, "n_samples_seen_", None) or pca.n_samples_
    scale = np.sqrt(pca.explained_variance_ * (n - 1) / n)
    return (pca.components_ / scale[:, None]).T.astype(np.float64)


def fits(batch: int, slow: bool) -> dict[str, Callable[[np.ndarray], object]]:
    """What is compared; the first is the reference."""

    def streamed(x: np.ndarray) -> EmbeddingWhitener:
        whitener = EmbeddingWhitener()
        for start in range(0, len(x), 1000):
            whitener.partial_fit(x[start : start + 1000])
        _ = whitener.solution_
        return whitener

    made: dict[str, Callable[[np.ndarray], object]] = {
        "scikit-learn PCA, covariance_eigh": lambda x: PCA(
            whiten=True, svd_solver="covariance_eigh"
        ).fit(x),
        "steadyflow, float64": lambda x: EmbeddingWhitener().fit(x),
        "steadyflow, precision='float32'": lambda x: EmbeddingWhitener(precision="float32").fit(x),
        "steadyflow, partial_fit of 1,000 rows": streamed,
    }
    if slow:
        made["scikit-learn PCA, full"] = lambda x: PCA(whiten=True, svd_solver="full").fit(x)
        made["scikit-learn IncrementalPCA"] = lambda x: IncrementalPCA(
            whiten=True, batch_size=batch
        ).fit(x)
    return made


def matrix_of(fitted: object) -> np.ndarray:
    """W of either library."""
    return fitted.solution_.matrix if isinstance(fitted, EmbeddingWhitener) else of_pca(fitted)


def transforms(x: np.ndarray, k: int) -> dict[str, Callable[[], object]]:
    """Applying what was fitted."""
    theirs = PCA(whiten=True, svd_solver="covariance_eigh").fit(x)
    ours, short = EmbeddingWhitener().fit(x), EmbeddingWhitener(components=k).fit(x)
    half = EmbeddingWhitener(components=k, dtype="float16").fit(x)
    for whitener in (ours, short, half):
        _ = whitener.solution_
    return {
        "scikit-learn PCA": lambda: theirs.transform(x),
        "steadyflow": lambda: ours.transform(x),
        f"steadyflow, k = {k}": lambda: short.transform(x),
        f"steadyflow, k = {k}, float16": lambda: half.transform(x),
    }


def timed(
    work: dict[str, Callable[[], object]], rounds: int
) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """CPU seconds of each, (rounds,), one after another in every round; and what they gave."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    given: dict[str, object] = {}
    for turn in range(rounds):
        for name, run in work.items():
            if turn and name in SLOW:
                continue
            began = time.process_time()
            given[name] = run()
            seconds[name].append(time.process_time() - began)
    return {name: np.array(values) for name, values in seconds.items()}, given


def table(seconds: dict[str, np.ndarray], errors: dict[str, float] | None = None) -> None:
    """Prints medians, and ratios to the first."""
    first = next(iter(seconds))
    print("| | seconds | ratio |" + (" error |" if errors else ""))
    print("|---|---|---|" + ("---|" if errors else ""))
    for name, values in seconds.items():
        low, middle, high = np.percentile(values / seconds[first][: len(values)], [25, 50, 75])
        ratio = "1" if name == first else f"{middle:.2f} ({low:.2f} to {high:.2f})"
        error = f" {errors[name]:.0e} |" if errors else ""
        print(f"| {name} | {np.median(values):.3f} | {ratio} |{error}", flush=True)
    print()


def merging(size: int) -> None:
    """The time of one merge of two states."""
    rng = np.random.default_rng(0)
    a, b = (Moments.of(rng.normal(size=(2000, size))) for _ in range(2))
    seconds = timed({"merge": lambda: a.merge(b)}, 50)[0]["merge"]
    print(f"Merging two states of {size} columns: {1e3 * np.median(seconds):.2f} ms\n")


def throughput(rows: int, size: int, batch: int) -> None:
    """Rows a second of a stream, ours and IncrementalPCA's, on the same batches."""
    x = rows_like_embeddings(rows, size, "float32")
    parts = [x[start : start + batch] for start in range(0, rows, batch)]

    def theirs() -> None:
        pca = IncrementalPCA(whiten=True)
        for part in parts:
            pca.partial_fit(part)

    work = {"IncrementalPCA": theirs, "steadyflow": lambda: stream_moments(parts)}
    seconds, _ = timed(work, 3)
    ratio = np.median(seconds["IncrementalPCA"] / seconds["steadyflow"])
    each = {name: rows / np.median(values) for name, values in seconds.items()}
    print(
        f"Streaming {rows:,} rows of {size} in batches of {batch:,}: "
        + ", ".join(f"{name} {value:,.0f} rows a second" for name, value in each.items())
        + f" ({ratio:.0f} times)\n",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow", action="store_true", help="PCA by full SVD, IncrementalPCA")
    asked = parser.parse_args()
    print(f"{machine()}, numpy {np.__version__}, scikit-learn {sklearn.__version__}\n")
    for dtype in ("float32", "float64"):
        x = rows_like_embeddings(asked.rows, asked.size, dtype)
        covariance = np.cov(x.T.astype(np.float64), bias=True)
        work = fits(5 * asked.size, asked.slow and dtype == "float32")
        print(f"Fitting {asked.rows:,} rows of {asked.size} numbers, {dtype}:\n")
        bound = {name: functools.partial(fit, x) for name, fit in work.items()}
        seconds, fitted = timed(bound, asked.rounds)
        errors = {
            name: whitening_error(matrix_of(one), covariance) for name, one in fitted.items()
        }
        table(seconds, errors)
        print("Transforming them:\n")
        table(timed(transforms(x, 128), asked.rounds)[0])
    merging(768)
    throughput(20_000, asked.size, 5 * asked.size)


if __name__ == "__main__":
    main()
