"""Moments in parts, in any order and type, are those of one pass."""

import functools
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from steadyflow.data import DataError
from steadyflow.whitening import Moments, solve


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    return rng.normal(size=(3000, 7)) @ rng.normal(size=(7, 7)) + 5


def close(a, b, tolerance=1e-12):
    assert a.n == b.n
    np.testing.assert_allclose(a.mean, b.mean, rtol=tolerance, atol=tolerance)
    scale = np.abs(b.scatter).max()
    assert np.abs(a.scatter - b.scatter).max() <= tolerance * scale


def test_they_are_numpys(x):
    moments = Moments.of(x)
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(moments.covariance(1), np.cov(x.T), rtol=1e-11)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=9), st.randoms())
def test_any_partition_merged_in_any_order(cuts, random):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3000, 5)) * [1, 10, 0.1, 3, 1] + [100, 0, 1, -7, 3]
    edges = sorted({0, 3000, *cuts})
    parts = [Moments.of(x[a:b]) for a, b in itertools.pairwise(edges)]
    random.shuffle(parts)
    while len(parts) > 1:  # a random tree
        parts.append(parts.pop(random.randrange(len(parts))) + parts.pop())
    close(parts[0], Moments.of(x))


def test_single_rows_are_batches_too(x):
    rows = functools.reduce(Moments.update, x[:500, None], Moments(7))
    close(rows, Moments.of(x[:500]))


def test_adding_changes_neither(x):
    a, b = Moments.of(x[:10]), Moments.of(x[10:])
    before = a.scatter.copy()
    _ = a + b
    np.testing.assert_array_equal(a.scatter, before)
    assert a.n == 10


@pytest.mark.parametrize(
    "kind", ["tensor", "bfloat16", "float16", "float32", "integers", "memmap"]
)
def test_any_kind_of_rows(x, kind, tmp_path):
    given, truth = x, x
    if kind == "tensor":
        given = torch.from_numpy(x).requires_grad_()
    elif kind == "bfloat16":
        given = torch.from_numpy(x).bfloat16()
        truth = given.double().numpy()
    elif kind in ("float16", "float32"):
        given = x.astype(kind)
        truth = given.astype(np.float64)
    elif kind == "integers":
        given = np.round(x).astype(np.int32)
        truth = np.round(x)
    else:
        np.save(tmp_path / "x.npy", x)
        given = np.load(tmp_path / "x.npy", mmap_mode="r")
    close(Moments.of(given), Moments.of(truth))


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-9), ("float32", 2e-3)])
def test_a_far_mean_costs_no_digits(precision, tolerance):
    """Mean a hundred times the spread, condition 1e4, float32: scikit-learn's default fails."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    x = (rng.normal(size=(20_000, 24)) * np.logspace(0, -2, 24)) @ axes + 100
    x = x.astype(np.float32)
    moments = Moments.of(x, precision)
    truth = np.cov(x.T.astype(np.float64), bias=True)
    white = solve(moments).matrix
    error = np.abs(white.T @ truth @ white - np.eye(24)).max()
    assert error < tolerance
    peer = PCA(whiten=True, svd_solver="covariance_eigh").fit(x)
    with np.errstate(all="ignore"):
        theirs = peer.components_ / np.sqrt(peer.explained_variance_[:, None])
        assert not np.abs(theirs @ truth @ theirs.T - np.eye(24)).max() < 0.05


def test_files(x, tmp_path):
    moments = Moments.of(x)
    moments.save(tmp_path / "m.safetensors")
    close(Moments.load(tmp_path / "m.safetensors"), moments, 0)
    (tmp_path / "m.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="damaged"):
        Moments.load(tmp_path / "m.safetensors")
    with pytest.raises(FileNotFoundError):
        Moments.load(tmp_path / "none")


def with_value(x, value):
    x = x[:50].copy()
    x[[7, 9], 2] = value
    return x


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (lambda x: x[0], r"pass rows of shape \(n, d\)"),
        (lambda x: x[None], "shape"),
        (
            lambda x: with_value(x, np.nan),
            "2 of 50 rows hold NaN or infinite values, the first is",
        ),
        (lambda x: with_value(x, np.inf), "row 7"),
        (lambda x: x.astype(str), "real numbers"),
        (lambda x: x.astype(complex), "real numbers"),
        (lambda x: x[:, :3], "expected rows of 7 numbers, as before, got 3"),
    ],
)
def test_what_can_not_be_added_leaves_what_was(x, bad, said):
    moments = Moments.of(x)
    before = moments.copy()
    with pytest.raises(ValueError, match=said):
        moments.update(bad(x))
    close(moments, before, 0)


def test_sparse_rows_and_other_sizes_and_precisions(x):
    from scipy.sparse import csr_array

    with pytest.raises(ValueError, match="toarray"):
        Moments.of(csr_array(x))
    with pytest.raises(ValueError, match="can not be merged"):
        Moments(3).merge(Moments(4))
    with pytest.raises(ValueError, match="precision"):
        Moments.of(x, "half")
    with pytest.raises(ValueError, match="at least two"):
        Moments.of(x[:1]).covariance()


PROCESS = """
import sys, numpy as np, torch
from steadyflow.whitening import Moments
rank = int(sys.argv[1])
torch.distributed.init_process_group(
    "gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2
)
x = np.random.default_rng(0).normal(size=(1000, 5)) + [10, 0, 0, -3, 1]
found = Moments.of(x[:300] if rank == 0 else x[300:]).all_reduce()
truth = Moments.of(x)
assert found.n == truth.n
assert np.abs(found.mean - truth.mean).max() < 1e-12
assert np.abs(found.scatter - truth.scatter).max() < 1e-9
"""


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    command = [sys.executable, "-c", PROCESS]
    each = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in each] == [0, 0]
