"""Annealed importance sampling against normalisers that are known; each within 4 errors."""

import math

import pytest
import torch

from steadyflow.bases import StandardNormal, StudentT
from steadyflow.bijections import Scaling
from steadyflow.errors import UsageError
from steadyflow.flow import Flow
from steadyflow.solvers import anneal


def close(found, truth):
    assert found.standard_error < 0.1
    assert abs(found.log_z - truth) < 4 * found.standard_error
    return True


@pytest.mark.parametrize("method", ["hmc", "mala"])
def test_the_normaliser_of_a_correlated_normal(method, generator):
    root = torch.randn(4, 4, generator=generator, dtype=torch.float64) / 2
    covariance = root @ root.T + 0.2 * torch.eye(4, dtype=torch.float64)
    target = torch.distributions.MultivariateNormal(torch.ones(4).double(), covariance)
    found = anneal(
        lambda x: 7.0 - target.log_prob(x),
        StandardNormal((4,)).double(),
        chains=400,
        method=method,
        generator=generator,
    )
    assert close(found, -7.0)
    weights = found.log_weights.softmax(0)
    assert ((weights @ found.draws) - 1).abs().max() < 0.25
    assert found.effective_sample_size > 100
    assert "log Z = -7" in str(found) or "log Z = -6.9" in str(found)


def test_the_evidence_of_a_normal_model(generator):
    """Prior N(0, I), one observation with noise of 0.5: y ~ N(0, (1 + 0.25) I)."""
    y = torch.tensor([1.5, -0.5, 2.0], dtype=torch.float64)
    prior = StandardNormal((3,)).double()
    noise = torch.distributions.Normal(y, 0.5)

    def energy(x):
        return -prior.log_prob(x) - noise.log_prob(x).sum(1)

    truth = torch.distributions.Normal(0.0, math.sqrt(1.25)).log_prob(y).sum().item()
    assert close(anneal(energy, prior, chains=300, temperatures=60, generator=generator), truth)


def test_two_modes_from_a_flow_and_from_heavy_tails(generator):
    parts = [torch.distributions.Normal(m, 0.5) for m in (-3.0, 3.0)]

    def energy(x):
        return -torch.stack([p.log_prob(x[:, 0]) for p in parts]).logsumexp(0)

    wide = Flow(Scaling((1,)), (1,)).double()
    torch.nn.init.constant_(wide.bijection.log_scale, -1.0)  # standard deviation e
    for base in (wide, StudentT((1,)).double()):
        assert close(
            anneal(energy, base, chains=200, temperatures=60, generator=generator), math.log(2.0)
        )


def test_the_estimate_of_z_has_no_bias_with_few_temperatures(generator):
    """E[w] = Z however coarse the path is: n = 20 000 chains of 3 temperatures."""
    found = anneal(
        lambda x: x.square().sum(1) * 2,
        StandardNormal((1,)).double(),
        chains=20_000,
        temperatures=3,
        leapfrog=2,
        generator=generator,
    )
    assert close(found, math.log(math.sqrt(math.pi / 2)))


def test_the_same_seed_gives_the_same_weights():
    weights = [
        anneal(
            lambda x: x.square().sum(1),
            StandardNormal((2,)),
            chains=5,
            temperatures=4,
            generator=torch.Generator().manual_seed(1),
        ).log_weights
        for _ in range(2)
    ]
    assert torch.equal(*weights)


def test_a_poor_estimate_says_so(generator):
    found = anneal(
        lambda x: 50 * (x - 30).square().sum(1),
        StandardNormal((2,)),
        chains=200,
        temperatures=2,
        generator=generator,
    )
    assert "more temperatures" in str(found)


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "langevin"},
        {"chains": 1},
        {"temperatures": 0},
        {"step_size": 0.0},
        {"power": math.inf},
    ],
)
def test_wrong_calls_are_refused(wrong):
    with pytest.raises(UsageError):
        anneal(lambda x: x.square().sum(1), StandardNormal((1,)), **wrong)


def test_an_infinite_energy_at_the_start_is_refused():
    with pytest.raises(UsageError, match="not finite"):
        anneal(lambda x: x.sum(1) / 0, StandardNormal((1,)), chains=3)
