"""Amortised inference where posterior and evidence have a closed form."""

import math

import pytest
import torch

from steadyflow import RealNVP, SplineFlow
from steadyflow.amortized import fit_posterior, log_ratios, posterior_weights
from steadyflow.bijections import Chain, LearnedPrior
from steadyflow.errors import TrainingError, UsageError
from steadyflow.flow import Flow

NOISE = 0.5  # x ~ N(z, NOISE^2 I), z ~ N(0, I): the posterior is N(x / (1 + s^2), s^2 / (1 + s^2))


def log_joint(z, x):
    d = z.shape[1]
    prior = -(z**2).sum(1) / 2
    likelihood = -((x - z) ** 2).sum(1) / (2 * NOISE**2) - d * math.log(NOISE)
    return prior + likelihood - d * math.log(2 * math.pi)


def log_evidence(x):
    std = x.new_tensor(math.sqrt(1 + NOISE**2))
    return torch.distributions.Normal(0 * std, std).log_prob(x).sum(1)


def observed(n, dtype=torch.float32):
    return math.sqrt(1 + NOISE**2) * torch.randn(n, 2, dtype=dtype)


@torch.no_grad()
def exact():
    """The posterior itself, as a conditional flow of one affine layer."""
    model = RealNVP(event_shape=(2,), context_features=2).double()
    layer = LearnedPrior((2,), 2).double()
    std = NOISE / math.sqrt(1 + NOISE**2)
    layer.context.weight[:2] = torch.eye(2, dtype=torch.float64) / (3 * (1 + NOISE**2))
    layer.log_std.fill_(5 / 3 * math.atanh(math.log(std) / 5))
    model.flow = Flow(Chain(layer), (2,)).double()
    return model


@torch.no_grad()
def test_every_weight_of_the_exact_posterior_is_the_evidence():
    x = observed(20, torch.float64)
    weights = posterior_weights(log_joint, exact(), x, draws=50)
    assert weights.log_mean == pytest.approx(log_evidence(x), abs=1e-10)
    assert weights.effective_sample_size == pytest.approx(torch.full((20,), 50.0).double())
    ratios = log_ratios(log_joint, exact(), x, draws=3)
    assert ratios == pytest.approx(log_evidence(x).expand(3, -1), abs=1e-10)


@torch.no_grad()
def test_a_posterior_too_narrow_is_told_by_k_and_not_by_the_mean():
    model, x = exact(), observed(20, torch.float64)
    layer = model.flow.bijection[0]
    narrow = math.log(NOISE / 3 / math.sqrt(1 + NOISE**2))
    layer.log_std.fill_(5 / 3 * math.atanh(narrow / 5))
    weights = posterior_weights(log_joint, model, x, draws=2000)
    # a third as wide: w ~ exp(4 u^2 / 9) for u ~ N(0, 1) in each variable, a tail of k = 8 / 9
    assert 0.7 < weights.pareto_k.median() < 1.1
    assert weights.reliable.double().mean() < 0.2


def test_a_fit_reaches_the_evidence():
    torch.manual_seed(0)
    q = RealNVP(event_shape=(2,), context_features=2, couplings=4, hidden_features=(32,))
    x = observed(2000)
    fit = fit_posterior(log_joint, q, x, steps=400, batch_size=128, rate=5e-3)
    truth = log_evidence(x[:200]).mean().item()
    assert fit.model is q
    assert not q.training
    assert truth - 0.05 < fit.elbo < truth + 0.01
    assert fit.weights.pareto_k.median() < 0.5
    expected = log_evidence(x[:200])
    assert (fit.weights.log_mean - expected).abs().median() < 0.02
    assert fit.history[-1][1] < fit.history[0][1]
    assert "Pareto k" in str(fit)


def test_two_modes_of_a_nonlinear_model_are_found():
    # x = z^2 + noise: for x = 1 the posterior has modes near -1 and 1, evenly
    def squares(z, x):
        return -(z**2).sum(1) / 2 - ((x - z**2) ** 2).sum(1) / (2 * 0.3**2)

    torch.manual_seed(0)
    q = SplineFlow(event_shape=(1,), context_features=1, transforms=2, hidden_features=(32,))
    x = torch.randn(1000, 1) ** 2 + 0.3 * torch.randn(1000, 1)
    fit_posterior(squares, q, x, steps=300, batch_size=128, draws=4, rate=5e-3)
    z = q.sample(2000, torch.ones(1, 1))
    assert 0.1 < (z > 0).float().mean() < 0.9
    assert (z.abs() - 1).abs().median() < 0.25


def test_the_same_seed_gives_the_same_fit_and_leaves_global_randomness_alone():
    def fit():
        torch.manual_seed(1)
        q = RealNVP(event_shape=(2,), context_features=2, couplings=2, hidden_features=(8,))
        return fit_posterior(log_joint, q, x, steps=5, batch_size=32).history

    x = observed(100)
    first = fit()
    state = torch.get_rng_state()
    assert fit() == first
    assert torch.equal(torch.get_rng_state(), state)


def test_mistakes_are_told():
    q = RealNVP(event_shape=(2,), context_features=2, couplings=2, hidden_features=(8,))
    x = observed(100)
    free = RealNVP(event_shape=(2,), couplings=2, hidden_features=(8,))
    with pytest.raises(UsageError, match="built with context_features=2"):
        fit_posterior(log_joint, free, x)
    with pytest.raises(UsageError, match=r"x must have shape \(N, 2\)"):
        fit_posterior(log_joint, q, x[:, :1])
    with pytest.raises(UsageError, match="one number for each of 256 rows"):
        fit_posterior(lambda z, x: z, q, x, steps=2)
    with pytest.raises(TrainingError, match="not finite"):
        fit_posterior(lambda z, x: z.sum(1) * math.nan, q, x, steps=30)
    with pytest.raises(UsageError, match="draws must be at least 1"):
        fit_posterior(log_joint, q, x, draws=0)
