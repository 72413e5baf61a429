import signal
import time

import pytest
import torch
from watchers import Crash, Losses, Signal

from steadyflow import RealNVP
from steadyflow.data import DataError
from steadyflow.errors import UsageError
from steadyflow.training import Run, fit, load, resume

OPTIONS = {"steps": 20, "batch_size": 48, "validate_every": 7, "log_every": 6, "progress": False}


def train(model, dataset, folder, *callbacks, **options):
    return fit(model, dataset, run=folder, callbacks=callbacks, **{**OPTIONS, **options})


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def without_times(rows):
    timed = ("examples_per_second", "elapsed")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_run_that_continues_exactly(tmp_path, points, small, number):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    straight, first, second = Losses(), Losses(), Losses()
    whole = train(small(), points, tmp_path / "whole", straight)

    half = train(small(), points, tmp_path / "half", first, Signal(9, number))
    assert half.interrupted
    assert half.steps == 10
    assert "interrupted after step 10" in half.message
    assert load(tmp_path / "half").log_prob(points.test.x).isfinite().all()

    rest = resume(tmp_path / "half", callbacks=[second])
    assert not rest.interrupted
    assert first.losses + second.losses == straight.losses
    assert same_weights(rest.model, whole.model)
    assert rest.best_validation_loss == whole.best_validation_loss
    assert without_times(rest.history) == without_times(whole.history)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_images_continue_exactly_too(tmp_path):
    def model():
        torch.manual_seed(1)
        return RealNVP(event_shape=(1, 8, 8), hidden_channels=4, blocks=1, scales=1, bits=5)

    straight, first, second = Losses(), Losses(), Losses()
    train(model(), "digits", tmp_path / "whole", straight, steps=8)
    train(model(), "digits", tmp_path / "half", first, Signal(3), steps=8)
    resume(tmp_path / "half", callbacks=[second])
    assert first.losses + second.losses == straight.losses


def test_a_crash_costs_only_what_came_after_the_checkpoint(tmp_path, points, small, monkeypatch):
    monkeypatch.setattr("steadyflow.training.callbacks.CHECKPOINT_SECONDS", 0.0)
    straight, second = Losses(), Losses()
    whole = train(small(), points, tmp_path / "whole", straight)
    with pytest.raises(RuntimeError, match="the power is out"):
        train(small(), points, tmp_path / "half", Crash(13))
    rest = resume(tmp_path / "half", callbacks=[second])
    assert second.losses == straight.losses[12:]
    assert without_times(rest.history) == without_times(whole.history)


def test_a_crash_before_the_first_checkpoint_starts_again(tmp_path, points, small):
    with pytest.raises(RuntimeError, match="the power is out"):
        train(small(), points, tmp_path / "run", Crash(2))
    again = resume(tmp_path / "run")
    assert again.steps == 20
    assert again.history[-1]["step"] == 20


def test_a_larger_budget_goes_on(tmp_path, points, small):
    train(small(), points, tmp_path / "run")
    with pytest.raises(UsageError, match=r"has used up its budget \(20 steps.*--steps 40"):
        resume(tmp_path / "run")
    assert resume(tmp_path / "run", steps=25).steps == 25
    assert Run.open(tmp_path / "run").config["training"]["steps"] == 25


def test_changed_data_are_refused(tmp_path, labelled, points, small):
    train(small(), labelled, tmp_path / "run", Signal(3))
    with pytest.raises(UsageError, match="in memory"):
        resume(tmp_path / "run")
    with pytest.raises(DataError, match="has changed since the run began"):
        resume(tmp_path / "run", data=points)
    assert resume(tmp_path / "run", data=labelled).steps == 20


def test_a_damaged_checkpoint_is_refused_and_the_model_stays(tmp_path, points, small):
    train(small(), points, tmp_path / "run", Signal(9))
    path = tmp_path / "run" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is damaged"):
        resume(tmp_path / "run")
    assert load(tmp_path / "run").log_prob(points.test.x).isfinite().all()


def test_a_changed_model_is_refused(tmp_path, points, small):
    train(small(), points, tmp_path / "run", Signal(9))
    run = Run.open(tmp_path / "run")
    model = {"name": "realnvp", "config": {**run.config["model"]["config"], "couplings": 3}}
    run.write_config({**run.config, "model": model})
    with pytest.raises(ValueError, match=r"checkpoint .* does not fit the model of config\.yaml"):
        resume(tmp_path / "run")


def test_the_second_ctrl_c_breaks_off(tmp_path, points, small):
    class Twice(Signal):
        def on_train_batch_end(self, trainer, training, *_):
            super().on_train_batch_end(trainer, training)
            while training.step == self.step and not training.interruption.asked:
                time.sleep(0.01)  # two signals at once would be one
            super().on_train_batch_end(trainer, training)

    ours = signal.default_int_handler
    before = signal.signal(signal.SIGINT, ours)  # a shell in the background has it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            train(small(), points, tmp_path / "run", Twice(5))
        assert signal.getsignal(signal.SIGINT) == ours
    finally:
        signal.signal(signal.SIGINT, before)
