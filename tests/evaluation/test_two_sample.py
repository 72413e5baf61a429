"""Distances between two sets, against naive loops."""

import pytest
import torch

from steadyflow.errors import UsageError
from steadyflow.evaluation import classifier_test, kernel_distance, nearest_neighbours
from steadyflow.evaluation.two_sample import squared_mmd


def normal(n, d=5, shift=0.0, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def test_mmd_is_the_naive_double_sum():
    x, y = normal(7, seed=1).double(), normal(5, seed=2).double()

    def k(a, b):
        return (float(a @ b) / 5 + 1) ** 3

    inside = [
        sum(k(v[i], v[j]) for i in range(len(v)) for j in range(len(v)) if i != j)
        / (len(v) * (len(v) - 1))
        for v in (x, y)
    ]
    across = sum(k(a, b) for a in x for b in y) / (len(x) * len(y))
    assert float(squared_mmd(x, y)) == pytest.approx(sum(inside) - 2 * across)


def test_two_samples_of_one_law_are_not_told_apart_and_others_are():
    same = kernel_distance(normal(2000, seed=1), normal(2000, seed=2))
    other = kernel_distance(normal(2000, seed=1), normal(2000, shift=0.3, seed=2))
    assert abs(same.value) < 4 * same.standard_error
    assert other.value > 4 * other.standard_error
    assert (same.subsets, same.subset_size) == (10, 200)


def test_mmd_against_the_closed_form_of_a_shifted_mean():
    # in one dimension E (1 + xy)^3 = 1 + 3 m m' + 3 E x^2 E y^2 + E x^3 E y^3
    m, n = 0.5, 20_000
    found = kernel_distance(normal(n, 1, seed=1), normal(n, 1, shift=m, seed=2))
    second, third = 1 + m**2, m**3 + 3 * m
    within = 1 + 3 * m**2 + 3 * second**2 + third**2
    truth = (1 + 3 + 0) + within - 2 * (1 + 0 + 3 * second + 0)
    assert abs(found.value - truth) < 4 * found.standard_error


def test_wrong_sets_are_refused():
    with pytest.raises(UsageError, match="one shape"):
        kernel_distance(normal(10, 2), normal(10, 3))
    with pytest.raises(UsageError, match="10 subsets"):
        kernel_distance(normal(10), normal(10))


def test_neighbours_are_those_of_the_naive_search():
    samples, train = normal(9, seed=3), normal(31, seed=4)
    found = nearest_neighbours(samples, train, batch_size=4)
    for i, sample in enumerate(samples):
        gaps = (train - sample).double().norm(dim=1)
        assert int(found.indices[i]) == int(gaps.argmin())
        assert float(found.distances[i]) == pytest.approx(float(gaps.min()), rel=1e-5)


def test_a_copy_has_distance_exactly_zero_and_white_is_one():
    train = torch.randint(0, 17, (20, 1, 4, 4), dtype=torch.uint8)
    assert nearest_neighbours(train[5:6], train).distances.tolist() == [0.0]
    black, white = torch.zeros(1, 1, 2, 2).byte(), torch.full((1, 1, 2, 2), 16).byte()
    assert float(nearest_neighbours(black, white, white=16).distances) == pytest.approx(2.0)


def test_a_classifier_tells_apart_what_differs(generator):
    x, y = torch.randn(2, 400, 2, generator=generator)
    assert abs(classifier_test(x, y).accuracy - 0.5) < 0.08
    found = classifier_test(x, y + 4)
    assert found.accuracy > 0.95
    assert found.standard_error < 0.02
