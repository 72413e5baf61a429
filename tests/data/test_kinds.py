"""The kinds of columns, found in data and told by the user."""

import numpy as np
import pytest

import steadyflow
from steadyflow import data
from steadyflow.data import DataError
from steadyflow.errors import UsageError

RANDOM = np.random.default_rng(0)


def table(n=1000):
    return {
        "real": RANDOM.normal(size=n),
        "count": RANDOM.poisson(3, n).astype(float),
        "wide": RANDOM.integers(0, 10**6, n).astype(float),
        "cents": RANDOM.integers(100, 300, n) / 100,
        "rare": (RANDOM.random(n) < 0.002).astype(float),
        "logs": np.log1p(RANDOM.poisson(3, n)),
        "same": np.full(n, 2.5),
        "share": RANDOM.beta(2, 5, n),
    }


def opened(**options):
    columns = table()
    x = np.stack(list(columns.values()), 1)
    return data.from_arrays(x, columns=list(columns), **options)


def test_each_kind_is_found():
    kinds = {kind.pop("name"): kind for kind in opened().kinds}
    assert kinds["real"] == kinds["share"] == {}
    assert kinds["count"] == {"width": 1.0, "origin": 0.0}
    assert kinds["wide"]["width"] == 1.0
    assert kinds["cents"]["width"] == pytest.approx(0.01, rel=1e-5)
    assert kinds["rare"] == {"width": 1.0, "origin": 0.0}
    assert kinds["logs"]["width"] > 0
    assert "origin" not in kinds["logs"]
    assert kinds["same"] == {"value": 2.5}


def test_spread_none_takes_columns_as_they_are():
    kinds = opened(spread="none").kinds
    assert [set(kind) - {"name"} for kind in kinds].count(set()) == 7


def test_bounds():
    kinds = {kind["name"]: kind for kind in opened(bounds=["share=0:1", "count=0:"]).kinds}
    assert (kinds["share"]["low"], kinds["share"]["high"]) == (0.0, 1.0)
    assert kinds["count"]["low"] == -0.5
    assert "high" not in kinds["count"]


@pytest.mark.parametrize(
    ("bounds", "error", "said"),
    [
        ("shar=0:1", UsageError, "did you mean 'share'"),
        ("share=1:0", UsageError, "LOW:HIGH"),
        ("share=0", UsageError, "LOW:HIGH"),
        ("share=:", UsageError, "LOW:HIGH"),
        ("real=0:", DataError, "column 'real' has the value -"),
    ],
)
def test_wrong_bounds(bounds, error, said):
    with pytest.raises(error, match=said):
        opened(bounds=[bounds])


@pytest.mark.parametrize("model", ["maf", "spline-flow"])
def test_a_table_of_all_kinds_is_learned(model):
    dataset = opened(bounds=["share=0:1"])
    result = steadyflow.fit(
        model, dataset, steps=60, model_options={"transforms": 2, "hidden_features": [16]}
    )
    drawn = result.model.sample(200).numpy()
    columns = dict(zip(dataset.columns, drawn.T, strict=True))
    assert (columns["count"] == np.round(columns["count"])).all()
    np.testing.assert_allclose(columns["cents"] * 100, np.round(columns["cents"] * 100), atol=1e-2)
    assert (columns["same"] == 2.5).all()
    assert result.model.log_prob(dataset.test.x).isfinite().all()
    assert result.best_validation_loss > -3


def test_other_models_refuse_constant_columns_by_name():
    with pytest.raises(DataError, match="column 'same' has one value only"):
        steadyflow.fit("realnvp", opened(), steps=1)
    with pytest.raises(DataError, match="one value only"):
        data.from_arrays(np.ones((50, 2)))


def test_repeated_rows_do_not_let_the_likelihood_diverge():
    x = np.repeat(RANDOM.normal(size=(40, 2)), 25, axis=0)
    result = steadyflow.fit("spline-flow", x, steps=400, learning_rate=5e-3)
    assert result.best_validation_loss > -7
