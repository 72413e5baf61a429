import errno
import sys

import numpy as np
import pytest
import safetensors.torch

from steadyflow import NICE, RealNVP
from steadyflow.data import DataError
from steadyflow.errors import UsageError
from steadyflow.training import Run, load, resume


def test_shapes_that_differ_are_both_named(points, fit):
    with pytest.raises(UsageError, match=r"\[3\].*\[2\]"):
        fit(RealNVP(event_shape=(3,)), points)


def test_missing_labels(points, fit):
    with pytest.raises(UsageError, match=r"needs class labels.*moons has none.*label="):
        fit(RealNVP(event_shape=(2,), num_classes=3), points)
    with pytest.raises(UsageError, match="moons has none"):
        fit("realnvp", points, conditional=True)


def test_too_few_classes(labelled, fit):
    with pytest.raises(UsageError, match="knows 1 classes, but two classes has 2"):
        fit(RealNVP(event_shape=(2,), num_classes=1), labelled)


def test_a_context_that_the_data_do_not_have(points, fit):
    with pytest.raises(UsageError, match="without context_features"):
        fit(RealNVP(event_shape=(2,), context_features=3), points)


def test_too_few_bits(fit):
    with pytest.raises(UsageError, match=r"4-bit pixels.*have 5 bits: build it with bits=5"):
        fit(NICE(event_shape=(1, 8, 8), bits=4), "digits")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"model": "realnpv"}, "did you mean 'realnvp'"),
        ({"model_options": {"coupling": 3}}, "did you mean 'couplings'"),
        ({"data": "moon"}, "did you mean 'moons'"),
        ({"learningrate": 1e-3}, "did you mean 'learning_rate'"),
        ({"steps": 0}, "steps=0 was given"),
        ({"log": "tensorboard"}, "needs a run folder"),
    ],
)
def test_wrong_calls_say_what_was_meant(fit, call, message):
    call = {"model": "realnvp", "data": "moons", **call}
    with pytest.raises(UsageError, match=message):
        fit(call.pop("model"), call.pop("data"), **call)


def test_data_with_holes(small, fit):
    x = np.ones((50, 2))
    x[3, 1] = np.nan
    with pytest.raises(DataError):
        fit(small(), x)


def test_options_for_a_model_that_is_built(points, small, fit):
    with pytest.raises(UsageError, match="built already"):
        fit(small(), points, model_options={"couplings": 3})


def test_an_existing_run_is_refused_before_anything_else(tmp_path, points, small, fit):
    fit(small(), points, run=tmp_path / "run")
    before = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="--overwrite"):
        fit("nonsense", "nonsense", run=tmp_path / "run")
    with pytest.raises(UsageError, match="shape"):
        fit(RealNVP(event_shape=(3,)), points, run=tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == before
    assert fit(small(), points, run=tmp_path / "run", overwrite=True).steps == 12


def test_what_this_machine_can_not_do_leaves_no_folder(tmp_path, points, small, fit, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UsageError, match="no GPU"):
        fit(small(), points, device="cuda", run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_resuming_what_is_not_a_run(tmp_path):
    with pytest.raises(UsageError, match="there is no run"):
        resume(tmp_path / "nothing")


@pytest.mark.parametrize("what", ["model", "checkpoint"])
def test_a_full_disk_keeps_what_was_saved(tmp_path, points, small, fit, monkeypatch, what):
    fit(small(), points, run=tmp_path / "run")
    saved = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*.safetensors")}
    real = safetensors.torch.save_file

    def full(tensors, path, metadata):
        if ("structure" in metadata) == (what == "checkpoint"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path, metadata)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match=r"could not save .*: No space left on device; what was"):
        resume(tmp_path / "run", steps=20, validate_every=1)
    monkeypatch.undo()
    path = tmp_path / "run" / "checkpoint.safetensors"
    assert path.read_bytes() == saved[path]
    assert load(tmp_path / "run").log_prob(points.test.x).isfinite().all()
    assert resume(tmp_path / "run").steps == 20
    assert Run.open(tmp_path / "run").metrics()[-1]["step"] == 20


@pytest.mark.parametrize("log", ["tensorboard", "wandb"])
def test_a_missing_logger_is_answered_by_its_pip_line(
    tmp_path, points, small, fit, monkeypatch, log
):
    monkeypatch.setitem(sys.modules, log, None)
    with pytest.raises(ImportError, match=rf"pip install 'steadyflow\[{log}\]'"):
        fit(small(), points, log=log, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
