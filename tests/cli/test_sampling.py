"""What a model's own `sample` can be asked arrives from the command line."""

import json

import numpy as np
import pytest

from steadyflow.cli.main import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A class-conditional TarFlow of noisy images."""
    folder = tmp_path_factory.mktemp("runs") / "tarflow"
    words = ["train", "tarflow", "digits", "--conditional", "--steps", "5", "--sigma", "0.2"]
    words += ["--patch-size", "4", "--channels", "8", "--blocks", "2"]
    words += ["--layers-per-block", "1", "2", "--batch-size", "64"]
    assert main([*words, "--run", str(folder), "--no-report"]) == 0
    return folder


@pytest.fixture
def draw(cli, run, tmp_path):
    def drawn(*words):
        path = tmp_path / "x.npz"
        outcome = cli("sample", run, "-n", 6, "--out", path, "--json", *words)
        assert outcome.code == 0, outcome.err
        with np.load(path) as file:
            return file["x"], json.loads(outcome.out)

    return drawn


def test_the_options_of_the_model_arrive(draw):
    plain, answer = draw("--label", 3)
    assert "guidance" not in answer
    same, answer = draw("--label", 3, "--sampler", "windowed", "--window", 2)
    assert answer["sampler"] == "windowed"
    assert answer["window"] == 2
    assert np.array_equal(plain, same)
    clean, answer = draw("--label", 3, "--denoise")
    assert answer["denoise"] is True
    assert not np.array_equal(plain, clean)
    guided, answer = draw("--label", 3, "--guidance", 2, "--rule", "variance")
    assert answer["guidance"] == 2
    assert answer["rule"] == "variance"
    assert guided.shape == plain.shape


def test_the_help_lists_them_when_the_run_is_named(cli, run):
    said = cli("sample", run, "--help").out
    for option in ("--guidance", "--denoise", "--sampler", "--rule", "--tolerance"):
        assert option in said
    assert "--guidance" not in cli("sample", "--help").out


def test_mistakes_are_answered_in_one_sentence(refused, run, moons_run):
    assert "did you mean 'jacobi'" in refused(2, "sample", run, "--sampler", "jacoby")
    assert "did you mean '--guidance'" in refused(2, "sample", run, "--guidanse", 1)
    assert "guidance must be" in refused(1, "sample", run, "--guidance", -1)
    assert "unknown option '--guidance'" in refused(2, "sample", moons_run, "--guidance", 1)
