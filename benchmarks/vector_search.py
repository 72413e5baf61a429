"""A FAISS index of embeddings, as they are and whitened: memory, time and recall.

    python benchmarks/vector_search.py VECTORS.npy [--queries 500] [--components 128]

VECTORS are those of an encoder, before any normalisation. The whitening is fitted on them and put
into the index itself (`faiss.IndexPreTransform`), so that one file serves searches of raw vectors.
Exact search, one query at a time, gives the time; product quantization to 32 bytes the recall:
which share of the ten nearest by exact search in the same space are among the hundred it finds.
"""

from __future__ import annotations

import argparse
import time

import faiss
import numpy as np

from steadyflow.whitening import Moments, WhiteningOptions, WhiteningSolution, solve, to_faiss
from steadyflow.whitening.transformer import unit_rows

BYTES = 32  # of a quantized vector


def within(base: faiss.Index, solution: WhiteningSolution | None) -> faiss.Index:
    """The index behind a whitening and a normalisation, so that inner products are cosines."""
    normalized = faiss.IndexPreTransform(faiss.NormalizationTransform(base.d), base)
    return (
        normalized if solution is None else faiss.IndexPreTransform(to_faiss(solution), normalized)
    )


def measure(x: np.ndarray, queries: np.ndarray, solution: WhiteningSolution | None) -> list[str]:
    """Bytes a vector, milliseconds a query and recall, as cells of the table."""
    size = x.shape[1] if solution is None else solution.kept
    exact = within(faiss.IndexFlatIP(size), solution)
    exact.add(x)
    _, truth = exact.search(queries, 10)
    seconds = []
    for query in queries[:100, None]:
        began = time.process_time()
        exact.search(query, 10)
        seconds.append(time.process_time() - began)
    z = unit_rows(x if solution is None else solution.transform(x))
    quantized = faiss.IndexPQ(size, BYTES, 8, faiss.METRIC_INNER_PRODUCT)
    quantized.train(z)
    quantized.add(z)
    own = unit_rows(queries if solution is None else solution.transform(queries))
    _, found = quantized.search(own, 100)
    recall = np.mean([np.isin(t, f).mean() for t, f in zip(truth, found, strict=True)])
    return [str(4 * size), f"{1e3 * np.median(seconds):.2f}", f"{recall:.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vectors")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--components", type=int, default=128)
    asked = parser.parse_args()
    faiss.omp_set_num_threads(1)
    x = np.load(asked.vectors).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    queries, x = x[order[: asked.queries]], x[order[asked.queries :]]
    moments, k = Moments.of(x), asked.components
    whole = solve(moments).rank // BYTES * BYTES  # sub-vectors of one length
    forms = {
        "as they are": None,
        f"whitened, k = {whole}": solve(moments, WhiteningOptions(components=whole)),
        f"whitened, k = {k}": solve(moments, WhiteningOptions(components=k)),
        f"rotated, k = {k} (beta = gamma = 0)": solve(
            moments, WhiteningOptions(components=k, beta=0, gamma=0)
        ),
    }
    print(f"{len(x):,} vectors, {len(queries)} queries, faiss {faiss.__version__}, one thread\n")
    print("| | bytes a vector | ms a query, exact | recall of 32 bytes, 10 in 100 |")
    print("|---|---|---|---|")
    for name, solution in forms.items():
        print("|", " | ".join([name, *measure(x, queries, solution)]), "|", flush=True)


if __name__ == "__main__":
    main()
