"""Games: several players in turns, through the same loop."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from watchers import Losses, Signal

import steadyflow.models
from steadyflow.models import Entry
from steadyflow.models.model import GenerativeModel
from steadyflow.models.players import Player, parameters_of
from steadyflow.training import resume


class Tug(GenerativeModel):
    """One pulls the centre to the data, the other a follower to the centre."""

    name = "tug"
    likelihood = "none"

    def __init__(self, *, event_shape, every=1, rate=1.0):
        super().__init__(event_shape=event_shape)
        self.every, self.rate = every, rate
        self.centre = nn.Linear(1, 2)
        self.follower = nn.Linear(1, 2)

    def players(self):
        return (
            Player("centre", parameters_of(self.centre), self.pull),
            Player("follower", parameters_of(self.follower), self.follow, self.every, self.rate),
        )

    def pull(self, x, context=None):
        assert not any(p.requires_grad for p in self.follower.parameters())
        return (x - self.centre(torch.ones_like(x[:, :1]))).square().mean()

    def follow(self, x, context=None):
        one = torch.ones_like(x[:, :1])
        return (self.centre(one) - self.follower(one)).square().mean()

    def loss(self, x, context=None):
        return (x - self.follower.bias).square().mean()

    def sample(self, n, context=None, temperature=1.0, generator=None):
        return self.follower.bias.detach().expand(n, -1)


@pytest.fixture
def tug(monkeypatch):
    entry = Entry("tug", "Tug", "a game", {"vector": "none"})
    monkeypatch.setitem(steadyflow.models.MODELS, "tug", entry)
    known = steadyflow.models.model_class
    monkeypatch.setattr(
        steadyflow.models, "model_class", lambda name: Tug if name == "tug" else known(name)
    )

    def build(**options):
        torch.manual_seed(1)
        return Tug(event_shape=(2,), **options)

    return build


def test_players_move_in_turns_and_alone(tug, points, fit):
    model = tug(every=3)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    result = fit(model, points, steps=2, ema=0.0)
    after = result.model.state_dict()
    assert not torch.equal(after["centre.bias"], start["centre.bias"])
    assert torch.equal(after["follower.bias"], start["follower.bias"])
    result = fit(tug(every=3), points, steps=3, ema=0.0)
    assert not torch.equal(result.model.state_dict()["follower.bias"], start["follower.bias"])


def test_a_player_has_its_own_rate(tug, points, fit):
    options = {"steps": 1, "ema": 0.0, "warmup": 0, "schedule": "constant"}
    moved = []
    for rate in (1.0, 0.1):
        model = tug(rate=rate)
        before = model.follower.bias.detach().clone()
        fit(model, points, **options)
        moved.append((model.follower.bias - before).detach().abs())
    assert_close(moved[1], 0.1 * moved[0], rtol=1e-3, atol=0)


def test_a_game_resumes_exactly(tug, tmp_path, points, fit):
    options = {"steps": 14, "validate_every": 5}
    straight, first, second = Losses(), Losses(), Losses()
    whole = fit(tug(every=2), points, run=tmp_path / "whole", callbacks=[straight], **options)
    fit(tug(every=2), points, run=tmp_path / "half", callbacks=[first, Signal(6)], **options)
    rest = resume(tmp_path / "half", callbacks=[second])
    assert first.losses + second.losses == straight.losses
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[name]), name


def test_a_move_that_is_not_finite_is_skipped(tug, points, fit):
    class Spoiled(Tug):
        def follow(self, x, context=None):
            return super().follow(x, context) * torch.nan

    torch.manual_seed(1)
    model = Spoiled(event_shape=(2,), every=3)
    before = model.follower.bias.detach().clone()
    result = fit(model, points, steps=6)
    assert result.skipped == 2
    assert torch.equal(model.follower.bias, before)


def test_two_processes_play_what_one_plays(tug, points, fit):
    options = {"batch_size": 47, "validate_every": 5}
    one = fit(tug(every=2), points, **options)
    two = fit(tug(every=2), points, processes=2, **options)
    assert two.steps == one.steps
    for name, value in one.model.state_dict().items():
        assert_close(two.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)
