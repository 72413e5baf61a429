"""Trained models that come along: each loads, says where it comes from, and gives its numbers."""

import json

import pytest
import torch
from torch.testing import assert_close

import steadyflow
from steadyflow import trained
from steadyflow.models import MODELS, GenerativeModel
from steadyflow.trained.shipping import ship

MEGABYTES = 12  # of all of them together: they are part of every installation


def test_there_are_some_and_they_are_small():
    cards = [trained.card(name) for name in trained.names()]
    assert len(cards) >= 2
    assert sum(card["bytes"] for card in cards) < MEGABYTES * 2**20


@pytest.mark.parametrize("name", trained.names())
def test_a_trained_model_can_be_used_by_its_name(name):
    card = trained.card(name)
    model = steadyflow.load(name)
    assert card["model"] == model.name
    assert card["model"] in MODELS
    assert card["command"].startswith("steadyflow train ")
    assert "/" not in card["data"]["source"]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    labels = None if model.num_classes is None else torch.tensor([0, 1])
    x = model.sample(2, labels)
    assert x.shape == (2, *model.event_shape)
    found = card["evaluation"]
    assert found["likelihood"] == model.likelihood
    assert model.likelihood == "none" or found["log_likelihood"] is not None
    assert found["examples"] > 0


def test_a_folder_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = trained.names()[0]
    other = steadyflow.NICE(event_shape=[3], hidden_features=4)
    other.save_pretrained(tmp_path / name)
    assert isinstance(steadyflow.load(name), steadyflow.NICE)


def test_shipping_measures_the_rounded_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steadyflow.fit(
        "nice",
        "moons",
        run="runs/m",
        steps=5,
        progress=False,
        data_options={"n": 200},
        model_options={"hidden_features": 24},
        command="steadyflow train nice moons --n 200 --run runs/m --steps 5",
    )
    ship("runs/m", "tiny", about="A test", folder=tmp_path / "shipped")
    whole = steadyflow.load("runs/m")
    rounded = GenerativeModel.from_pretrained(tmp_path / "shipped" / "tiny")
    for one, other in zip(whole.parameters(), rounded.parameters(), strict=True):
        assert other.dtype == torch.float32
        assert_close(one, other, rtol=2e-3, atol=1e-6)
    card = json.loads((tmp_path / "shipped" / "tiny" / "card.json").read_text())
    assert card["command"] == "steadyflow train nice moons --n 200 --steps 5"
    assert card["half"]
    x = steadyflow.data.open("moons", n=200).test.x
    mean = rounded.log_prob(x).double().mean().item()
    assert card["evaluation"]["log_likelihood"] == pytest.approx(mean, abs=1e-5)
