import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadyflow.data import Split
from steadyflow.training.batches import Batches


def numbers(n):
    return Split(torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n))


def part(n, batch_size, rank=0, processes=1, seed=0):
    batches = Batches(numbers(n), batch_size, seed)
    batches.share(rank, processes)
    return batches


def test_an_epoch_sees_no_example_twice_and_another_epoch_has_another_order():
    batches = part(10, 5)
    x = [batches.batch(step)[0] for step in range(4)]
    first, second = torch.cat(x[:2]), torch.cat(x[2:])
    assert sorted(first.flatten().tolist()) == list(range(10))
    assert not torch.equal(first, second)


def test_labels_stay_with_their_examples():
    x, y, _ = part(10, 4).batch(7)
    assert torch.equal(x[:, 0].long(), y)


def test_the_order_follows_from_seed_and_step():
    backwards = [part(10, 3, seed=5).batch(step)[0] for step in reversed(range(9))]
    one = part(10, 3, seed=5)
    for step, expected in enumerate(reversed(backwards)):
        assert torch.equal(one.batch(step)[0], expected)
    assert not torch.equal(part(10, 3, seed=6).batch(0)[0], backwards[-1])


@given(
    n=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    processes=st.integers(1, 5),
    step=st.integers(0, 100),
)
def test_processes_share_the_batch_of_one(n, batch_size, processes, step):
    whole, _, weight = part(n, batch_size).batch(step)
    assert weight == 1.0
    shares = [part(n, batch_size, rank, processes).batch(step) for rank in range(processes)]
    assert all(len(x) for x, _, _ in shares)
    counted = torch.cat([x for x, _, weight in shares if weight])
    assert torch.equal(counted, whole)
    mean = sum(x.double().mean() * weight for x, _, weight in shares) / processes
    torch.testing.assert_close(mean, whole.double().mean())


def test_a_batch_larger_than_the_data_is_the_data():
    batches = part(3, 100)
    assert batches.steps_per_epoch == 1
    assert len(batches.batch(0)[0]) == 3


@pytest.mark.parametrize("processes", [1, 2])
def test_the_first_examples_are_the_same_for_all(processes):
    x, y = part(10, 4, processes - 1, processes).first(6)
    assert torch.equal(x, part(10, 4).first(6)[0])
    assert len(y) == 6
