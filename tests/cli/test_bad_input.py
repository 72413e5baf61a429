"""What is wrong with what the user gives: one sentence that says what to do, never a traceback.

Exit code 2 for a wrong command, 1 for data or models that can not be used; what was saved before
stays as it was.
"""

import errno
import gzip
import json
import os
import pickle
import shutil
import struct

import numpy as np
import pytest
from conftest import TINY, assert_one_sentence
from PIL import Image

from steadyflow.models import GenerativeModel


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def saved_run(moons_run, tmp_path):
    """A copy of a run that may be damaged."""
    return shutil.copytree(moons_run, tmp_path / "saved" / "run")


def train(source, *words):
    return ("train", "realnvp", source, "--steps", 1, "--no-report", "--run", "made", *words)


def points(n=40, d=3):
    return np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)


def with_value(value):
    x = points()
    x[7, 1] = value
    return x


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((4, 3, 2, 2, 2)), "shape"),
        (np.float32(3.0), "shape"),
        (np.array([["a", "b"], ["c", "d"]]), "type"),
        (points().astype(np.complex64), "type"),
        (with_value(np.nan), "missing (NaN)"),
        (with_value(np.inf), "infinite"),
        (points(0), "nothing in it"),
        (points(1), "too few"),
        (np.c_[points(), np.ones(40)], "one value only"),
        (np.zeros((40, 1, 8, 8)), "integers"),
        (np.zeros((40, 1, 8, 8), np.uint8), "every pixel"),
        (np.full((40, 1, 8, 8), 999, np.int64), "0..255"),
        (points(d=1), "at least two"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_array_that_can_not_be_learned(refused, folder, x, said):
    np.save("x.npy", x)
    assert said in refused(1, *train("x.npy"))
    assert not (folder / "made").exists()


def test_an_array_of_objects_is_not_unpickled(refused, folder):
    np.save("x.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    refused(1, *train("x.npy"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("a,b\n", "row"),
        ("a,b\n1,2\n", "too few"),
        ("a,b\n1,2\n3,x\n5,6\n7,8\n9,1\n", "'b'"),
        ("a,b\n1,2\n3,nan\n5,6\n7,8\n9,1\n", "'b'"),
        ("a,b\n1,2\n3\n5,6\n7,8\n", "row"),
        ("a,b\n1,2\n3,2\n5,2\n7,2\n8,2\n9,2\n", "--drop b"),
    ],
)
def test_a_table_that_can_not_be_learned(refused, folder, text, said):
    (folder / "t.csv").write_text(text)
    assert said in refused(1, *train("t.csv"))
    assert not (folder / "made").exists()


def test_a_column_that_does_not_exist_suggests_the_nearest(refused, folder):
    (folder / "t.csv").write_text("height,width\n" + "1,2\n3,4\n" * 9)
    assert "height" in refused(2, *train("t.csv", "--label", "heigth"))


def truncated_png(path):
    Image.effect_noise((32, 32), 50).save(path)
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    "damage",
    [truncated_png, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"text")],
    ids=["truncated", "empty", "text"],
)
def test_an_image_that_can_not_be_read(refused, folder, damage):
    (folder / "photos").mkdir()
    for name in "abcdefgh":
        Image.effect_noise((32, 32), 50).save(folder / "photos" / f"{name}.png")
    damage(folder / "photos" / "c.png")
    assert "c.png" in refused(1, *train("photos"))


