"""Malformed files, configs, arrays and words at every entry point: refused in words, or accepted.

Hypothesis makes them. FUZZ_EXAMPLES=1000 tries more than the few of a default run. What a person
gives may raise what is meant for people (`UsageError`, `DataError`, `ValueError`, `TypeError` with
a sentence), and on the command line never what `failures` calls a defect.
"""

import copy
import gzip
import io
import json
import os
import struct
import warnings

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

import steadyflow
from steadyflow import MAF, NICE, Diffusion, Glow, RealNVP, TarFlow, data
from steadyflow.cli.main import VERBS, main
from steadyflow.models import GenerativeModel
from steadyflow.training import Run, TrainingOptions
from steadyflow.training import checkpoint as checkpoints

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "5"))
fuzz = settings(
    max_examples=EXAMPLES,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
MEANT = (ValueError, FileNotFoundError)  # UsageError and DataError are ValueErrors


def damaged(content):
    """Bytes, cut off, with some of them changed, or with others put in between."""
    places = st.integers(0, max(len(content) - 1, 0))
    edits = st.lists(
        st.tuples(places, st.binary(min_size=1, max_size=8), st.booleans()), max_size=4
    )

    def damage(cut_edits):
        cut, changes = cut_edits
        made = bytearray(content[:cut] if cut is not None else content)
        for place, new, insert in changes:
            made[place : place if insert else place + len(new)] = new
        return bytes(made)

    return st.tuples(st.none() | places, edits).map(damage)


def _npz():
    file = io.BytesIO()
    np.savez_compressed(file, x=POINTS, y=np.arange(30) % 3)
    return file.getvalue()


def _npy(x):
    file = io.BytesIO()
    np.save(file, x)
    return file.getvalue()


def _png():
    file = io.BytesIO()
    Image.effect_noise((8, 8), 60).save(file, "png")
    return file.getvalue()


POINTS = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
PIXELS = np.random.default_rng(0).integers(256, size=(20, 8, 8), dtype=np.uint8)
IDX = struct.pack(">IIII", 0x803, 20, 8, 8) + PIXELS.tobytes()
FILES = {
    "x.npy": _npy(POINTS),
    "images.npy": _npy(PIXELS),
    "x.npz": _npz(),
    "x.csv": b"a,b,c\n" + b"".join(b"%f,%f,%f\n" % tuple(row) for row in POINTS),
    "train-images-idx3-ubyte": IDX,
    "images-idx3-ubyte.gz": gzip.compress(IDX, mtime=0),
    "photos/a.png": _png(),
}


@pytest.mark.parametrize("name", FILES)
@fuzz
@given(content=st.data())
def test_files(name, content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    for i in range(12 if name.startswith("photos") else 0):
        (path.parent / f"{i}.png").write_bytes(FILES[name])
    path.write_bytes(content.draw(damaged(FILES[name])))
    source = path.parent if name.startswith("photos") else path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = data.open(str(source))
        except MEANT as error:
            assert str(error)
            return
    assert not made.train.x.is_floating_point() or made.train.x.isfinite().all()


KINDS = [np.float32, np.float64, np.int64, np.uint8, np.bool_, np.complex64, "U3", np.float16]


@fuzz
@given(content=st.data())
def test_arrays(content):
    kind = content.draw(st.sampled_from(KINDS))
    shape = content.draw(arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=12))
    values = content.draw(arrays.arrays(kind, shape))
    try:
        made = data.from_arrays(values)
    except MEANT as error:
        assert str(error)
        return
    assert len(made.train) > 0


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 12) | st.floats(-2, 2) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of a small model, with everything that a run folder holds."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    steadyflow.fit(
        NICE(event_shape=[2], hidden_features=4, hidden_layers=1),
        "moons",
        run=folder,
        steps=2,
        progress=False,
        data_options={"n": 100},
    )
    return folder


SMALL = {
    NICE: {"event_shape": [2], "hidden_features": 4, "hidden_layers": 1},
    RealNVP: {"event_shape": [1, 4, 4], "hidden_channels": 4, "blocks": 1, "scales": 1},
    Glow: {"event_shape": [1, 4, 4], "hidden_channels": 4, "steps": 1},
    TarFlow: {"event_shape": [1, 4, 2], "channels": 4, "blocks": 1, "layers_per_block": 1},
    MAF: {"event_shape": [3], "hidden_features": [4], "transforms": 1},
    Diffusion: {"event_shape": [2], "hidden_features": [4]},
}


@pytest.mark.parametrize("model", SMALL)
@fuzz
@given(content=st.data())
def test_configs_of_models(model, content):
    known = list(model(**SMALL[model]).config)
    name = content.draw(st.sampled_from(known) | st.text(max_size=6))
    config = {**SMALL[model], name: content.draw(plain)}
    try:
        made = model(**config)
    except (ValueError, TypeError) as error:
        assert str(error)
        return
    assert isinstance(made.config, dict)


