"""The scikit-learn estimators keep scikit-learn's rules, and their promises about densities."""

import pickle

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import make_moons
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from steadyflow import FlowDensity, FlowOutlierDetector, FlowTransformer

SMALL = {"transforms": 2, "hidden_features": [16], "bins": 4}
QUICK = {"model_options": SMALL, "steps": 20, "random_state": 0}


@parametrize_with_checks(
    [FlowDensity(**QUICK), FlowOutlierDetector(**QUICK), FlowTransformer(**QUICK)]
)
def test_scikit_learn_rules(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def normal():
    return np.random.default_rng(0).normal([3, -200], [0.1, 50], size=(1500, 2))


@pytest.fixture(scope="module")
def fitted(normal):
    return FlowDensity(model_options=SMALL, steps=300, random_state=0).fit(normal)


def test_density_is_in_the_users_units(fitted, normal):
    truth = stats.norm([3, -200], [0.1, 50]).logpdf(normal).sum(1)
    assert abs(fitted.score(normal) - truth.mean()) < 0.1
    assert np.corrcoef(fitted.score_samples(normal), truth)[0, 1] > 0.95


def test_samples_follow_the_data(fitted, normal):
    drawn = fitted.sample(2000, random_state=1)
    assert np.abs(drawn.mean(0) - normal.mean(0)).max() < 0.15 * 50
    np.testing.assert_array_equal(drawn, fitted.sample(2000, random_state=1))


def test_bad_number_of_samples(fitted):
    with pytest.raises(ValueError, match="n_samples"):
        fitted.sample(0)


def test_pickle_and_clone(fitted, normal):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.score_samples(normal), fitted.score_samples(normal))
    assert not hasattr(clone(fitted), "flow_")


def test_pipeline_and_grid_search():
    moons = make_moons(600, noise=0.05, random_state=0)[0]
    pipeline = make_pipeline(StandardScaler(), FlowDensity(**QUICK))
    search = GridSearchCV(pipeline, {"flowdensity__steps": [1, 150]}, cv=2, n_jobs=2).fit(moons)
    assert search.best_params_ == {"flowdensity__steps": 150}


def test_transformer_goes_back(normal):
    flow = FlowTransformer(**{**QUICK, "steps": 200}).fit(normal)
    z = flow.transform(normal)
    np.testing.assert_allclose(flow.inverse_transform(z), normal, rtol=1e-8, atol=1e-8)
    assert np.abs(z.mean(0)).max() < 0.3
    assert np.abs(z.std(0) - 1).max() < 0.3


def test_outliers_are_found(normal):
    far = normal[:20] + np.array([2, 1000])
    detector = FlowOutlierDetector(**{**QUICK, "steps": 200}, contamination=0.05).fit(normal)
    assert (detector.predict(far) == -1).all()
    assert abs((detector.predict(normal) == -1).mean() - 0.05) < 0.01


def test_constant_columns_are_left_out_and_put_back(normal):
    with_constant = np.insert(normal, 1, 7.0, axis=1)
    density = FlowDensity(**QUICK).fit(with_constant)
    assert density.constant_.tolist() == [1]
    assert (density.sample(10)[:, 1] == 7).all()
    flow = FlowTransformer(**QUICK).fit(with_constant)
    assert flow.transform(with_constant).shape == normal.shape
    np.testing.assert_allclose(
        flow.inverse_transform(flow.transform(with_constant)), with_constant, atol=1e-8
    )


def test_all_constant():
    with pytest.raises(ValueError, match="constant"):
        FlowDensity(**QUICK).fit(np.ones((10, 2)))


def test_repeated_values_do_not_diverge():
    # a Poisson count: the density of the spread counts is near the probability of each count
    rng = np.random.default_rng(0)
    counts = rng.poisson(4, size=(3000, 1)).astype(float)
    density = FlowDensity(**{**QUICK, "steps": 600}).fit(counts)
    assert density.widths_.tolist() == [1.0]
    truth = stats.poisson(4).logpmf(counts).mean()
    assert abs(density.score(counts) - truth) < 0.25
    drawn = density.sample(100)
    np.testing.assert_array_equal(drawn, np.round(drawn))


def test_repeated_rows_do_not_diverge():
    rows = np.repeat(np.random.default_rng(0).normal(size=(20, 2)), 100, axis=0)
    density = FlowDensity(**{**QUICK, "steps": 300}).fit(rows)
    assert np.isfinite(density.score(rows))


def test_unknown_spread(normal):
    with pytest.raises(ValueError, match="spread"):
        FlowDensity(spread="far").fit(normal)
