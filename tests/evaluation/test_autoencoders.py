"""A model whose decoding only nearly undoes its encoding, from training to the report."""

import json
import math

import pytest
import torch

import steadyflow
from steadyflow import FVAE, RealNVP
from steadyflow.evaluation import (
    Evaluation,
    evaluate,
    interpolate,
    latent_gaussianity,
    round_trip,
)
from steadyflow.report.images import interpolation
from steadyflow.training import Run, resume

SMALL = {"blocks": 1, "hidden_channels": 8, "squeezes": 1, "flow_layers": 2, "flow_channels": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A few steps on real digits, interrupted by its budget."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    steadyflow.fit(
        "fvae",
        "digits",
        model_options={**SMALL, "latent_channels": 2, "decoder": "logistic", "anneal": 0.5},
        steps=30,
        batch_size=64,
        progress=False,
        run=folder,
    )
    return Run.open(folder)


def test_the_log_shows_the_parts_of_the_bound(run):
    rows = [row for row in run.metrics() if row["split"] == "validation"]
    for row in rows:
        assert row["reconstruction"] + row["rate"] == pytest.approx(-row["nats"], rel=1e-6)
    first = run.metrics()[0]
    annealed = first["reconstruction"] + first["rate"] > -first["nats"]
    assert annealed, "while the rate is annealed the loss is less than its parts"


def test_the_same_seed_gives_the_same_run_and_a_larger_budget_goes_on(run, tmp_path):
    options = {"model_options": SMALL, "batch_size": 64, "progress": False, "validate_every": 10}
    whole = steadyflow.fit("fvae", "digits", steps=8, run=tmp_path / "whole", **options)
    again = steadyflow.fit("fvae", "digits", steps=8, run=tmp_path / "again", **options)
    assert whole.history[-1]["rate"] == again.history[-1]["rate"]
    more = resume(tmp_path / "again", steps=10)
    assert more.steps == 10


def test_evaluation_says_bound_and_reconstruction(run):
    model, x = run.model().eval(), run.data().test
    one, many = (evaluate(model, x, limit=60, draws=k) for k in (1, 20))
    assert one.likelihood == "bound"
    assert many.log_likelihood > one.log_likelihood
    assert not one.round_trip.exact
    assert "reconstruction" in str(one)
    assert "round trip" not in str(one)
    assert "the true value is higher" in many.meaning
    back = Evaluation.from_dict(json.loads(json.dumps(one.to_dict())))
    assert back == one


def test_evaluations_of_before_are_of_exact_maps():
    model = RealNVP(event_shape=(2,), couplings=2, hidden_features=(8,))
    trip = round_trip(model, torch.randn(20, 2))
    assert trip.exact


def test_interpolation_begins_and_ends_with_the_reconstructions(run):
    model, x = run.model().eval(), run.data().test.x
    way = interpolate(model, x[0], x[1], steps=5)
    assert way.dtype == x.dtype
    assert way.shape == (5, *x.shape[1:])
    with torch.no_grad():
        ends = model.decode(model.encode(x[:2]))
    assert torch.equal(way[[0, 4]], ends)


def test_the_picture_of_interpolations_has_the_real_images_outside(run, tmp_path):
    model, test = run.model().eval(), run.data().test
    path = interpolation(model, test.x, test.y, tmp_path / "ways.png", pairs=2, steps=3, white=16)
    assert path.exists()


def test_latents_are_judged_by_draws_of_the_posterior():
    # an untrained VAE of linear networks on normal data, whose posterior is narrow
    model = FVAE(event_shape=(2,), prior="normal", posterior_std=0.5, hidden_features=())
    x = torch.randn(4000, 2)
    model.initialize(x)
    found = latent_gaussianity(model, x)
    assert found.std == pytest.approx(math.sqrt(1.25), rel=0.05)
