"""`steadyflow whiten` and `steadyflow sts`, from files to files."""

import json

import numpy as np
import pytest

from steadyflow.whitening import EmbeddingWhitener


@pytest.fixture
def x(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5)) + 3).astype(np.float32)
    np.save("x.npy", x)
    np.save("a.npy", x[:120])
    np.save("b.npy", x[120:])
    return x


def test_fit_and_apply(cli, x, tmp_path):
    done = cli("whiten", "fit", "x.npy", "--out", "w", "--components", 2, "--spectrum", "s.png")
    assert done.code == 0, done.err
    assert "300 vectors of 5 numbers, 2 directions kept" in done.out
    assert "mean cosine" in done.out
    assert (tmp_path / "s.png").stat().st_size > 10_000
    words = ("whiten", "apply", "x.npy", "--run", "w", "--dtype", "float16", "--normalize")
    assert cli(*words, "--out", "z.npy").code == 0
    z = np.load("z.npy")
    assert (z.shape, z.dtype) == ((300, 2), np.float16)
    truth = EmbeddingWhitener(components=2, normalize=True).fit(x).transform(x)
    np.testing.assert_allclose(z, truth, atol=2e-3)
    assert cli(*words, "--out", "z.parquet").code == 0


def test_parts_merge_to_the_whole(cli, x, tmp_path):
    for name in ("x", "a", "b"):
        assert cli("whiten", "fit", f"{name}.npy", "--out", f"w{name}").code == 0
    answer = cli("whiten", "merge", "wa", "--more", "wb", "--out", "wm", "--json")
    assert json.loads(answer.out)["rows"] == 300
    several = cli("whiten", "fit", "a.npy", "--more", "b.npy", "--out", "wf", "--json")
    assert json.loads(several.out)["rows"] == 300
    for run in ("wx", "wm", "wf"):
        assert cli("whiten", "apply", "x.npy", "--run", run, "--out", f"{run}.npy").code == 0
    np.testing.assert_allclose(np.load("wm.npy"), np.load("wx.npy"), atol=1e-5)
    np.testing.assert_allclose(np.load("wf.npy"), np.load("wx.npy"), atol=1e-5)


def test_a_file_that_is_cut_off_keeps_what_came_before(cli, refused, x, tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(path.read_bytes()[:-1000])
    said = refused(1, "whiten", "fit", "x.npy", "--out", "w")
    assert "holds 250 of its 300 rows" in said
    assert "the 250 rows before it were fitted, and are in w" in said
    answer = cli("whiten", "merge", "w", "--more", "w", "--out", "m", "--json")
    assert json.loads(answer.out)["rows"] == 500


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (2, ["fit", "x.npy"], "needs --out"),
        (2, ["fit", "none.npy", "--out", "w"], "there is no file none.npy"),
        (2, ["fit", "x.npy", "--out", "w", "--components", "9"], "components=9"),
        (2, ["fit", "x.npy", "--out", "a.npy"], "is a file"),
        (2, ["apply", "x.npy", "--out", "z.npy"], "needs --run"),
        (2, ["apply", "wide.npy", "--out", "z.npy", "--run", "w"], "vectors have 9 numbers"),
        (2, ["apply", "x.npy", "--out", "z.txt", "--run", "w"], "unknown ending"),
        (2, ["fti", "x.npy", "--out", "w"], "did you mean 'fit'?"),
        (1, ["fit", "nan.npy", "--out", "w"], "2 of 3 rows hold NaN"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(cli, refused, x, code, words, said):
    assert cli("whiten", "fit", "x.npy", "--out", "w").code == 0
    np.save("wide.npy", np.ones((4, 9)))
    np.save("nan.npy", np.array([[1.0, 2], [np.nan, 1], [np.inf, 2]]))
    assert said in refused(code, "whiten", *words)


@pytest.fixture
def pairs(x):
    rng = np.random.default_rng(1)
    a, b = rng.integers(300, size=(2, 200))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    score = (unit[a] * unit[b]).sum(1) + rng.normal(size=200) * 0.1
    np.savez("pairs.npz", a=a, b=b, score=score, x=x)


def test_the_table(cli, pairs, tmp_path):
    words = ["sts", "pairs.npz", "--pooling", "x", "--methods", "raw", "whiten", "whiten:2"]
    done = cli(*words, "--out", "table.md", "--spectrum", "s.png", "--chart", "c.png")
    assert done.code == 0, done.err
    assert (tmp_path / "c.png").stat().st_size > 5_000
    assert "transductive" in done.out
    table = (tmp_path / "table.md").read_text()
    assert "| x | whiten:2 | 2 | target |" in table
    answer = json.loads(cli(*words, "--fit", "a.npy", "--json").out)
    raw, white, two = answer["rows"]
    assert raw["spearman"]["pairs"] > white["spearman"]["pairs"]
    assert two["fit"] == "a.npy"
    assert two["sizes"] == {"pairs": 2}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.tsv"], "there is no file none.tsv"),
        (["pairs.tsv"], "--encoder"),
        (["pairs.npz", "--more", "pairs.tsv"], "not both"),
        (["pairs.npz", "--methods", "whitn"], "did you mean 'whiten'"),
        (["pairs.npz", "--out", "t.txt"], ".md or .json"),
        (["pairs.npz", "--pooling", "y"], "holds a, b, score, x"),
        (["pairs.npz", "--split", "dev"], "no split 'dev'"),
    ],
)
def test_a_wrong_sts_command(refused, pairs, tmp_path, words, said):
    (tmp_path / "pairs.tsv").write_text("score\tsentence1\tsentence2\n1\ta\tb\n")
    pooling = [] if "--pooling" in words else ["--pooling", "x"]
    assert said in refused(2, "sts", *words, *pooling)
