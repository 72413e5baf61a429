"""Tables in pieces are what they are in one."""

import gzip

import numpy as np
import pytest

from steadyflow import data
from steadyflow.data import DataError, streaming
from steadyflow.errors import UsageError

X = np.random.default_rng(0).normal(size=(25, 3)).astype(np.float32)
KIND = ["xy"[i % 2] for i in range(25)]


def text(header="a,b,c,kind"):
    rows = [f"{a},{b},{c},{k}" for (a, b, c), k in zip(X.tolist(), KIND, strict=True)]
    return "\n".join([*([header] if header else []), *rows]) + "\n"


@pytest.fixture(params=["csv", "csv.gz", "parquet", "npy"])
def table(request, tmp_path):
    path = tmp_path / f"t.{request.param}"
    if request.param == "csv":
        path.write_text(text())
    elif request.param == "csv.gz":
        path.write_bytes(gzip.compress(text().encode()))
    elif request.param == "parquet":
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = {name: X[:, i] for i, name in enumerate("abc")}
        parquet.write_table(arrow.table({**columns, "kind": KIND}), path, row_group_size=7)
    else:
        np.save(path, X)
    return path


@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_pieces_make_the_whole(table, rows):
    label = None if table.suffix == ".npy" else "kind"
    parts = list(streaming.pieces(table, label=label, rows=rows))
    assert max(len(part.x) for part in parts) <= rows
    np.testing.assert_array_equal(np.concatenate([part.x for part in parts]), X)
    assert [part.first for part in parts] == list(np.cumsum([0, *map(len, (p.x for p in parts))]))[
        :-1
    ]
    assert parts[-1].done == parts[-1].total
    if label:
        assert np.concatenate([part.labels for part in parts]).tolist() == KIND
        whole = data.open(str(table), label=label, validation=0, test=0)
        np.testing.assert_array_equal(whole.train.x.numpy(), X)


def test_columns_by_name_and_in_their_order(table):
    names = ["2", "0"] if table.suffix == ".npy" else ["c", "a"]
    parts = streaming.pieces(table, columns=names, rows=10)
    np.testing.assert_array_equal(np.concatenate([part.x for part in parts]), X[:, [2, 0]])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n3,\n5,6\n", "column 'b' has missing values.*row 2"),
        ("a,b\n1,2\n3,4\n5,z\n", "column 'b' is not numbers.*'z' in row 3"),
        ("a,b\n1,2\n3,4\n5,inf\n", "column 'b' has infinite values.*row 3"),
        ("a,b\n1,2\n3\n", "1 cells"),
        ("a,b\n", "no rows"),
        ("", "no rows"),
    ],
)
def test_what_is_wrong_is_said_with_column_and_row(content, said, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=said):
        list(streaming.pieces(path, rows=1))


def test_damaged_files(tmp_path):
    for name in ("t.parquet", "t.npy", "t.csv.gz"):
        (tmp_path / name).write_bytes(b"\x1f\x8b not what it says")
        with pytest.raises(DataError, match=name):
            list(streaming.pieces(tmp_path / name))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_written_table_can_be_read(ending, tmp_path):
    out = tmp_path / f"out.{ending}"
    with streaming.writer(out, ["i", "v"]) as write:
        for start in (0, 10, 20):
            write([np.arange(start, start + 5), X[start : start + 5, 0].astype(np.float64)])
    parts = list(streaming.pieces(out))
    assert parts[0].x[:, 0].tolist() == [*range(5), *range(10, 15), *range(20, 25)]


def broken(out):
    with streaming.writer(out, ["i"]) as write:
        write([np.arange(3)])
        raise RuntimeError("stop")


def test_nothing_is_left_of_a_table_that_failed(tmp_path):
    with pytest.raises(RuntimeError, match="stop"):
        broken(tmp_path / "out.csv")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="parquet"):
        streaming.check_written("out.txt")
