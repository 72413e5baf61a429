"""Rows from files larger than memory; what comes before damage is not lost."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from steadyflow.data import DataError
from steadyflow.whitening import Moments, batches, fit_files, stream_moments
from steadyflow.whitening.rows import count_rows
from steadyflow.whitening.writing import writer


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)


@pytest.fixture
def files(x, tmp_path):
    np.save(tmp_path / "a.npy", x[:40])
    with writer(tmp_path / "b.parquet", 4) as write:
        write(x[40:60])
        write(x[60:70])
    np.savez(tmp_path / "c.npz", x=x[70:], ids=np.arange(30))
    return tmp_path


def together(source, **options):
    return np.concatenate(list(batches(source, batch_size=16, **options)))


def test_every_source_gives_its_rows(files, x):
    assert max(len(batch) for batch in batches(files, batch_size=16)) == 16
    np.testing.assert_array_equal(together(files), x)
    np.testing.assert_array_equal(together(x), x)
    np.testing.assert_array_equal(together(torch.from_numpy(x)), x)
    np.testing.assert_array_equal(together(iter([x[:30], x[30:].tolist()])), x)
    np.testing.assert_array_equal(together(files / "c.npz", key="x"), x[70:])
    assert count_rows(files / "a.npy") == 40
    assert count_rows(files / "b.parquet") == 30


def test_parquet_of_columns_and_of_lists(x, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    columns = arrow.table({"id": ["a"] * 100, **{f"v{i}": x[:, i] for i in range(4)}})
    parquet.write_table(columns, tmp_path / "columns.parquet")
    np.testing.assert_array_equal(together(tmp_path / "columns.parquet"), x)
    two = together(tmp_path / "columns.parquet", columns=["v1", "v3"])
    np.testing.assert_array_equal(two, x[:, [1, 3]])
    parquet.write_table(arrow.table({"id": range(100), "v": x.tolist()}), tmp_path / "l.parquet")
    np.testing.assert_allclose(together(tmp_path / "l.parquet"), x)
    ragged = arrow.table({"v": [[1.0], [1.0, 2.0]]})
    parquet.write_table(ragged, tmp_path / "ragged.parquet")
    with pytest.raises(DataError, match="different lengths"):
        together(tmp_path / "ragged.parquet")


def test_a_file_that_is_cut_off_loses_nothing_before(files, x):
    path = files / "a.npy"
    path.write_bytes(path.read_bytes()[:-100])  # 25 of the numbers: 6 rows and a bit
    moments = Moments(4)
    with pytest.raises(DataError, match="holds 33 of its 40 rows"):
        stream_moments(path, moments)
    assert moments.n == 33
    np.testing.assert_allclose(moments.mean, x[:33].mean(0), rtol=1e-5)


@pytest.mark.parametrize("name", ["a.npy", "b.parquet", "c.npz"])
def test_damage(files, name):
    (files / name).write_bytes(b"\x93NUMPY nonsense")
    with pytest.raises(DataError, match="damaged"):
        together(files / name)


def test_what_can_not_be_read(files, x, tmp_path):
    np.save(files / "cube.npy", x.reshape(10, 10, 4))
    np.save(files / "columns.npy", np.asfortranarray(x))
    np.savez(files / "two.npz", first=x, second=x)
    for name, said in [
        ("none.npy", "no file"),
        ("cube.npy", "rows"),
        ("columns.npy", "ascontiguousarray"),
        ("two.npz", "first, second"),
    ]:
        with pytest.raises(ValueError, match=said):
            together(files / name)
    (tmp_path / "x.txt").write_text("1 2")
    with pytest.raises(ValueError, match="nor a folder"):
        together(tmp_path / "x.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no"):
        together(tmp_path / "empty")
    with pytest.raises(ValueError, match="no rows"):
        stream_moments([])
    with pytest.raises(ValueError, match="array or a path"):
        together(3)


def test_files_in_parts(files, x):
    names = [str(files / name) for name in ("a.npy", "b.parquet", "c.npz")]
    found = fit_files(names)
    assert found.n == 100
    np.testing.assert_allclose(found.covariance(), np.cov(x.T, bias=True), rtol=1e-5)


@pytest.mark.slow
def test_files_on_dask_workers(files, x):
    pytest.importorskip("distributed")
    names = [str(files / name) for name in ("a.npy", "b.parquet", "c.npz")]
    found, here = fit_files(names, workers=2), fit_files(names)
    assert np.abs(found.scatter - here.scatter).max() < 1e-12 * here.scatter.max()


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_what_is_written_is_read(x, tmp_path, suffix):
    with writer(tmp_path / f"z{suffix}", 4) as write:
        for start in range(0, 100, 33):
            write(x[start : start + 33].astype(np.float16))
    np.testing.assert_array_equal(together(tmp_path / f"z{suffix}"), x.astype(np.float16))
    with pytest.raises(KeyError), writer(tmp_path / f"y{suffix}", 4) as write:
        write({}["missing"])
    assert not (tmp_path / f"y{suffix}").exists()


STREAM = """
import resource, numpy as np
from steadyflow.whitening import stream_moments

def chunks(rows, size=64, chunk=20_000):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(chunk, size)).astype(np.float32) * np.logspace(0, -1, size) + 3
    for start in range(0, rows, chunk):  # the same numbers moved: drawing would take longer
        yield (base + np.float32(start % 7)).astype(np.float32)

stream_moments(chunks({warm}))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = stream_moments(chunks({rows}))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert found.n == {rows}
print(after - before)
"""


@pytest.mark.slow
def test_ten_million_rows_take_the_memory_of_one_batch():
    """2.5 GB of rows of 64 numbers; the peak grows by less than 8 MB after the first 200,000."""
    code = STREAM.format(warm=200_000, rows=10_000_000)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    unit = 1024 if sys.platform != "darwin" else 1
    assert int(done.stdout) * unit < 8 * 2**20
