"""Training a conditional density on vectors to condition on."""

import numpy as np
import pytest
import torch

import steadyflow
from steadyflow import data
from steadyflow.data import DataError
from steadyflow.errors import UsageError

SMALL = {"transforms": 2, "hidden_features": [32], "bins": 4}


@pytest.fixture(scope="module")
def linear():
    """theta ~ N(0, 1), x = theta + N(0, 1/4): theta | x ~ N(0.8 x, 0.2)."""
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(4000, 1))
    return theta, theta + 0.5 * rng.normal(size=(4000, 1))


def test_posterior_of_a_linear_gaussian(linear):
    theta, x = linear
    dataset = data.from_arrays(theta, context=x)
    result = steadyflow.fit("spline-flow", dataset, model_options=SMALL, steps=400)
    model = result.model
    assert model.context_features == dataset.context_features == 1
    context = torch.tensor([[-1.0], [1.5]]).repeat_interleave(2000, 0)
    drawn = model.sample(4000, context, generator=torch.Generator().manual_seed(0))
    for part, seen in zip(drawn.chunk(2), (-1.0, 1.5), strict=True):
        assert abs(part.mean() - 0.8 * seen) < 0.1
        assert abs(part.std() - 0.2**0.5) < 0.08


def test_the_same_through_fit_alone(linear):
    theta, x = linear
    result = steadyflow.fit("maf", theta, data_options={"context": x}, steps=3)
    assert result.model.log_prob(torch.zeros(2, 1), torch.zeros(2, 1)).shape == (2,)


def test_resuming_needs_the_same_context(linear, tmp_path):
    theta, x = linear
    run = tmp_path / "run"
    steadyflow.fit("maf", theta, data_options={"context": x}, steps=3, run=run)
    again = steadyflow.training.resume(run, data=data.from_arrays(theta, context=x), steps=5)
    assert again.steps == 5
    with pytest.raises(DataError, match="changed"):
        steadyflow.training.resume(run, data=data.from_arrays(theta, context=x + 1), steps=9)


@pytest.mark.parametrize(
    ("context", "error", "says"),
    [
        (np.full((4000, 1), np.nan), DataError, "NaN"),
        (np.zeros(4000), DataError, "features"),
        (np.zeros((10, 1)), DataError, "10"),
    ],
)
def test_bad_context(linear, context, error, says):
    with pytest.raises(error, match=says):
        data.from_arrays(linear[0], context=context)


def test_classes_and_context_together(linear):
    with pytest.raises(UsageError, match="not both"):
        data.from_arrays(linear[0], np.zeros(4000, int), context=linear[1])


def test_a_model_for_another_context(linear):
    theta, x = linear
    model = steadyflow.MAF(event_shape=[1], context_features=3)
    with pytest.raises(UsageError, match="context"):
        steadyflow.fit(model, data.from_arrays(theta, context=x), steps=1)
    with pytest.raises(UsageError, match="context"):
        steadyflow.fit(model, theta, steps=1)


def test_the_units_of_the_context_do_not_matter(linear):
    theta, x = linear
    plain = steadyflow.fit("maf", data.from_arrays(theta, context=x), steps=30)
    large = steadyflow.fit("maf", data.from_arrays(theta, context=1000 * x + 5), steps=30)
    assert plain.best_validation_loss == pytest.approx(large.best_validation_loss, abs=1e-3)
