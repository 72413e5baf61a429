import numpy as np
import pytest

from steadyflow import data
from steadyflow.data.toys import DENSITIES, TOYS
from steadyflow.errors import UsageError


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_is_finite_repeatable_and_of_ordinary_scale(name):
    x = data.toy(name, 500, seed=3)
    assert x.shape == (500, 2)
    assert x.dtype == np.float32
    assert np.abs(x).max() < 6
    assert np.array_equal(x, data.toy(name, 500, seed=3))
    assert not np.array_equal(x, data.toy(name, 500, seed=4))


def test_moons_have_the_moments_of_scikit_learn():
    from sklearn.datasets import make_moons

    ours = data.toy("moons", 20_000)
    theirs, _ = make_moons(20_000, noise=0.05, random_state=0)
    # n = 20 000: the standard error of a mean is below 0.007
    assert np.allclose(ours.mean(0), theirs.mean(0), atol=0.03)
    assert np.allclose(np.cov(ours.T), np.cov(theirs.T), atol=0.03)


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density_integrates_to_one(name):
    side = np.linspace(-6, 6, 1201)[:-1] + 0.005
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    total = np.exp(data.toy_log_density(name, grid)).sum() * 0.01**2
    assert total == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density_is_that_of_the_points(name):
    """E_p[h / p] = integral of h, for a smooth h inside the support of p."""
    x = data.toy(name, 50_000, seed=1).astype(np.float64)
    log_p = data.toy_log_density(name, x)
    assert np.isfinite(log_p).all()
    side = np.linspace(-6, 6, 601)[:-1] + 0.01
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    p = np.exp(data.toy_log_density(name, grid))
    # mean of p over the points, against the integral of p^2; n = 50 000, error below 1 %
    assert np.exp(log_p).mean() == pytest.approx((p**2).sum() * 0.02**2, rel=0.03)


def test_unknown_toys_and_numbers_are_refused():
    with pytest.raises(UsageError, match="did you mean 'moons'"):
        data.toy("moon", 10)
    with pytest.raises(UsageError, match="closed-form"):
        data.toy_log_density("moons", np.zeros((1, 2)))
    with pytest.raises(UsageError, match="n=0"):
        data.toy("moons", 0)
    with pytest.raises(UsageError, match="seed=-1"):
        data.toy("moons", 5, seed=-1)
