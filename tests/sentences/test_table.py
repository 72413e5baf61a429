"""Files of pairs, methods by name, and the numbers of a real encoder on STS-B."""

import gzip

import numpy as np
import pytest

from steadyflow.data import DataError
from steadyflow.sentences import Method, Protocol, read_pairs, read_sentences, sts_rows
from steadyflow.sentences.pairs import pairs_from_arrays
from steadyflow.sentences.table import markdown

HEADER = "task\tsplit\tscore\tsentence1\tsentence2\n"
LINES = [
    "s12.a\ttest\t5.0\tone\ttwo\n",
    's12.b\ttest\t1\tone\tthree, with "quotes\n',
    "s13\tdev\t0\tfour\tone\n",
]


def written(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["pairs.tsv", "pairs.tsv.gz"])
def test_groups_of_a_file(tmp_path, name):
    path = written(tmp_path / name, HEADER + "".join(LINES))
    first, second = read_pairs(path)
    assert (first.name, second.name) == ("s12", "s13")
    assert first.scores.tolist() == [5, 1]
    assert first.sentences == ["one", "two", 'three, with "quotes']
    assert len(first.split("test")) == 2
    assert read_sentences(path) == ["one", "two", 'three, with "quotes', "four"]
    with pytest.raises(ValueError, match="s13 has no split 'test': it has dev"):
        second.split("test")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("score\tsentence1\n", "no column 'sentence2'"),
        (HEADER, "no pairs"),
        (HEADER + LINES[0] + "s\ttest\tgood\ta\tb\n", "line 3 has the score 'good'"),
        (HEADER + "s\ttest\tnan\ta\tb\n", "line 2 has the score 'nan'"),
        (HEADER + "s\ttest\t1\ta\n", "line 2 has 4 cells"),
    ],
)
def test_bad_files(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        read_pairs(written(tmp_path / "pairs.tsv", text))


def test_damaged_files(tmp_path):
    (tmp_path / "pairs.tsv.gz").write_bytes(gzip.compress(HEADER.encode())[:-9])
    with pytest.raises(DataError, match="damaged gzip"):
        read_pairs(tmp_path / "pairs.tsv.gz")
    (tmp_path / "text.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        read_sentences(tmp_path / "text.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="no sentences"):
        read_sentences(tmp_path / "empty.txt")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("whitn", "did you mean 'whiten'"),
        ("whiten:x", "number"),
        ("whiten:1.5", "whole number"),
        ("raw:3", "takes no number"),
        ("rotate", "rotate:128"),
    ],
)
def test_unknown_methods(name, said):
    with pytest.raises(ValueError, match=said):
        Method.named(name)


def test_zscore_leaves_constant_variables_out():
    x = np.c_[np.arange(10.0), np.full(10, 3.0)]
    z = Method.named("zscore").fit(x).apply(x)
    assert z[:, 0].std() == pytest.approx(1)
    assert not z[:, 1].any()


@pytest.mark.parametrize("name", ["flow:3", "bert-flow"])
def test_flows_leave_dead_units_out(name):
    x = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    x[:, 2] = 0
    z = Method.named(name).fit(x, steps=3).apply(x)
    assert z.shape == (300, 3 if name == "flow:3" else 5)
    assert np.isfinite(z).all()


def test_pairs_of_vectors(tmp_path):
    np.savez(tmp_path / "v.npz", a=[0, 1], b=[1, 2], score=[1.0, 2.0], x=np.eye(3))
    assert len(pairs_from_arrays(tmp_path / "v.npz")) == 2
    np.savez(tmp_path / "w.npz", a=[0, 1], b=[1, 3], score=[1.0, 2.0], x=np.eye(3))
    with pytest.raises(DataError, match="from 0 to 2"):
        pairs_from_arrays(tmp_path / "w.npz")
    np.savez(tmp_path / "u.npz", a=[0, 1], score=[1.0, 2.0], x=np.eye(3))
    with pytest.raises(DataError, match="no array 'b'"):
        pairs_from_arrays(tmp_path / "u.npz")


QUICK = Protocol(bootstrap=2)


@pytest.fixture(scope="module")
def real(shared_data):
    path = shared_data("sts/stsb-en-devtest-minilm.npz")
    with np.load(path) as file:
        arrays = {name: file[name].astype(np.float32) for name in ("mid", "final")}
    return pairs_from_arrays(path), arrays


# all-MiniLM-L6-v2 on STS-B test, fitted on the 5,384 sentences of dev and test; float64 of
# independent code. Layers 2 and 3 are like raw BERT; the last is contrastively trained.
KNOWN = {
    "mid": {
        "raw": 58.67,
        "center": 58.99,
        "whiten": 69.37,
        "whiten:256": 69.83,
        "whiten:128": 69.98,
        "whiten:0.9": 69.67,
        "zca": 69.37,
        "soft": 70.08,
        "half:128": 67.31,
        "rotate:128": 59.86,
    },
    "final": {
        "raw": 82.03,
        "center": 82.06,
        "whiten": 79.70,
        "whiten:256": 80.44,
        "whiten:128": 81.05,
        "soft": 81.18,
        "half:128": 82.01,
        "rotate:128": 81.94,
    },
}


@pytest.mark.parametrize("layer", KNOWN)
def test_real_numbers(real, layer):
    pairs, arrays = real
    methods = [Method.named(name) for name in KNOWN[layer]]
    vectors = {pairs.name: arrays[layer]}
    rows = sts_rows([pairs], vectors, methods, pooling=layer, protocol=QUICK)
    found = {row.method: row.cells[pairs.name].spearman for row in rows}
    assert found == pytest.approx(KNOWN[layer], abs=0.05)
    assert markdown(rows).count("\n") == len(rows) + 1


@pytest.mark.parametrize("seed", range(3))
def test_near_as_many_rows_as_columns(real, seed):
    """n = d is the worst place: the full form collapses, shrinkage and few directions do not."""
    pairs, arrays = real
    chosen = np.random.default_rng(seed).choice(len(arrays["mid"]), 384, replace=False)
    rows = sts_rows(
        [pairs],
        {pairs.name: arrays["mid"]},
        [Method.named(name) for name in ("whiten", "oas", "whiten:128")],
        corpus=("few", arrays["mid"][chosen]),
        protocol=QUICK,
    )
    full, oas, few = (row.cells[pairs.name].spearman for row in rows)
    assert full < 50
    assert oas > 64
    assert few > 64
    assert "use shrinkage='oas'" in " ".join(rows[0].notes[pairs.name])


@pytest.mark.slow
def test_the_flow_is_no_worse_than_its_whitening(real):
    pairs, arrays = real
    rows = sts_rows(
        [pairs],
        {pairs.name: arrays["mid"]},
        [Method.named("whiten:128"), Method.named("flow:128")],
        protocol=Protocol(training={"steps": 300}),
    )
    linear, flow = (row.cells[pairs.name].spearman for row in rows)
    assert flow > linear - 1
