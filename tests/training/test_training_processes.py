"""Two processes on one CPU, with gloo."""

import os
import subprocess
import sys

import pytest
import torch
from watchers import Crash, Kill, Save, Signal, Spoil, Still

from steadyflow import TarFlow
from steadyflow.errors import TrainingError
from steadyflow.training import Run, load, resume

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def assert_same(first, second):
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_two_processes_train_what_one_trains(points, small, fit):
    options = {"batch_size": 47, "validate_every": 5, "accumulate": 2}
    one = fit(small(), points, **options)
    two = fit(small(), points, processes=2, **options)
    assert_same(one.model, two.model)
    assert two.steps == one.steps
    assert two.best_validation_loss == pytest.approx(one.best_validation_loss, rel=1e-5)
    assert [row["step"] for row in two.history] == [row["step"] for row in one.history]
    for a, b in zip(one.history, two.history, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)


@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.slow
def test_two_processes_train_a_transformer_as_one_does(fit, shard):
    def model():
        torch.manual_seed(1)
        return TarFlow(
            event_shape=(1, 8, 8), patch_size=4, channels=16, blocks=2, layers_per_block=1, bits=5
        )

    options = {"batch_size": 64, "steps": 10}
    one = fit(model(), "digits", callbacks=[Still()], **options)
    two = fit(model(), "digits", callbacks=[Still()], processes=2, shard=shard, **options)
    assert_same(one.model, two.model)


def test_two_processes_agree_about_interruption_and_resume(tmp_path, points, small, fit):
    one = fit(small(), points)
    half = fit(small(), points, processes=2, run=tmp_path / "run", callbacks=[Signal(5)])
    assert half.interrupted
    assert half.steps < 12
    rest = resume(tmp_path / "run")
    assert rest.steps == 12
    assert_same(one.model, rest.model)


def test_two_processes_skip_the_same_steps(points, small, fit):
    one = fit(small(), points, callbacks=[Spoil({3, 6})])
    two = fit(small(), points, callbacks=[Spoil({3, 6})], processes=2)
    assert two.skipped == one.skipped == 2
    assert_same(one.model, two.model)


def test_fewer_rows_than_processes(small, fit):
    result = fit(small(), torch.randn(4, 2), processes=3, steps=4)
    assert result.steps == 4


def test_a_failing_process_is_reported(points, small, fit):
    with pytest.raises(TrainingError, match=r"one of the training processes failed.*power"):
        fit(small(), points, processes=2, callbacks=[Crash(2)])


@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.slow
def test_a_run_goes_on_after_a_worker_was_killed(tmp_path, points, small, fit, shard):
    options = {"processes": 2, "shard": shard, "run": tmp_path / "run"}
    one = fit(small(), points)
    with pytest.raises(TrainingError, match=r"one of the training processes (died|failed)"):
        fit(small(), points, callbacks=[Save(4, tmp_path / "run"), Kill(7)], **options)
    rest = resume(tmp_path / "run")
    assert rest.steps == one.steps
    assert_same(one.model, rest.model)


@pytest.mark.slow
def test_the_command_line(tmp_path):
    words = ["train", "realnvp", "moons", "--n", "500", "--steps", "12"]
    words += ["--processes", "2", "--no-report", "--run"]
    for program in ([sys.executable, "-m", "steadyflow"], [_script("steadyflow")]):
        folder = tmp_path / str(len(program))
        done = subprocess.run(
            [*program, *words, str(folder)], env=ENVIRONMENT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert Run.open(folder).metrics()[-1]["step"] == 12
        assert "Warning" not in done.stderr
    assert_same(load(tmp_path / "1"), load(tmp_path / "3"))


@pytest.mark.slow
def test_torchrun(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from steadyflow import fit\n"
        f"r = fit('realnvp', 'moons', run={str(tmp_path / 'run')!r}, steps=12)\n"
        "print('steps', r.steps)\n"
    )
    done = subprocess.run(
        [_script("torchrun"), "--standalone", "--nproc-per-node", "2", str(script)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("steps 12") == 2
    assert Run.open(tmp_path / "run").metrics()[-1]["step"] == 12


def _script(name):
    return os.path.join(os.path.dirname(sys.executable), name)
