"""Importance weights against laws whose tail and moments are known, and against ArviZ."""

import math

import numpy as np
import pytest
import torch

from steadyflow.errors import UsageError
from steadyflow.evaluation import importance_weights

DRAWS, RUNS = 20_000, 8


def exponential(rate, generator):
    """Log-ratios of p = Exp(rate) against draws of q = Exp(1): w has an exact Pareto tail."""
    x = -torch.log(torch.rand(DRAWS, RUNS, generator=generator, dtype=torch.float64))
    return math.log(rate) + (1 - rate) * x


@pytest.mark.parametrize("rate", [0.9, 0.7, 0.5, 0.3])
def test_k_of_an_exact_pareto_tail(rate, generator):
    k = importance_weights(exponential(rate, generator)).pareto_k
    # scatter of one fit: about (1 + k) / sqrt(425), 425 draws being the tail; then the weak prior
    assert abs(float(k.mean()) - (1 - rate)) < 4 * (2 - rate) / math.sqrt(425 * RUNS) + 0.01


def test_effective_sample_size_and_evidence_of_known_moments(generator):
    rate = 0.9
    weights = importance_weights(exponential(rate, generator))
    share = (2 * rate - 1) / rate**2
    assert weights.effective_sample_size.mean() / DRAWS == pytest.approx(share, rel=0.01)
    assert (weights.log_mean.abs() < 4 * weights.log_mean_error).all()
    assert weights.log_mean_error.mean() == pytest.approx(
        math.sqrt((1 / share - 1) / DRAWS), rel=0.1
    )


def test_a_weighted_mean_is_that_of_the_target(generator):
    z = torch.randn(DRAWS, 3, generator=generator, dtype=torch.float64)
    shift = torch.tensor([0.5, -0.5, 0.0], dtype=torch.float64)
    weights = importance_weights((shift * z).sum(1) - (shift**2).sum() / 2)
    error = math.sqrt(math.exp(0.5) * 1.5 / DRAWS)
    assert weights.mean(z) == pytest.approx(shift, abs=4 * error)
    assert bool(weights.reliable)


def test_the_same_as_arviz():
    # arviz 0.21.0, arviz.stats.stats._psislw with min(S / 5, 3 sqrt S) = 40 draws in the tail
    i = np.arange(200)
    x = -0.6 * np.log1p(-((37 * i) % 200 + 0.5) / 200) + 0.3 * np.sin(i)
    weights = importance_weights(torch.from_numpy(x))
    assert float(weights.pareto_k) == pytest.approx(0.6038351610316975, rel=1e-10)
    assert weights.log_weights[[0, 100, int(x.argmax())]].numpy() == pytest.approx(
        [-6.17256964702643, -5.907085384060135, -2.5797853638287673], rel=1e-10
    )


def test_a_batch_is_its_problems_one_by_one(generator):
    log_ratios = torch.randn(400, 2, 3, generator=generator)
    together = importance_weights(log_ratios)
    alone = importance_weights(log_ratios[:, 1, 2])
    assert together.pareto_k.shape == (2, 3)
    assert float(together.pareto_k[1, 2]) == pytest.approx(float(alone.pareto_k))
    assert torch.allclose(together.log_weights[:, 1, 2], alone.log_weights)
    assert together.log_weights.exp().sum(0) == pytest.approx(torch.ones(2, 3))


def test_equal_weights_have_no_tail():
    weights = importance_weights(torch.full((100,), 3.0))
    assert float(weights.pareto_k) == -math.inf
    assert float(weights.effective_sample_size) == pytest.approx(100)
    assert float(weights.log_mean) == pytest.approx(3.0)
    assert "good" in str(weights)


def test_one_draw_that_has_all_the_weight_is_not_to_be_trusted():
    log_ratios = torch.full((100,), -math.inf)
    log_ratios[7], log_ratios[8] = 0.0, -5.0
    weights = importance_weights(log_ratios)
    assert weights.pareto_k > 0.7
    assert not weights.reliable
    assert "not to be trusted" in str(weights)


@pytest.mark.parametrize(
    ("log_ratios", "message"),
    [
        (torch.zeros(24), "at least 25 draws, got 24"),
        (torch.full((30,), math.nan), "30 of the log-ratios are NaN"),
        (torch.full((30,), -math.inf), "p is zero at every draw"),
    ],
)
def test_bad_ratios_are_refused(log_ratios, message):
    with pytest.raises(UsageError, match=message):
        importance_weights(log_ratios)