@fuzz
@given(content=st.data())
def test_saved_models(content, saved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    names = ("config.json", "model.safetensors")
    hit = content.draw(st.sampled_from(names))
    for name in names:
        whole = (saved / "model" / name).read_bytes()
        (folder / name).write_bytes(content.draw(damaged(whole)) if name == hit else whole)
    try:
        GenerativeModel.from_pretrained(folder)
    except MEANT as error:
        assert str(error)


@fuzz
@given(content=st.data())
def test_config_json_of_any_content(content, saved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = json.loads((saved / "model" / "config.json").read_text())
    name = content.draw(st.sampled_from(["model", "config"]))
    inner = content.draw(st.sampled_from(list(config["config"])))
    if name == "config" and content.draw(st.booleans()):
        config["config"][inner] = content.draw(plain)
    else:
        config[name] = content.draw(plain)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes((saved / "model/model.safetensors").read_bytes())
    try:
        GenerativeModel.from_pretrained(folder)
    except MEANT as error:
        assert str(error)


@fuzz
@given(content=st.data())
def test_checkpoints(content, saved, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors"
    path.write_bytes(content.draw(damaged((saved / "checkpoint.safetensors").read_bytes())))
    try:
        checkpoints.load(path)
    except MEANT as error:
        assert "damaged" in str(error)


@fuzz
@given(content=st.data())
def test_config_yaml(content, saved, tmp_path_factory, capsys):
    folder = tmp_path_factory.mktemp("runs") / "run"
    (folder / "model").mkdir(parents=True)
    for name in ("model/config.json", "model/model.safetensors"):
        (folder / name).write_bytes((saved / name).read_bytes())
    if content.draw(st.booleans()):
        (folder / "config.yaml").write_bytes(
            content.draw(damaged((saved / "config.yaml").read_bytes()))
        )
    else:
        config = yaml.safe_load((saved / "config.yaml").read_text())
        room = content.draw(st.sampled_from(list(config)))
        if isinstance(config[room], dict) and content.draw(st.booleans()):
            config[room][content.draw(st.sampled_from(list(config[room])))] = content.draw(plain)
        else:
            config[room] = content.draw(plain)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    try:
        Run.open(folder).model()
    except MEANT as error:
        assert str(error)
    answers_in_words(["evaluate", str(folder), "--limit", "2"], capsys)


@pytest.fixture(scope="module")
def models():
    made = {kind: kind(**options).eval() for kind, options in SMALL.items()}
    for kind, model in made.items():
        shape = SMALL[kind]["event_shape"]
        x = torch.rand(16, *shape) if len(shape) == 1 else torch.randint(256, (16, *shape))
        model.initialize(x)
    return made


@pytest.mark.parametrize("model", SMALL)
@pytest.mark.parametrize("method", ["loss", "log_prob", "encode", "decode", "initialize"])
@fuzz
@given(content=st.data())
def test_tensors(model, method, content, models):
    kind = content.draw(
        st.sampled_from([torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool])
    )
    shape = content.draw(st.lists(st.integers(0, 4), max_size=5))
    right = (content.draw(st.integers(0, 3)), *models[model].event_shape)
    size = right if content.draw(st.booleans()) else shape
    x = (torch.rand(size) * 300).to(kind)
    if kind.is_floating_point and x.numel() and content.draw(st.booleans()):
        x.flatten()[0] = content.draw(st.sampled_from([float("nan"), float("inf"), 1e30]))
    context = content.draw(st.none() | st.just(torch.zeros(2, 2)) | st.just(torch.zeros(1).long()))
    made = copy.deepcopy(models[model])  # of initialize, too
    try:
        with torch.no_grad():
            getattr(made, method)(x, context)
    except (ValueError, TypeError) as error:
        assert str(error)
    except RuntimeError as error:  # of a solver that can not go on
        assert type(error) is not RuntimeError, error


@fuzz
@given(content=st.data())
def test_training_options(content):
    names = list(TrainingOptions.__dataclass_fields__)
    name = content.draw(st.sampled_from(names) | st.text(max_size=6))
    try:
        TrainingOptions.of(**{name: content.draw(plain)})
    except (ValueError, TypeError) as error:
        assert str(error)


WORDS = (
    "moons digits nice realnvp run x.png ü -1 0 3 1e9 nan inf -- - = --json --no-json --n= -n "
    "--n --seed --out --label --limit --temperature --draws --data --split --bits --steps --hidden"
)
words = st.sampled_from(["", *WORDS.split()]) | st.text(max_size=6)


@fuzz
@given(verb=st.sampled_from([v for v in VERBS if v not in ("train", "demo", "explore")]),
       rest=st.lists(words, max_size=5))  # fmt: skip
def test_words(verb, rest, saved, tmp_path_factory, capsys, monkeypatch):
    assume("-h" not in rest and "--help" not in rest)
    monkeypatch.chdir(tmp_path_factory.mktemp("words"))
    given_words = [str(saved) if word == "run" else word for word in rest]
    answers_in_words([verb, *given_words], capsys)


@fuzz
@given(rest=st.lists(words, max_size=5))
def test_words_of_train(rest, tmp_path_factory, capsys, monkeypatch):
    assume("-h" not in rest and "--help" not in rest)
    monkeypatch.chdir(tmp_path_factory.mktemp("words"))
    answers_in_words(["train", *rest, "--minutes", "0.001", "--no-report"], capsys)


def answers_in_words(argv, capsys):
    capsys.readouterr()
    code = main(argv)
    said = capsys.readouterr()
    assert code in (0, 1, 2), argv
    assert "Traceback" not in said.err, (argv, said.err)
    assert "run again with --debug" not in said.err, (argv, said.err)
    if code:
        assert said.err.startswith("steadyflow: "), (argv, said.err)
        assert said.err.count("\n") == 1, (argv, said.err)