def test_idx_and_npz_files_that_are_cut_off(refused, folder):
    header = struct.pack(">IIII", 0x803, 50, 8, 8)
    (folder / "train-images-idx3-ubyte").write_bytes(header + bytes(100))
    refused(1, *train("train-images-idx3-ubyte"))
    whole = gzip.compress(header + os.urandom(50 * 64))
    (folder / "images-idx3-ubyte.gz").write_bytes(whole[: len(whole) // 2])
    refused(1, *train("images-idx3-ubyte.gz"))
    np.savez("x.npz", x=points())
    content = (folder / "x.npz").read_bytes()
    (folder / "x.npz").write_bytes(content[: len(content) // 2])
    refused(1, *train("x.npz"))
    (folder / "x.npy").write_bytes(b"\x93NUMPY\x01\x00")
    refused(1, *train("x.npy"))


def test_what_is_not_there(refused, folder):
    assert "there is no file or folder" in refused(2, *train("no/such/folder"))
    (folder / "empty").mkdir()
    assert "without images" in refused(1, *train("empty"))
    assert "there is no run" in refused(2, "evaluate", "runs/nothing")
    assert "neither a run" in refused(2, "evaluate", "empty")
    assert "there is no run" in refused(2, "train", "--resume", "runs/nothing")


def test_options_that_do_not_suit_the_data(refused, folder):
    assert "does not apply" in refused(2, *train("moons", "--gray"))
    assert "classes" in refused(2, *train("moons", "--conditional"))
    assert "--bits 9" in refused(2, *train("digits", "--bits", "9"))
    np.save("x.npy", points(d=5))
    assert "--test" in refused(2, *train("x.npy", "--test", "2"))


@pytest.mark.parametrize("verb", [["evaluate"], ["check"], ["interpolate"]])
def test_data_of_another_shape_than_the_model(refused, folder, moons_run, verb):
    np.save("x.npy", points(d=5))
    assert "shape (5,)" in refused(2, *verb, moons_run, "--data", "x.npy")
    refused(2, *verb, moons_run, "--data", "digits")


def test_an_existing_run_is_not_touched(refused, folder, saved_run):
    before = contents(saved_run)
    words = ("train", "realnvp", "moons", "--steps", 1, "--run", saved_run)
    assert "--overwrite" in refused(2, *words)
    (folder / "mine").mkdir()
    (folder / "mine" / "letter.txt").write_text("dear")
    words = ("train", "realnvp", "moons", "--steps", 1, "--run", "mine")
    assert "not a run" in refused(2, *words)
    assert "not a run" in refused(2, *words, "--overwrite")
    assert (folder / "mine" / "letter.txt").read_text() == "dear"
    assert contents(saved_run) == before


DAMAGES = {
    "model/model.safetensors": [
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(os.urandom(500)),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(pickle.dumps({"a": 1})),
        lambda path: path.unlink(),
    ],
    "model/config.json": [
        lambda path: path.write_text("{"),
        lambda path: path.write_text('{"architectures": ["Llama"]}'),
        lambda path: path.write_text('{"model": "realnpv", "config": {}}'),
        lambda path: path.write_text('{"model": "realnvp", "config": {"layers": 3}}'),
        lambda path: path.write_text('{"model": "realnvp", "config": {"event_shape": "two"}}'),
        lambda path: path.write_text('{"model": "nice", "config": {"event_shape": [2]}}'),
        lambda path: path.write_bytes(pickle.dumps({"model": "realnvp"})),
    ],
    "config.yaml": [
        lambda path: path.write_text(": : :"),
        lambda path: path.write_text("optimizer: adam\n"),
        lambda path: path.write_bytes(os.urandom(100)),
        lambda path: path.write_text("a: !!python/object/apply:os.getcwd []\n"),
    ],
}


@pytest.mark.parametrize(
    ("name", "damage"), [(name, damage) for name, all_ in DAMAGES.items() for damage in all_]
)
def test_a_model_that_is_damaged_or_something_else(refused, saved_run, name, damage):
    damage(saved_run / name)
    code = 2 if name == "model/config.json" and "realnpv" in read(saved_run / name) else 1
    for verb in ("evaluate", "sample"):
        said = refused(code, verb, saved_run)
    assert name.split("/")[-1] in said or "saved model" in said or "realnpv" in said, said


@pytest.mark.parametrize("damage", DAMAGES["model/model.safetensors"][:4])
def test_a_checkpoint_that_is_damaged(refused, saved_run, damage):
    damage(saved_run / "checkpoint.safetensors")
    assert "checkpoint" in refused(1, "train", "--resume", saved_run, "--steps", 9, "--no-report")
    GenerativeModel.from_pretrained(saved_run / "model")


def test_a_stranger_s_pickle_is_not_opened(refused, folder):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(folder / "sprung"),)

    for name in ("model.pt", "model.ckpt"):
        (folder / name).write_bytes(pickle.dumps(Trap()))
        refused(2, "evaluate", name)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps({"model": "nice", "config": {}}))
    (folder / "model" / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    refused(1, "sample", "model")
    assert not (folder / "sprung").exists()


def test_a_full_disk_keeps_what_was_saved(cli, moons_run, saved_run, monkeypatch):
    before = contents(saved_run)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    outcomes = [
        cli("train", "--resume", saved_run, "--steps", 8, "--no-report"),
        cli("sample", saved_run, "--out", saved_run / "new.npy"),
        cli("score", "moons", "--run", saved_run, "--out", saved_run / "scores.csv"),
        cli("report", saved_run),
    ]
    for outcome in outcomes:
        assert outcome.code == 1, outcome
        assert_one_sentence(outcome.err)
        assert "disk is full" in outcome.err or "No space left" in outcome.err
    monkeypatch.undo()
    assert contents(saved_run).items() >= before.items()
    assert cli("evaluate", saved_run).code == 0


def test_weights_that_do_not_fit_on_the_disk(cli, saved_run, monkeypatch):
    import safetensors
    import safetensors.torch

    def full(*_, **__):
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    outcome = cli("train", "--resume", saved_run, "--steps", 8, "--no-report")
    assert outcome.code == 1
    assert_one_sentence(outcome.err)
    monkeypatch.undo()
    assert cli("evaluate", saved_run).code == 0


def test_a_folder_that_can_not_be_written(refused, folder, moons_run):
    (folder / "file").write_text("")
    refused(1, "sample", moons_run, "--out", "file/x.npy")
    refused(2, "train", "realnvp", "moons", "--steps", 1, "--run", "file", *TINY)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def read(path):
    return path.read_bytes().decode(errors="replace") if path.exists() else ""
