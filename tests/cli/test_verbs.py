"""Every verb does its work on a small run, and answers in words and in JSON."""

import csv
import json

import numpy as np
import pytest
from conftest import TINY, TINY_IMAGE
from PIL import Image

from steadyflow.models import GenerativeModel


def answer_of(outcome):
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def test_train_leaves_a_run_with_a_report_and_says_what_is_next(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = cli("train", "realnvp", "moons", "--n", 300, "--steps", 5, *TINY)
    assert (outcome.code, outcome.err) == (0, "")
    run = tmp_path / "runs" / "realnvp-moons"
    for name in ("config.yaml", "metrics.csv", "model", "report.html", "density.png"):
        assert (run / name).exists()
    last = outcome.out.splitlines()[-12:]
    for said in ("report.html", "density.png", "steadyflow sample runs/realnvp-moons"):
        assert any(said in line for line in last), outcome.out
    assert "\x1b[" not in outcome.out
    GenerativeModel.from_pretrained(run / "model")


def test_a_second_run_takes_the_next_name(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "realnvp", "moons", "--n", 100, "--steps", 1, "--no-report", *TINY]
    folders = [answer_of(cli(*words, "--json"))["run"] for _ in range(2)]
    assert folders == ["runs/realnvp-moons", "runs/realnvp-moons-2"]
    assert answer_of(cli(*words, "--json", "--overwrite"))["run"] == folders[0]


def test_resume_continues_with_what_was_recorded(cli, tmp_path):
    run = tmp_path / "run"
    words = ["train", "realnvp", "moons", "--n", 100, "--steps", 2, *TINY]
    assert cli(*words, "--run", run, "--no-report").code == 0
    outcome = cli("train", "--resume", run, "--steps", 4, "--no-report", "--json")
    assert answer_of(outcome)["steps"] == 4


def test_resume_takes_nothing_but_a_budget(refused, moons_run):
    assert "only a new budget" in refused(2, "train", "--resume", moons_run, "--batch-size", 3)
    assert "only a new budget" in refused(2, "train", "nice", "moons", "--resume", moons_run)


def test_options_of_the_model_the_data_and_the_training_arrive(moons_run, digits_run):
    from steadyflow.training import Run

    config = Run.open(moons_run).config
    assert config["model"]["config"]["couplings"] == 2
    assert config["data"]["options"] == {"n": 500}
    assert config["training"]["steps"] == 5
    assert config["training"]["batch_size"] == 64
    config = Run.open(digits_run).config
    assert config["model"]["config"]["num_classes"] == 10
    assert config["model"]["config"]["bits"] == 5  # from the data
    assert config["model"]["config"]["event_shape"] == [1, 8, 8]


def test_evaluate(cli, moons_run, digits_run):
    said = cli("evaluate", moons_run)
    assert said.code == 0
    assert "nats (exact)" in said.out
    assert "±" in said.out
    answer = answer_of(cli("evaluate", digits_run, "--json", "--limit", 20, "--draws", 2))
    assert answer["examples"] == 20
    assert answer["draws"] == 2
    assert answer["likelihood"] == "bound"
    assert answer["bits_per_dimension"] > 0


def test_evaluate_says_what_is_known_of_the_errors_of_an_ode(cli, tmp_path):
    words = ["--n", 200, "--steps", 3, "--hidden-features", 8, "--run", tmp_path / "ode"]
    assert cli("train", "diffusion", "moons", *words, "--no-report").code == 0
    rows = (tmp_path / "ode" / "metrics.csv").read_text().splitlines()
    loss, nats, bits = rows[1].split(",")[3:6]  # a loss that is no likelihood is not called one
    assert (bool(loss), nats, bits) == (True, "", "")
    said = cli("evaluate", tmp_path / "ode", "--limit", 5).out
    assert "cut-off correction" in said
    assert "its divergence exact" in " ".join(said.split())
    answer = answer_of(cli("evaluate", tmp_path / "ode", "--limit", 5, "--errors", 3, "--json"))
    assert answer["errors"]["examples"] == 3
    assert answer["errors"]["probe_error"] == 0


def test_evaluate_as_a_classifier(cli, refused, moons_run, digits_run):
    outcome = cli("evaluate", digits_run, "--classify", "--limit", 20)
    assert "class found by Bayes' rule for" in outcome.out
    answer = answer_of(cli("evaluate", digits_run, "--classify", "--limit", 20, "--json"))
    found = answer["classification"]
    assert found["examples"] == sum(map(sum, found["confusion"])) == 20
    assert found["right"] == sum(row[i] for i, row in enumerate(found["confusion"]))
    assert "knows no classes" in refused(2, "evaluate", moons_run, "--classify", "--limit", 5)


def test_evaluate_on_other_data(cli, moons_run, tmp_path):
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(30, 2)))
    answer = answer_of(
        cli("evaluate", moons_run, "--data", tmp_path / "points.npy", "--json", "--limit", 50)
    )
    assert answer["examples"] == 30  # all of them: the file brings no test examples
    split = answer_of(cli("evaluate", moons_run, "--split", "validation", "--json"))
    assert split["examples"] == 50


