import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

from steadyflow import data
from steadyflow.errors import UsageError

IRIS = "width,height,kind\n" + "".join(f"{i / 7},{i % 4},{'ab'[i % 2]}\n" for i in range(20))


def test_csv_with_a_header_and_a_label(table):
    ds = data.open(table(IRIS), label="kind", validation=0, test=0)
    assert (ds.kind, ds.event_shape, ds.columns) == ("vector", (2,), ["width", "height"])
    assert ds.classes == ["a", "b"]
    assert ds.integer_columns == [1]
    assert ds.train.x[3].tolist() == pytest.approx([3 / 7, 3])


@pytest.mark.parametrize("options", [{"columns": ["height", "width"]}, {"drop": ["kind"]}])
def test_columns_are_chosen(table, options):
    assert sorted(data.open(table(IRIS), **options).columns) == ["height", "width"]


def test_csv_without_a_header(table):
    lines = IRIS.split("\n", 1)[1]
    ds = data.open(table(lines), label="2")
    assert ds.columns == ["0", "1"]
    assert ds.classes == ["a", "b"]


@pytest.mark.parametrize("mark", [";", "\t", ","])
def test_delimiters_blank_lines_quotes_and_a_byte_order_mark(tmp_path, mark):
    text = "\ufeff" + '"a"X b\r\n\r\n'.replace("X", mark)
    text += "".join(f"{i}{mark} {i * i}\r\n" for i in range(6))
    (tmp_path / "t.csv").write_text(text, encoding="utf-8", newline="")
    assert data.open(str(tmp_path / "t.csv")).columns == ["a", "b"]


def test_csv_in_gzip(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(IRIS.encode()))
    assert data.open(str(path), label="kind").event_shape == (2,)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(data.DataError, match="damaged gzip"):
        data.open(str(path))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (IRIS, {}, r"column 'kind' is not numbers, it has 'a' in row 1: .*label='kind'"),
        ("a,b\n1,2\n3,\n,5\n", {}, "column 'a' has missing values in 1 of 3 rows .* row 3"),
        ("a,b\n1,2\n3,NaN\n4,?\n", {}, "column 'b' has missing values in 2 of 3 rows .* row 2"),
        ("a,b\n1,nan\n3,2\n4,3\n", {}, "column 'b' has missing values in 1 of 3"),
        ("a,b\n1,inf\n3,2\n4,3\n", {}, "column 'b' has infinite values"),
        ("a,b\n1,1e300\n3,2\n4,3\n5,1\n", {}, "beyond 3.4e38"),
        ("a\n7\n7\n7\n7\n7\n", {}, r"column 'a' has one value only .*drop=\['a'\]"),
        ("a,b\n1,2\n3\n", {}, "line 3 has 1 cells but the first has 2"),
        ("a,a\n1,2\n", {}, "several columns are called 'a'"),
        (",a\n1,2\n", {}, "column 1 has no name"),
        ("a,b\n", {}, "a header but no rows"),
        ("", {}, "is empty"),
        ("a\0b", {}, "not a text file"),
        ("a,b\n1,2\n", {}, "4 or more rows are needed"),
        ("a,b\n1,x\n2,\n3,y\n4,x\n", {"label": "b"}, "column 'b' has missing values in 1 of 4"),
        ("a\n1\n2\n3\n4\n", {"drop": ["a"]}, "no column is left"),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(table, text, options, message):
    with pytest.raises(data.DataError, match=message) as caught:
        data.open(table(text), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "knd"}, "unknown column .* did you mean 'kind'"),
        ({"columns": ["width", "kind"], "label": "kind"}, "name it once"),
        ({"columns": ["width", "width"]}, "twice"),
        ({"size": 8}, "size=8 does not apply"),
    ],
)
def test_wrong_options_are_refused(table, options, message):
    with pytest.raises(UsageError, match=message):
        data.open(table(IRIS), **options)


def test_text_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes("größe,b\n1,2\n".encode("latin-1"))
    with pytest.raises(data.DataError, match="not text in UTF-8"):
        data.open(str(tmp_path / "t.csv"))


@pytest.fixture
def parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def write(**columns):
        parquet.write_table(arrow.table(columns), tmp_path / "t.parquet")
        return str(tmp_path / "t.parquet")

    return write


def test_parquet(parquet):
    path = parquet(
        a=np.arange(9.0) / 2, b=np.arange(9), c=list("xyxyxyxyx"), d=[True, False, True] * 3
    )
    ds = data.open(path, label="c")
    assert ds.columns == ["a", "b", "d"]
    assert ds.integer_columns == [1, 2]
    assert ds.classes == ["x", "y"]
    assert data.open(path, label="b", drop=["c"]).classes == [str(i) for i in range(9)]


def test_parquet_errors(parquet, tmp_path):
    with pytest.raises(data.DataError, match="column 'b' is not numbers"):
        data.open(parquet(a=[1.0, 2, 3, 4], b=list("wxyz")))
    with pytest.raises(data.DataError, match="column 'b' has missing values in 1 of 4 rows"):
        data.open(parquet(a=[1.0, 2, 3, 4], b=[1, None, 2, 3]))
    with pytest.raises(data.DataError, match="column 'b' has missing values in 1 of 4 rows"):
        data.open(parquet(a=[1.0, 2, 3, 4], b=["x", None, "y", "x"]), label="b")
    half = Path(parquet(a=np.arange(999.0))).read_bytes()[:50]
    with pytest.raises(data.DataError, match="has no rows"):
        data.open(parquet(a=np.zeros(0)))
    for damage in (b"hello", b"", half):
        (tmp_path / "t.parquet").write_bytes(damage)
        with pytest.raises(data.DataError, match="is not a Parquet file") as caught:
            data.open(str(tmp_path / "t.parquet"))
        assert "\n" not in str(caught.value)


def test_parquet_without_pyarrow_says_what_to_install(parquet, monkeypatch):
    path = parquet(a=np.arange(9.0))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"pip install 'steadyflow\[parquet\]'"):
        data.open(path)
