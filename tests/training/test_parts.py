"""The small parts: budget, average, guard, history, randomness."""

import math
import random

import numpy as np
import pytest
import torch

from steadyflow.training import history
from steadyflow.training.averaging import WeightAverage
from steadyflow.training.budget import Budget, learning_rate
from steadyflow.training.guard import NonFiniteGuard
from steadyflow.training.options import TrainingOptions
from steadyflow.training.randomness import own_randomness, seed_everything


def test_the_first_budget_that_is_used_up_holds():
    budget = Budget.of(TrainingOptions(epochs=2, steps=500, minutes=1), steps_per_epoch=100)
    assert budget == Budget(steps=200, seconds=60)
    assert budget.progress(100, 6) == 0.5
    assert budget.progress(20, 45) == 0.75
    assert budget.progress(300, 0) == 1.0


def test_less_than_an_epoch_is_at_least_a_step():
    assert Budget.of(TrainingOptions(epochs=0.001), steps_per_epoch=10).steps == 1


def test_the_learning_rate_rises_and_falls():
    options = TrainingOptions(steps=1000, warmup=50, learning_rate=2.0)
    rates = [learning_rate(options, step, step / 1000) for step in range(1001)]
    assert rates[0] == pytest.approx(2 / 50)
    assert max(rates) == pytest.approx(2.0, rel=0.01)
    assert np.argmax(rates) == 49
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_the_warm_up_of_a_short_run_is_short():
    options = TrainingOptions(steps=100, warmup=1000, schedule="constant")
    assert learning_rate(options, 10, 0.1) == options.learning_rate


def test_the_average_of_constant_weights_is_these():
    w = torch.nn.Parameter(torch.ones(3))
    average = WeightAverage([w], 0.999)
    for _ in range(5):
        average.update()
    with average.swapped():
        torch.testing.assert_close(w.data, torch.ones(3))


def test_the_average_forgets_the_first_weights_of_a_short_run():
    w = torch.nn.Parameter(torch.zeros(1))
    average = WeightAverage([w], 0.999)
    w.data.fill_(1.0)
    for _ in range(50):
        average.update()
    with average.swapped():
        assert w.item() > 0.99
    assert w.item() == 1.0


def test_the_average_goes_on_from_its_state():
    def run(steps, state=None):
        w = torch.nn.Parameter(torch.zeros(2))
        average = WeightAverage([w], 0.99)
        if state is not None:
            average.load_state_dict(state)
        for step in steps:
            w.data.fill_(step)
            average.update()
        return average

    straight, half = run(range(8)), run(range(4))
    resumed = run(range(4, 8), half.state_dict())
    assert torch.equal(straight.means[0], resumed.means[0])


def test_no_average_keeps_the_weights():
    w = torch.nn.Parameter(torch.ones(1))
    average = WeightAverage([w], 0.0)
    average.update()
    with average.swapped():
        assert w.item() == 1.0


def test_the_guard_bears_single_failures_but_not_many():
    guard = NonFiniteGuard()
    for step in range(1000):
        guard.saw(finite=step % 20 != 0)
        assert not guard.hopeless
    assert guard.skipped == 50
    for _ in range(10):
        assert not guard.hopeless
        guard.saw(finite=False)
    assert guard.hopeless
    assert "10 steps in a row" in guard.explanation(0.001)


def test_the_guard_notices_a_tenth_of_the_steps():
    guard = NonFiniteGuard()
    for step in range(200):
        guard.saw(finite=step % 8 != 0)
    assert guard.hopeless
    assert "of the last 200 steps" in guard.explanation(0.001)


def test_metrics_come_back_as_numbers(tmp_path):
    kept = history.History(tmp_path / "metrics.csv")
    kept.start(step=0)
    kept.add(step=10, split="train", loss=0.5, skipped=0, learning_rate=1e-3)
    kept.add(step=20, split="validation", **history.in_units(math.log(2), 3))
    rows = history.read(tmp_path / "metrics.csv")
    assert rows[0]["step"] == 10
    assert rows[0]["loss"] == 0.5
    assert rows[0]["nats"] is None
    assert rows[1]["bits_per_dim"] == pytest.approx(1.0)
    assert rows[1]["nats"] == pytest.approx(-3 * math.log(2))


def test_metrics_go_back_to_the_checkpoint(tmp_path):
    first = history.History(tmp_path / "metrics.csv")
    first.start(step=0)
    for step in (10, 20, 30):
        first.add(step=step, split="train")
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("40,1.0,tra")
    again = history.History(tmp_path / "metrics.csv")
    again.start(step=20)
    again.add(step=30, split="train")
    assert [row["step"] for row in history.read(tmp_path / "metrics.csv")] == [10, 20, 30]


def test_a_foreign_metrics_file_is_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="not written by steadyflow"):
        history.read(tmp_path / "metrics.csv")


def draws():
    return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002


def test_randomness_of_its_own_leaves_that_of_others():
    seed_everything(0, 1)
    expected = draws()
    seed_everything(0, 1)
    with own_randomness(7):
        inside = draws()
    assert draws() == expected
    with own_randomness(7):
        assert draws() == inside != expected