def test_a_saved_model_without_its_run(cli, refused, moons_run, tmp_path):
    model = moons_run / "model"
    assert "--data SOURCE" in refused(2, "evaluate", model)
    outcome = cli("evaluate", model, "--data", "moons", "--n", 100, "--json")
    assert answer_of(outcome)["examples"] == 100
    assert cli("sample", model, "--out", tmp_path / "x.npy").code == 0
    assert "without its run" in refused(2, "report", model)


@pytest.mark.parametrize("name", ["a.png", "a.npy", "a.npz", "a.csv"])
def test_samples_of_vectors(cli, moons_run, tmp_path, name):
    answer = answer_of(cli("sample", moons_run, "-n", 7, "--out", tmp_path / name, "--json"))
    assert answer["n"] == 7
    assert answer["out"] == str(tmp_path / name)
    file = tmp_path / name
    if file.suffix == ".npy":
        assert np.load(file).shape == (7, 2)
    if file.suffix == ".npz":
        assert np.load(file)["x"].shape == (7, 2)
    if file.suffix == ".csv":
        assert len(list(csv.reader(file.open()))) == 8


def test_samples_of_images(cli, digits_run, tmp_path):
    assert cli("sample", digits_run, "-n", 12, "--out", tmp_path / "a.png").code == 0
    assert np.asarray(Image.open(tmp_path / "a.png")).max() == 255
    assert cli("sample", digits_run, "-n", 12, "--out", tmp_path / "many").code == 0
    files = sorted(path.name for path in (tmp_path / "many").iterdir())
    assert len(files) == 12
    assert files[0] == "000.png"
    assert Image.open(tmp_path / "many" / "000.png").size == (8, 8)
    words = ["sample", digits_run, "-n", 5, "--label", 3, "--out", tmp_path / "a.npz"]
    assert cli(*words).code == 0
    saved = np.load(tmp_path / "a.npz")
    assert saved["x"].shape == (5, 1, 8, 8)
    assert set(saved["y"]) == {"3"}


