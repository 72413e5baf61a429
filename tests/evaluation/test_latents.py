"""Latents against the base, on latents whose law is known."""

import math

import numpy as np
import pytest
import torch

from steadyflow import NICE, Flow
from steadyflow.bases import DiagonalNormal, StandardLogistic, StandardNormal
from steadyflow.bijections import Scaling
from steadyflow.errors import UsageError
from steadyflow.evaluation import latent_gaussianity
from steadyflow.evaluation.latents import KS_ONE_PERCENT, chi_moments, gaussian_scores, ks_distance

N, D = 2000, 6


@pytest.mark.parametrize("base", [StandardNormal, StandardLogistic, DiagonalNormal])
def test_draws_of_the_base_itself_pass(base):
    flow = Flow(Scaling((D,)), (D,), base((D,)))
    with torch.no_grad():
        x = flow.base.sample(N, generator=torch.Generator().manual_seed(0))
    found = latent_gaussianity(flow, x)
    assert found.ks.max() < KS_ONE_PERCENT / math.sqrt(N)
    assert np.abs(found.mean).max() < 4 / math.sqrt(N)
    assert np.abs(found.std - 1).max() < 4 / math.sqrt(2 * N)
    assert np.abs(found.skewness).max() < 4 * math.sqrt(6 / N)
    assert np.abs(found.kurtosis).max() < 4 * math.sqrt(24 / N)
    s = found.summary()
    assert s["norm_mean"] == pytest.approx(s["chi_mean"], abs=4 * s["chi_std"] / math.sqrt(N))
    assert s["base"] == ("logistic" if base is StandardLogistic else "normal")


def test_latents_that_are_too_wide_are_told():
    flow = Flow(Scaling((D,)), (D,))
    s = latent_gaussianity(flow, 2 * torch.randn(N, D)).summary()
    assert s["median_std"] == pytest.approx(2, rel=0.1)
    assert s["rejected_at_1_percent"] == 1.0


def test_ks_is_the_largest_gap_between_distribution_functions():
    scores = np.random.default_rng(0).normal(size=(40, 1)) * 1.3
    grid = np.linspace(-6, 6, 60_001)
    law = torch.special.ndtr(torch.from_numpy(grid)).numpy()
    empirical = (scores[:, 0][None] <= grid[:, None]).mean(1)
    assert ks_distance(scores)[0] == pytest.approx(np.abs(law - empirical).max(), abs=1e-4)


def test_gaussian_scores_keep_far_tails_and_order():
    z = torch.tensor([[-600.0, -40.0, -1.0, 0.0, 1.0, 40.0, 600.0]])
    s = gaussian_scores(StandardLogistic((7,)), z)[0]
    assert torch.isfinite(s).all()
    assert bool((s[1:] > s[:-1]).all())
    torch.testing.assert_close(s, -s.flip(0))
    phi = torch.special.ndtr(s[2:5])
    torch.testing.assert_close(phi, torch.sigmoid(z[0, 2:5].double()))


def test_chi_moments_in_one_and_two_dimensions():
    assert chi_moments(1)[0] == pytest.approx(math.sqrt(2 / math.pi))
    assert chi_moments(2)[0] == pytest.approx(math.sqrt(math.pi / 2))
    mean, std = chi_moments(3072)
    assert (mean, std) == (
        pytest.approx(math.sqrt(3071.5), rel=1e-4),
        pytest.approx(0.707, rel=1e-2),
    )


def test_examples_without_finite_latents_are_counted_not_judged():
    x = torch.randn(50, 2)
    x[7] = math.nan
    assert latent_gaussianity(Flow(Scaling((2,)), (2,)), x).non_finite == 1


def test_too_few_examples_are_refused():
    model = NICE(event_shape=(2,), couplings=2, hidden_features=4, hidden_layers=1)
    with pytest.raises(UsageError, match="at least 8"):
        latent_gaussianity(model, torch.randn(5, 2))
