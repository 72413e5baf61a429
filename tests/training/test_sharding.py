"""Two processes that share the weights between them, on one CPU with gloo."""

import json
import os
import subprocess
import sys

import pytest
import torch
from watchers import Signal, Spoil

from steadyflow import Glow, RealNVP
from steadyflow.errors import UsageError
from steadyflow.training import load, resume
from steadyflow.training.sharding import like, shard, whole


def assert_same(first, second):
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_two_processes_with_half_of_the_weights_train_what_one_trains(points, small, fit):
    options = {"batch_size": 48, "validate_every": 5, "accumulate": 2}
    one = fit(small(), points, **options)
    two = fit(small(), points, processes=2, shard=True, **options)
    assert_same(one.model, two.model)
    assert two.best_validation_loss == pytest.approx(one.best_validation_loss, rel=1e-5)
    for a, b in zip(one.history, two.history, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        if a["gradient_norm"] is not None:
            assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-3)


def test_a_sharded_run_goes_on_sharded_or_not(tmp_path, points, small, fit):
    one = fit(small(), points)
    options = {"processes": 2, "shard": True, "run": tmp_path / "run"}
    half = fit(small(), points, callbacks=[Signal(5), Spoil({3})], **options)
    assert half.interrupted
    assert half.skipped == 1
    rest = resume(tmp_path / "run")
    assert rest.steps == one.steps
    assert_same(load(tmp_path / "run"), rest.model)
    alone = resume(tmp_path / "run", processes=1, shard=False, steps=one.steps + 3)
    assert alone.steps == one.steps + 3


def test_reversible_layers_are_refused():
    model = Glow(event_shape=(1, 8, 8), levels=2, steps=2, hidden_channels=4, reversible=True)
    with pytest.raises(UsageError, match="reversible=False"):
        shard(model, "cpu")


def test_whole_tensors_stay_as_they_are():
    tree = {"a": [torch.ones(2), 3], "b": (None, "c")}
    assert json.dumps(whole({**tree, "a": 1})) == '{"a": 1, "b": [null, "c"]}'
    assert whole(tree)["a"][0] is tree["a"][0]
    assert like(torch.zeros(2), tree["a"][0]) is tree["a"][0]


@pytest.mark.slow
def test_torchrun_gives_back_a_whole_model(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "from steadyflow import fit\n"
        f"r = fit('realnvp', 'moons', run={str(tmp_path / 'run')!r}, steps=12, shard=True)\n"
        "print('finite', bool(r.model.log_prob(torch.zeros(3, 2)).isfinite().all()))\n"
    )
    torchrun = os.path.join(os.path.dirname(sys.executable), "torchrun")
    done = subprocess.run(
        [torchrun, "--standalone", "--nproc-per-node", "2", str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finite True") == 2
    assert isinstance(load(tmp_path / "run"), RealNVP)