def test_samples_follow_the_seed_and_go_to_the_run(cli, moons_run):
    first, second, other = (
        answer_of(cli("sample", moons_run, "-n", 3, "--seed", seed, "--json"))["out"]
        for seed in (1, 1, 2)
    )
    assert first == second == str(moons_run / "samples-1.csv")
    assert (moons_run / "samples-1.csv").read_text() != (moons_run / "samples-2.csv").read_text()
    assert other != first


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--label", "3"], "trained without classes"),
        (["-n", "0"], "at least 1"),
        (["--temperature", "-1"], "temperature"),
        (["--out", "x.jpg"], "unknown ending"),
        (["--out", "folder"], "for images"),
    ],
)
def test_samples_that_can_not_be(cli, moons_run, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    outcome = cli("sample", moons_run, *words)
    assert outcome.code in (1, 2)
    assert said in outcome.err
    assert not list(tmp_path.iterdir())


def test_an_unknown_class_suggests_the_nearest(refused, digits_run):
    assert "unknown class" in refused(2, "sample", digits_run, "--label", "11")


def test_interpolation(cli, refused, digits_run, moons_run, tmp_path):
    words = ["interpolate", digits_run, "--from", 3, "--to", 8, "--steps", 5]
    assert cli(*words, "--out", tmp_path / "way.npy").code == 0
    way = np.load(tmp_path / "way.npy")
    assert way.shape == (5, 1, 8, 8)
    from steadyflow import data

    test = data.open("digits").test.x.numpy()
    np.testing.assert_array_equal(way[0], test[3])  # the ends are the real examples
    np.testing.assert_array_equal(way[-1], test[8])
    assert cli(*words).code == 0
    assert (digits_run / "interpolation-3-8.png").exists()
    assert cli("interpolate", moons_run, "--out", tmp_path / "way.csv").code == 0
    assert "no example 9999" in refused(2, "interpolate", moons_run, "--to", 9999)


def test_interpolation_between_image_files(cli, tmp_path):
    run = tmp_path / "run"
    words = ["train", "realnvp", "digits", "--steps", 1, "--no-report", *TINY_IMAGE]
    assert cli(*words, "--run", run).code == 0
    for name, value in (("a", 0), ("b", 255)):
        Image.new("L", (20, 20), value).save(tmp_path / f"{name}.png")
    outcome = cli("interpolate", run, "--from", tmp_path / "a.png", "--to", tmp_path / "b.png")
    assert outcome.code == 0, outcome.err
    assert (run / "interpolation-a-b.png").exists()


def test_report(cli, moons_run):
    answer = answer_of(cli("report", moons_run, "--json"))
    assert answer["report"] == str(moons_run / "report.html")
    assert (moons_run / "report.html").stat().st_size > 10_000
    assert str(moons_run / "density.png") in answer["pictures"]
    assert answer["evaluation"]["likelihood"] == "exact"


def test_score(cli, moons_run, tmp_path):
    out = tmp_path / "scores.csv"
    answer = answer_of(
        cli("score", "moons", "--n", 40, "--run", moons_run, "--out", out, "--json")
    )
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 40 == answer["examples"]
    assert np.isclose(np.mean([float(row["log_likelihood"]) for row in rows]), answer["mean"])


def test_check(cli, moons_run):
    answer = answer_of(cli("check", moons_run, "--json"))
    assert answer["finite"]
    assert answer["round_trip"] < 1e-3


def test_models(cli):
    answer = answer_of(cli("models", "--json"))
    assert {"nice", "realnvp"} <= {row["name"] for row in answer}
    described = answer_of(cli("models", "nice", "--json"))
    assert "--couplings" in {option["option"] for option in described["options"]}


def test_data(cli, tmp_path):
    assert "moons" in {row["name"] for row in answer_of(cli("data", "--json"))}
    assert "1,437 train" in cli("data", "digits").out
    described = answer_of(cli("data", "moons", "--n", 50, "--json"))
    assert described["sizes"] == {"train": 40, "validation": 5, "test": 5}
    for source in ("moons", "digits"):
        assert cli("data", source, "--preview", tmp_path / f"{source}.png").code == 0
        assert (tmp_path / f"{source}.png").exists()


def test_a_table_end_to_end(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    rows = [
        f"{a:.4f},{b:.4f},{c:.4f},{'xy'[int(a > 0)]}" for a, b, c in random.normal(size=(90, 3))
    ]
    (tmp_path / "t.csv").write_text("\n".join(["height,width,depth,kind", *rows]))
    words = ["train", "nice", "t.csv", "--label", "kind", "--conditional", "--steps", 2]
    trained = cli(*words, "--hidden-features", 8, "--hidden-layers", 1)
    assert trained.code == 0, trained.err
    sampled = cli("sample", "runs/nice-t", "-n", 4, "--label", "y", "--out", "new.csv")
    assert sampled.code == 0, sampled.err
    new = list(csv.DictReader((tmp_path / "new.csv").open()))
    assert list(new[0]) == ["height", "width", "depth", "label"]
    assert {row["label"] for row in new} == {"y"}
    # other columns beside those of the training, in another order
    (tmp_path / "u.csv").write_text("kind,depth,width,height\ny,1,2,3\nx,2,3,4\ny,0,0,1\n")
    answer = answer_of(cli("evaluate", "runs/nice-t", "--data", "u.csv", "--json"))
    assert answer["examples"] == 3


def test_demo(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "realnvp", "moons", "--n", 100, "--steps", 1, "--no-report", *TINY]
    assert cli(*words, "--run", "runs/demo").code == 0
    outcome = cli("demo", "--minutes", 0.01)  # replaces what an earlier one has left
    assert (outcome.code, outcome.err) == (0, "")
    last = "\n".join(outcome.out.splitlines()[-12:])
    for said in ("samples.png", "report.html", "steadyflow sample"):
        assert said in last
    assert (tmp_path / "runs" / "demo" / "report.html").exists()


def test_trained_models_by_name(cli, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = answer_of(cli("models", "--trained", "--json"))
    assert "digits-realnvp" in [card["name"] for card in listed]
    assert "steadyflow train realnvp digits" in cli("models", "digits-realnvp", "--trained").out
    assert "did you mean 'digits-realnvp'" in refused(2, "models", "digits-realnpv", "--trained")
    assert "did you mean digits-realnvp?" in refused(2, "sample", "digits-realnpv")
    assert cli("sample", "digits-realnvp", "-n", 10, "--label", 7).code == 0
    assert (tmp_path / "samples-0.png").is_file()
    answer = answer_of(cli("evaluate", "digits-realnvp", "--limit", 20, "--json"))
    assert answer["examples"] == 20
    assert cli("interpolate", "digits-realnvp", "--steps", 3, "--out", "way.png").code == 0
    assert cli("check", "moons-spline-flow", "--points", 1).code == 0
    answer = answer_of(cli("score", "moons", "--run", "moons-spline-flow", "--n", 50, "--json"))
    assert answer["examples"] == 50
