"""Scores of tables: in pieces, one after another, and on several processes."""

import numpy as np
import pytest
import torch

from steadyflow import MAF
from steadyflow.data import streaming
from steadyflow.errors import UsageError
from steadyflow.evaluation import log_likelihoods
from steadyflow.evaluation.scoring import score_table, score_tables


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MAF(event_shape=[2], transforms=2, hidden_features=[8]).eval()


@pytest.fixture
def tables(tmp_path):
    x = np.random.default_rng(0).normal(size=(6, 50, 2)).astype(np.float32)
    for number, rows in enumerate(x):
        np.savetxt(tmp_path / f"t{number}.csv", rows, delimiter=",", header="a,b", comments="")
    return x, [str(tmp_path / f"t{number}.csv") for number in range(len(x))]


def read(path):
    return np.concatenate([piece.x for piece in streaming.pieces(path)])[:, 1]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_is_scored_in_pieces(model, tables, tmp_path, monkeypatch, ending):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(
        streaming.pieces, "__kwdefaults__", {**streaming.pieces.__kwdefaults__, "rows": 7}
    )
    x, names = tables
    seen = []
    found = score_table(
        model, names[0], tmp_path / f"s.{ending}", progress=lambda *p: seen.append(p)
    )
    expected = log_likelihoods(model, torch.from_numpy(x[0])).numpy()
    np.testing.assert_allclose(read(tmp_path / f"s.{ending}"), expected, rtol=1e-5)
    assert found.examples == 50
    assert found.mean == pytest.approx(expected.mean(), abs=1e-5)
    assert found.least_likely == tuple(np.argsort(expected)[:5])
    assert len(seen) == 8
    assert seen[-1][0] == seen[-1][1]


def test_one_row_and_a_constant_column_can_be_scored(model, tmp_path):
    (tmp_path / "one.csv").write_text("a,b\n1,2\n")
    assert score_table(model, tmp_path / "one.csv", tmp_path / "s.csv").examples == 1
    (tmp_path / "same.csv").write_text("a,b\n1,2\n1,3\n")
    assert score_table(model, tmp_path / "same.csv", tmp_path / "s.csv").examples == 2


def test_a_table_that_does_not_fit_leaves_no_scores(model, tmp_path):
    (tmp_path / "wide.csv").write_text("a,b,c\n1,2,3\n")
    with pytest.raises(UsageError, match="3 columns"):
        score_table(model, tmp_path / "wide.csv", tmp_path / "s.csv")
    assert not (tmp_path / "s.csv").exists()


def test_many_tables_one_after_another(model, tables, tmp_path):
    model.save_pretrained(tmp_path / "model")
    x, names = tables
    found = score_tables(str(tmp_path / "model"), names, tmp_path / "scores")
    assert [scores.source for scores in found] == names
    expected = log_likelihoods(model, torch.from_numpy(x[3])).numpy()
    np.testing.assert_allclose(read(tmp_path / "scores" / "t3.csv"), expected, rtol=1e-5)


@pytest.mark.slow
def test_many_tables_on_several_processes(model, tables, tmp_path):
    pytest.importorskip("distributed")
    model.save_pretrained(tmp_path / "model")
    _, names = tables
    here = score_tables(str(tmp_path / "model"), names, tmp_path / "here")
    seen = []
    there = score_tables(
        str(tmp_path / "model"),
        names,
        tmp_path / "there",
        workers=2,
        progress=lambda *p: seen.append(p),
    )
    assert [a.mean for a in there] == pytest.approx([a.mean for a in here])
    assert seen == [(i, 6) for i in range(1, 7)]
    for name in ("t0.csv", "t5.csv"):
        assert (tmp_path / "there" / name).read_text() == (tmp_path / "here" / name).read_text()
