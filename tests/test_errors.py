"""The words for a user's mistakes."""

import pytest

from steadyflow.errors import TrainingError, UsageError, require, unknown


@pytest.mark.parametrize(
    ("name", "near"),
    [("realnpv", "realnvp"), ("RealNVP", None), ("nic", "nice"), ("zebra", None), ("", None)],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, near):
    error = unknown("model", name, iter(["nice", "realnvp"]))
    assert isinstance(error, UsageError)
    assert isinstance(error, ValueError)
    assert f"'{name}'" in str(error)
    assert "(known: nice, realnvp)" in str(error)
    if near:
        assert f"did you mean '{near}'?" in str(error)


def test_a_missing_extra_is_answered_with_its_pip_line():
    with pytest.raises(ImportError, match=r"Parquet needs nowhere: pip install 'steadyflow\[x\]'"):
        require("nowhere.at_all", "x", "Parquet")
    assert require("json", "x", "nothing").loads("1") == 1


def test_a_failure_of_training_is_no_usage_error():
    assert not issubclass(TrainingError, UsageError)
