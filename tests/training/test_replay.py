"""A step replayed as a CUDA graph is the step itself."""

import warnings

import pytest
import torch
from torch import nn
from watchers import Losses

from steadyflow import Glow, RealNVP
from steadyflow.training.replay import Replay

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def losses(fit, model, dataset, **options):
    watch = Losses()
    fit(model, dataset, callbacks=[watch], **options)
    return watch.losses


def test_the_cpu_has_nothing_to_replay(points, small, fit):
    options = {"steps": 5, "device": "cpu"}
    on = losses(fit, small(), points, replay="auto", **options)
    assert on == losses(fit, small(), points, replay="off", **options)


def test_a_step_that_can_not_be_recorded_is_called_as_it_is(monkeypatch):
    layer, calls = nn.Linear(2, 1), []

    def step(x, y):
        calls.append(y)
        loss = layer(x).square().mean()
        loss.backward()
        return loss.detach()

    replay = Replay(step, [*layer.parameters()], lambda: None)
    monkeypatch.setattr(replay, "_record", _refuse)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = [replay(torch.ones(3, 2), None).item() for _ in range(6)]
    assert len(calls) == 6
    assert len(set(found)) == 1
    assert [str(w.message) for w in said] == [
        "the training step could not be recorded as a CUDA graph (reads a value): "
        "training goes on without, as with replay='off'"
    ]


def _refuse(x, y):
    raise RuntimeError("reads a value\nand more")


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bf16-mixed", "float64"])
def test_replayed_losses_are_those_of_ordinary_steps(precision, fit):
    def run(replay):
        torch.manual_seed(1)
        model = RealNVP(event_shape=(1, 8, 8), hidden_channels=8, blocks=1, scales=1, bits=5)
        options = {"steps": 20, "precision": precision, "device": "cuda", "replay": replay}
        return losses(fit, model, "digits", **options)

    close = 0.02 if precision == "bf16-mixed" else 1e-4
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        replayed = run("auto")
    assert replayed == pytest.approx(run("off"), rel=close)
    assert len(set(replayed)) == len(replayed)


@gpu
@pytest.mark.gpu
def test_noise_is_fresh_in_every_replay():
    weight = nn.Parameter(torch.ones((), device="cuda"))
    seeds = iter(range(100))

    def step(x, y):
        loss = (weight * torch.randn_like(x)).mean()
        loss.backward()
        return loss.detach()

    replay = Replay(step, [weight], lambda: torch.cuda.manual_seed(1000))
    x, found = torch.zeros(100, device="cuda"), []
    for _ in range(10):
        torch.cuda.manual_seed(next(seeds))
        weight.grad = None
        found.append(replay(x, None).item())
        assert weight.grad.item() == pytest.approx(found[-1])
    assert not replay.failed
    assert len(set(found)) == 10


@gpu
@pytest.mark.gpu
def test_class_labels_and_other_batch_sizes(fit):
    torch.manual_seed(1)
    model = Glow(event_shape=(1, 8, 8), levels=2, steps=2, hidden_channels=8, num_classes=10)
    found = losses(fit, model, "digits", steps=12, device="cuda", batch_size=100)
    assert found[-1] < found[0]
