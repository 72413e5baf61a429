"""Reverse KL: flows fitted to log-densities, alone and through Pyro."""

import math

import pytest
import torch

from steadyflow import MAF, RealNVP, SplineFlow, fit_log_density
from steadyflow.errors import TrainingError, UsageError

SMALL = {"hidden_features": [16, 16]}


def banana(x):
    """x_0 ~ N(0, 1), x_1 | x_0 ~ N(x_0^2, 0.5^2), times e^2."""
    first = -0.5 * x[:, 0] ** 2 - 0.5 * math.log(2 * math.pi)
    second = -2 * (x[:, 1] - x[:, 0] ** 2) ** 2 - 0.5 * math.log(2 * math.pi * 0.25)
    return first + second + 2.0


@pytest.mark.parametrize(
    "model",
    [
        SplineFlow(event_shape=[2], architecture="coupling", transforms=3, **SMALL),
        MAF(event_shape=[2], orientation="sampling", transforms=3, **SMALL),
    ],
    ids=["coupling", "iaf"],
)
def test_the_evidence_of_a_banana(model):
    found = fit_log_density(banana, model, steps=250, rate=5e-3)
    # log Z is 2; 4000 draws of a good fit know it to 0.02
    assert found.log_evidence == pytest.approx(2.0, abs=0.1)
    assert found.elbo <= 2.0 + 3 * found.standard_error
    assert found.elbo > 1.8
    assert found.weights.effective_sample_size > 1500
    mean = found.weights.mean(found.draws)
    assert mean[1] == pytest.approx(1.0, abs=0.25)
    assert found.history[0][0] == 0
    assert found.skipped == 0
    assert "Pareto k" in str(found)


def test_a_density_with_bounds():
    # Beta(2, 3): integral x (1-x)^2 = 1/12
    model = SplineFlow(
        event_shape=[1],
        columns=[{"name": "p", "low": 0.0, "high": 1.0}],
        orientation="sampling",
        transforms=1,
        **SMALL,
    )
    found = fit_log_density(
        lambda x: x[:, 0].log() + 2 * (-x[:, 0]).log1p(), model, steps=200, rate=1e-2
    )
    assert found.log_evidence == pytest.approx(-math.log(12), abs=0.03)
    assert ((found.draws > 0) & (found.draws < 1)).all()


def test_it_starts_where_it_is_told_and_repeats_itself():
    start = 1000 + 50 * torch.randn(500, 2)

    def far(x):
        return -0.5 * ((x - 1000) / 50).square().sum(1)

    runs = [
        fit_log_density(far, RealNVP(event_shape=[2], couplings=2, **SMALL), start=start, steps=5)
        for _ in range(2)
    ]
    assert runs[0].log_evidence == pytest.approx(math.log(2 * math.pi * 2500), abs=0.3)
    again = fit_log_density(far, 2, start=start, steps=3, draws=100)
    assert again.elbo == fit_log_density(far, 2, start=start, steps=3, draws=100).elbo


def test_what_can_not_be_fitted_is_said():
    with pytest.raises(UsageError, match="one number for each"):
        fit_log_density(lambda x: -(x**2), 2, steps=2)
    with pytest.raises(UsageError, match="without conditions"):
        fit_log_density(banana, MAF(event_shape=[2], context_features=1), steps=2)
    counts = MAF(event_shape=[2], columns=[{"width": 1.0}, {}])
    with pytest.raises(UsageError, match="integers"):
        fit_log_density(banana, counts, steps=2)
    with pytest.raises(TrainingError, match="bounds"):
        fit_log_density(lambda x: x.sum(1).log(), 2, steps=50)


def test_as_a_guide_of_pyro():
    pyro = pytest.importorskip("pyro")
    normal = torch.distributions.MultivariateNormal(
        torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 0.8], [0.8, 1.0]])
    )
    flow = MAF(event_shape=[2], transforms=2, orientation="sampling", **SMALL)

    def model():
        pyro.sample(
            "z", pyro.distributions.MultivariateNormal(normal.loc, normal.covariance_matrix)
        )

    def guide():
        pyro.module("flow", flow)
        pyro.sample("z", flow.distribution())

    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    loss = pyro.infer.Trace_ELBO(num_particles=64, vectorize_particles=True)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), loss)
    losses = [svi.step() for _ in range(80)]
    assert losses[0] > 1
    assert sum(losses[-10:]) / 10 < 0.1
    predictive = pyro.infer.Predictive(model, guide=guide, num_samples=500)
    assert predictive()["z"].mean(0).tolist() == pytest.approx([1.0, -1.0], abs=0.3)
    with pyro.plate("rows", 3):
        assert pyro.sample("x", flow.distribution()).shape == (3, 2)
