"""What is done with real images: attributes, completions, reconstructions, and their quality."""

import json

import numpy as np
import pytest
from PIL import Image


def answer_of(outcome):
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


@pytest.fixture(scope="module")
def glow_run(tmp_path_factory):
    from steadyflow.cli.main import main

    folder = tmp_path_factory.mktemp("runs") / "glow"
    words = ["train", "glow", "digits", "--steps", 30, "--levels", 2, "--model-steps", 1]
    words += ["--hidden-channels", 8, "--batch-size", 64, "--warmup", 2, "--reversible", "True"]
    assert main([str(w) for w in [*words, "--no-report", "--run", folder]]) == 0
    return folder


def test_an_attribute_is_a_class_against_the_others(cli, glow_run):
    answer = answer_of(cli("manipulate", glow_run, "--with", 1, "--limit", 50, "--json"))
    assert answer["out"] == str(glow_run / "attribute-1.png")
    assert answer["with"] == answer["without"] == 50
    high, low = answer["scores"]
    assert high - low == pytest.approx(1, abs=0.05)
    assert Image.open(answer["out"]).size[0] > 100


def test_strength_zero_is_the_image_itself(cli, glow_run, tmp_path):
    words = ["--with", 1, "--without", 0, "--examples", 3, 5, "--strengths", -1, 0, 2]
    out = tmp_path / "a.npy"
    assert cli("manipulate", glow_run, *words, "--out", out, "--limit", 20).code == 0
    from steadyflow import data

    moved, test = np.load(out), data.open("digits").test.x.numpy()
    assert moved.shape == (3, 2, 1, 8, 8)
    np.testing.assert_array_equal(moved[1], test[[3, 5]])
    assert (moved[0] != moved[2]).any()


def test_an_attribute_of_two_folders(cli, refused, glow_run, tmp_path):
    for name, value in (("dark", 20), ("bright", 230)):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("L", (8, 8), value + i).save(tmp_path / name / f"{i}.png")
    words = ["manipulate", glow_run, "--with", tmp_path / "bright", "--out", tmp_path / "b.png"]
    assert cli(*words, "--without", tmp_path / "dark").code == 0
    assert (tmp_path / "b.png").exists()
    assert "--without" in refused(2, *words)
    assert "unknown class or folder" in refused(2, *words, "--without", "nowhere")


@pytest.mark.parametrize("known", ["top", "left", "border", "half"])
def test_completion_keeps_the_known_part(cli, glow_run, tmp_path, known):
    out = tmp_path / "c.npy"
    words = ["complete", glow_run, "--known", known, "--steps", 3, "--examples", 2, 4]
    answer = answer_of(cli(*words, "--out", out, "--json"))
    assert answer["draws"] == 2
    filled = np.load(out)
    assert filled.shape == (2, 2, 1, 8, 8)
    from steadyflow import data
    from steadyflow.cli.complete import part

    mask = part(known, (1, 8, 8), 0.5, 0).numpy()
    test = data.open("digits").test.x.numpy()[[2, 4]]
    assert 0 < mask.mean() < 1
    assert (filled == test)[:, :, mask].all()
    assert not (filled == test)[:, :, ~mask].all()


def test_completion_draws_a_picture(cli, glow_run):
    assert cli("complete", glow_run, "--steps", 1, "--examples", 0, 1).code == 0
    assert (glow_run / "completion-top.png").exists()


def test_reconstruction(cli, glow_run):
    answer = answer_of(cli("reconstruct", glow_run, "--limit", 20, "--json"))
    assert answer["maximum"] < 1e-4
    assert (glow_run / "reconstruction.png").exists()


def test_temperatures_side_by_side(cli, refused, glow_run, moons_run):
    answer = answer_of(cli("sample", glow_run, "--sweep", 0, 0.5, 1, "-n", 4, "--json"))
    assert answer["temperatures"] == [0, 0.5, 1]
    assert (glow_run / "temperature.png").exists()
    assert "of images" in refused(2, "sample", moons_run, "--sweep", 0.5, 1)


def test_quality(cli, glow_run):
    answer = answer_of(cli("quality", glow_run, "-n", 60, "--json"))
    assert answer["draws"] == answer["held_out"] == 60
    assert answer["copies"] == 0
    # thirty steps of training: draws are told apart from real images at once
    assert answer["pixels"]["value"] > 5 * abs(answer["pixels_of_train"]["value"])
    assert answer["features"]["value"] > 5 * abs(answer["features_of_train"]["value"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["manipulate", "--with", "77"], "unknown class"),
        (["manipulate", "--with", "1", "--examples", "9999"], "no example 9999"),
        (["manipulate", "--with", "1", "--out", "x.csv"], "unknown ending"),
        (["complete", "--share", "1.5"], "share lies between"),
        (["complete", "--known", "middle"], "one of"),
        (["reconstruct", "--out", "x.npy"], "takes a .png"),
        (["quality", "--inception", "nowhere.pth", "-n", "40"], "no file of Inception weights"),
    ],
)
def test_what_can_not_be_is_said(refused, glow_run, words, said):
    verb, *rest = words
    assert said in refused(2, verb, glow_run, *rest)


@pytest.mark.parametrize("verb", ["manipulate", "complete", "quality"])
def test_vectors_are_no_images(refused, moons_run, verb):
    more = ["--with", "0"] if verb == "manipulate" else []
    assert "model of vectors" in refused(2, verb, moons_run, *more)


def test_training_says_how_exact_it_was_reversed(cli, tmp_path):
    words = ["train", "glow", "digits", "--steps", 2, "--levels", 1, "--model-steps", 2]
    words += [
        "--hidden-channels",
        8,
        "--reversible",
        "True",
        "--no-report",
        "--run",
        tmp_path / "r",
    ]
    assert "got back their inputs" in cli(*words).out
    assert "drift" in (tmp_path / "r" / "metrics.csv").read_text().splitlines()[0]
