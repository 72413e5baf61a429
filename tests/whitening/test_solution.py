"""Whitening does what its formulas say, and says what it could not do."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.covariance import oas as sklearn_oas
from sklearn.decomposition import PCA

from steadyflow.whitening import Moments, WhiteningOptions, solve
from steadyflow.whitening.isotropy import Isotropy, drift, iso_score


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    return rng.normal(size=(4000, 12)) * np.logspace(0, -2, 12) @ rng.normal(size=(12, 12)) + 3


def fit(x, **options):
    return solve(Moments.of(x), WhiteningOptions(**options))


def cosines(z):
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    return unit @ unit.T


def test_the_covariance_becomes_the_identity(x):
    z = fit(x).transform(x)
    assert np.abs(np.cov(z.T, bias=True) - np.eye(12)).max() < 1e-9
    assert np.abs(z.mean(0)).max() < 1e-9


def test_it_is_scikit_learns_up_to_sign(x):
    z = fit(x).transform(x)
    theirs = PCA(whiten=True, svd_solver="full").fit_transform(x)
    scale = np.sqrt(len(x) / (len(x) - 1))  # ddof 1 there
    np.testing.assert_allclose(np.abs(z / scale), np.abs(theirs), rtol=1e-6, atol=1e-8)


def test_pca_and_zca_have_the_same_cosines(x):
    for k in (None, 5):
        a, b = (fit(x, components=k, rotation=r).transform(x[:80]) for r in ("pca", "zca"))
        assert b.shape[1] == 12
        np.testing.assert_allclose(cosines(a), cosines(b), atol=1e-9)


def test_neither_centred_nor_stretched_is_a_rotation(x):
    z = fit(x, beta=0, gamma=0).transform(x[:80])
    np.testing.assert_allclose(cosines(z), cosines(x[:80]), atol=1e-12)


def test_gamma_stretches_part_of_the_way(x):
    variance = fit(x, gamma=0.5).transform(x).var(0)
    np.testing.assert_allclose(variance, np.sqrt(fit(x).eigenvalues), rtol=1e-9)


def test_the_top_directions_are_dropped(x):
    z = fit(x, gamma=0, drop_top=3, rotation="zca").transform(x)
    axes = fit(x).axes[:, :3]
    np.testing.assert_allclose(z, x - x.mean(0) - (x - x.mean(0)) @ axes @ axes.T, atol=1e-9)


def test_soft_and_shrunk_eigenvalues(x):
    plain, soft, shrunk = fit(x), fit(x, soft=2.0), fit(x, shrinkage=0.3)
    mean = plain.eigenvalues.mean()
    np.testing.assert_allclose(soft.variances, plain.eigenvalues + 2 * mean)
    np.testing.assert_allclose(shrunk.variances, 0.7 * plain.eigenvalues + 0.3 * mean)


@pytest.mark.parametrize("n", [13, 50, 4000])
def test_oas_is_scikit_learns(x, n):
    solution = fit(x[:n], shrinkage="oas")
    assert solution.shrinkage == pytest.approx(sklearn_oas(x[:n])[1], rel=1e-10)
    assert any("OAS shrinkage" in note for note in solution.notes)


def test_log_prob_is_scipys(x):
    truth = multivariate_normal(x.mean(0), np.cov(x.T, bias=True)).logpdf(x[:200])
    for options in ({}, {"gamma": 0.5}, {"gamma": 0.0}, {"rotation": "zca"}):
        np.testing.assert_allclose(fit(x, **options).log_prob(x[:200]), truth, rtol=1e-8)


def test_log_prob_with_few_components_is_probabilistic_pca(x):
    # Tipping & Bishop (1999): C = W W' + s^2 I with s^2 the mean of the discarded eigenvalues
    k, covariance = 4, np.cov(x.T, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    noise = values[:-k].mean()
    w = vectors[:, -k:] * np.sqrt(values[-k:] - noise)
    truth = multivariate_normal(x.mean(0), w @ w.T + noise * np.eye(12)).logpdf(x[:200])
    np.testing.assert_allclose(fit(x, components=k).log_prob(x[:200]), truth, rtol=1e-8)


def test_back(x):
    np.testing.assert_allclose(fit(x).inverse_transform(fit(x).transform(x)), x, atol=1e-9)
    low = fit(x, components=5)
    z = low.transform(x)
    np.testing.assert_allclose(low.transform(low.inverse_transform(z)), z, atol=1e-9)


def test_signs_are_fixed(x):
    axes = fit(x).axes
    assert (axes[np.abs(axes).argmax(0), np.arange(12)] > 0).all()


def test_a_share_of_the_variance(x):
    solution = fit(x, components=0.9)
    held = np.cumsum(solution.eigenvalues) / solution.eigenvalues.sum()
    assert held[solution.kept - 1] >= 0.9 > held[solution.kept - 2]
    assert f"{solution.kept} of 12 directions hold" in solution.notes[-1]


def test_empty_directions_are_left_out_and_said(x):
    flat = np.c_[x, x[:, 0] * 2, np.full(len(x), 7.0)]
    solution = fit(flat)
    assert solution.rank == solution.kept == 12
    assert "rank 12 of 14" in solution.notes[0]
    z = solution.transform(flat)
    assert np.abs(np.cov(z.T) - np.eye(12)).max() < 1e-3
    assert np.isfinite(solution.log_prob(flat)).all()
    assert fit(flat, shrinkage=0.01).rank == 14
    with pytest.raises(
        ValueError, match=r"components=13 .* 12 directions only: 2 of 14 are empty"
    ):
        fit(flat, components=13)


def test_fewer_rows_than_columns(x):
    solution = fit(x[:6])
    assert solution.rank == 5
    assert "6 rows span at most 5" in solution.notes[0]
    assert np.isfinite(solution.transform(x)).all()
    with pytest.raises(ValueError, match="6 rows span at most 5"):
        fit(x[:6], components=8)
    assert "are few" in fit(x[:40]).notes[-1]
    assert not fit(x[:40], gamma=0).notes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"components": 0}, "components=0"),
        ({"components": 1.5}, "whole number"),
        ({"components": 13}, "there are 12 columns"),
        ({"shrinkage": "lasso"}, "'oas'"),
        ({"shrinkage": 2.0}, "share from 0 to 1"),
        ({"soft": -1.0}, "soft"),
        ({"gamma": np.nan}, "gamma"),
        ({"drop_top": 12}, "leaves nothing"),
        ({"drop_top": -1}, "drop_top"),
        ({"rotation": "zcaa"}, "did you mean 'zca'"),
        ({"rank_tol": 1.0}, "rank_tol"),
    ],
)
def test_bad_options(x, options, said):
    with pytest.raises(ValueError, match=said):
        fit(x, **options)


def test_equal_rows():
    with pytest.raises(ValueError, match="all 9 rows are equal"):
        fit(np.ones((9, 3)))


def test_isotropy_of_known_shapes():
    assert iso_score(np.ones(10)) == pytest.approx(1)
    assert iso_score(np.eye(10)[0]) == pytest.approx(0, abs=1e-12)
    rng = np.random.default_rng(0)
    round_, long = rng.normal(size=(5000, 20)), rng.normal(size=(5000, 20)) + 4
    found = Isotropy.of(round_)
    assert abs(found.mean_cosine) < 0.01
    assert found.effective_rank > 19
    assert "already isotropic" in found.advice()
    assert "likely to help" in Isotropy.of(long).advice()


def test_drift(x):
    solution = fit(x)
    assert drift(solution, x) == pytest.approx(1)
    assert drift(solution, x * 3) == pytest.approx(9)
