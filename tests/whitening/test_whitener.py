"""The scikit-learn transformer keeps scikit-learn's rules."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from steadyflow import EmbeddingWhitener


@pytest.mark.filterwarnings("ignore:.*directions are few")
@parametrize_with_checks([EmbeddingWhitener(), EmbeddingWhitener(0.9, shrinkage="oas")])
def test_scikit_learn_rules(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2000, 8)) @ rng.normal(size=(8, 8)) + 2


def test_batches_and_parts_are_one_fit(x):
    whole = EmbeddingWhitener(5).fit(x)
    stream = EmbeddingWhitener(5)
    for start in range(0, 2000, 7):
        stream.partial_fit(x[start : start + 7])
    parts = EmbeddingWhitener(5).fit(x[:900]).merge(EmbeddingWhitener(5).fit(x[900:]))
    merged = EmbeddingWhitener(5).merge(parts)
    for other in (stream, parts, merged):
        np.testing.assert_allclose(other.transform(x), whole.transform(x), atol=1e-10)


def test_pickle_clone_and_pipeline(x):
    whitener = EmbeddingWhitener(components=3, dtype="float16").fit(x)
    again = pickle.loads(pickle.dumps(whitener))
    np.testing.assert_array_equal(again.transform(x), whitener.transform(x))
    assert clone(whitener).get_params() == whitener.get_params()
    made = make_pipeline(EmbeddingWhitener(3), LogisticRegression()).fit(x, x[:, 0] > 2)
    assert made.score(x, x[:, 0] > 2) > 0.5
    named = whitener.get_feature_names_out()
    assert list(named) == [f"embeddingwhitener{i}" for i in range(3)]


def test_types_of_the_result(x):
    for given in ("float16", "float32", "float64"):
        assert EmbeddingWhitener(3).fit(x).transform(x.astype(given)).dtype == given
    assert EmbeddingWhitener(3).fit(x).transform(x.astype(int)).dtype == np.float64
    half = EmbeddingWhitener(3, dtype="float16", normalize=True).fit(x).transform(x)
    assert half.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(half.astype(float), axis=1), 1, atol=2e-3)
    with pytest.raises(ValueError, match="dtype"):
        EmbeddingWhitener(3, dtype="int8").fit(x).transform(x)


def test_parameters_can_change_without_another_fit(x):
    whitener = EmbeddingWhitener(3).fit(x)
    assert whitener.set_params(components=2).transform(x).shape == (2000, 2)


def test_scores_and_model_agree(x):
    import torch

    whitener = EmbeddingWhitener(4).fit(x)
    model = whitener.model()
    rows = torch.from_numpy(x[:50])
    np.testing.assert_allclose(whitener.score_samples(x[:50]), model.log_prob(rows), rtol=1e-10)
    np.testing.assert_allclose(whitener.transform(x[:50]), model.transform(rows), atol=1e-10)


def test_the_way_back(x):
    whitener = EmbeddingWhitener().fit(x)
    np.testing.assert_allclose(whitener.inverse_transform(whitener.transform(x)), x, atol=1e-9)
    with pytest.raises(ValueError, match="expected rows of 8"):
        whitener.inverse_transform(x[:, :3])
    with pytest.raises(ValueError, match="no way back"):
        EmbeddingWhitener(normalize=True).fit(x).inverse_transform(x)


def test_what_is_wrong_is_said(x):
    with pytest.raises(NotFittedError):
        EmbeddingWhitener().transform(x)
    with pytest.raises(NotFittedError, match="nothing to add"):
        EmbeddingWhitener().merge(EmbeddingWhitener())
    whitener = EmbeddingWhitener().partial_fit(x)
    with pytest.raises(ValueError, match="8 features"):
        whitener.partial_fit(x[:, :4])
    with pytest.raises(ValueError, match="NaN"):
        whitener.partial_fit(np.full((3, 8), np.nan))
    assert whitener.moments_.n == 2000, "what was fitted stays"
    with pytest.warns(UserWarning, match="oas"):
        EmbeddingWhitener().fit(x[:9])


def test_a_row_at_the_centre_has_no_direction(x):
    whitener = EmbeddingWhitener(normalize=True).fit(x)
    centre = whitener.solution_.centre
    with pytest.warns(UserWarning, match="no direction"):
        assert not whitener.transform(centre[None]).any()
