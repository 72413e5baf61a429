"""Spearman's correlation is scipy's, and sub-tasks are put together as the papers do."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from steadyflow.evaluation.similarity import agreement, cosines, mean_agreement


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    scores = np.round(rng.uniform(0, 5, 400) * 2) / 2  # ties
    return scores + rng.normal(size=400), scores, np.array(["a"] * 100 + ["b"] * 300)


def test_it_is_scipys_with_ties(pairs):
    cosine, scores, tasks = pairs
    cosine = np.round(cosine, 1)
    truth = 100 * spearmanr(cosine, scores)[0]
    assert agreement(cosine, scores).spearman == pytest.approx(truth, abs=1e-9)
    assert agreement(cosine, scores, tasks, aggregate="all").spearman == pytest.approx(truth)


def test_sub_tasks(pairs):
    cosine, scores, tasks = pairs
    a, b = (100 * spearmanr(cosine[tasks == t], scores[tasks == t])[0] for t in "ab")
    plain = agreement(cosine, scores, tasks, aggregate="mean")
    assert plain.spearman == pytest.approx((a + b) / 2)
    assert agreement(cosine, scores, tasks).spearman == pytest.approx((a + 3 * b) / 4)


def test_a_known_toy():
    cosine = np.array([0.1, 0.2, 0.3, 0.9, 0.8, 0.7])
    scores = np.array([1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
    tasks = np.array([0, 0, 0, 1, 1, 1])
    assert agreement(cosine, scores, tasks).spearman == pytest.approx(0)
    assert agreement(cosine[:3], scores[:3]).spearman == pytest.approx(100)


def test_the_standard_error_is_that_of_repeated_draws():
    """200 samples of 300 pairs: their spread against the mean of the errors, within 15 %."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        scores = rng.normal(size=300)
        one = agreement(scores + rng.normal(size=300), scores, bootstrap=100)
        found.append((one.spearman, one.standard_error))
    values, errors = np.array(found).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)


def test_the_same_draws_for_all_methods(pairs):
    cosine, scores, _ = pairs
    a, b = agreement(cosine, scores), agreement(cosine + 1e-9, scores)
    np.testing.assert_allclose(a.draws, b.draws)
    both = mean_agreement([a, b])
    assert both.standard_error == pytest.approx(a.standard_error)


def test_cosine_of_a_zero_row_is_zero():
    z = np.array([[0.0, 0.0], [1.0, 1.0]])
    assert cosines(z, np.array([0, 1]), np.array([1, 1])).tolist() == pytest.approx([0, 1])


def test_bad_input(pairs):
    cosine, scores, _ = pairs
    with pytest.raises(ValueError, match="did you mean 'wmean'"):
        agreement(cosine, scores, aggregate="wmeans")
    with pytest.raises(ValueError, match="at least three pairs"):
        agreement(cosine[:2], scores[:2])
    with pytest.raises(ValueError, match="two scores"):
        agreement(cosine, np.ones(400))
