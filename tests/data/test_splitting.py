import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyflow import data
from steadyflow.data.splitting import carve
from steadyflow.errors import UsageError

shares = st.floats(0, 0.45)


@given(st.integers(30, 500), shares, shares, st.integers(0, 2**32))
def test_splits_are_complete_disjoint_repeatable_and_of_the_asked_size(n, validation, test, seed):
    rows = carve(n, validation=validation, test=test, seed=seed, where="x")
    again = carve(n, validation=validation, test=test, seed=seed, where="x")
    train = np.arange(n) if rows["train"] is None else rows["train"]
    assert sorted(np.concatenate([train, rows["validation"], rows["test"]])) == list(range(n))
    assert abs(len(rows["validation"]) - n * validation) <= 1
    assert abs(len(rows["test"]) - n * test) <= 1
    for name in ("validation", "test"):
        assert np.array_equal(rows[name], again[name])


@given(st.integers(0, 1000))
def test_the_test_rows_do_not_depend_on_the_validation_share(seed):
    one = carve(100, validation=0.1, test=0.2, seed=seed, where="x")
    other = carve(100, validation=0.4, test=0.2, seed=seed, where="x")
    assert np.array_equal(one["test"], other["test"])


def test_another_seed_gives_another_split():
    one, other = (carve(100, validation=0.1, test=0.1, seed=s, where="x") for s in (0, 1))
    assert not np.array_equal(one["test"], other["test"])


@given(st.integers(0, 3))
def test_too_few_rows_say_how_many_are_needed(n):
    with pytest.raises(data.DataError, match="4 or more rows are needed"):
        carve(n, validation=0.1, test=0.1, seed=0, where="x")


@pytest.mark.parametrize(
    "options",
    [
        {"validation": -0.1, "test": 0.1},
        {"validation": 0.5, "test": 0.5},
        {"validation": float("nan"), "test": 0.1},
    ],
)
def test_impossible_shares_are_refused(options):
    with pytest.raises(UsageError, match="together below 1"):
        carve(100, seed=0, where="x", **options)


def test_a_negative_seed_is_refused():
    with pytest.raises(UsageError, match="seed=-1"):
        carve(100, validation=0.1, test=0.1, seed=-1, where="x")
