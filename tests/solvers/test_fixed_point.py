"""Fixed points: to their tolerance, example by example, with and without acceleration."""

import pytest
import torch
from torch.testing import assert_close

from steadyflow.solvers import fixed_point

DIMENSIONS = 32


def problem(c, generator, n=6):
    """z = x + A x with aligned, symmetric A of norm c: the slowest contraction there is."""
    q = torch.linalg.qr(
        torch.randn(DIMENSIONS, DIMENSIONS, generator=generator, dtype=torch.float64)
    )[0]
    values = torch.linspace(-c, c, DIMENSIONS, dtype=torch.float64)
    matrix = q @ torch.diag(values) @ q.T
    z = torch.randn(n, DIMENSIONS, generator=generator, dtype=torch.float64)
    truth = torch.linalg.solve(torch.eye(DIMENSIONS) + matrix, z.T).T
    return (lambda x, z: z - x @ matrix.T), z, truth


@pytest.mark.parametrize("method", ["plain", "anderson"])
@pytest.mark.parametrize("c", [0.5, 0.9, 0.98])
def test_the_error_is_below_the_tolerance(c, method, generator):
    f, z, truth = problem(c, generator)
    found = fixed_point(
        f, z, (z,), tolerance=1e-6, contraction=c, method=method, max_iterations=3000
    )
    assert found.ok
    error = (found.value - truth).square().mean(1).sqrt()
    size = 1 + truth.square().mean(1).sqrt()
    assert (error <= 1e-6 * size).all()
    assert (error <= found.error + 1e-15).all(), "the bound that is reported is one"


def test_anderson_takes_at_most_half_of_the_evaluations(generator):
    f, z, _ = problem(0.98, generator)
    taken = {
        method: int(
            fixed_point(
                f, z, (z,), tolerance=1e-6, contraction=0.98, method=method, max_iterations=3000
            ).iterations.max()
        )
        for method in ("plain", "anderson")
    }
    assert taken["anderson"] <= taken["plain"] / 2


@pytest.mark.parametrize("method", ["plain", "anderson"])
def test_each_example_stops_by_itself(method, generator):
    f, z, _ = problem(0.9, generator)
    z = z * torch.tensor([0.0, 1e-9, 1, 1, 1, 1e3])[:, None].double()
    sizes = []

    def counting(x, z):
        sizes.append(len(x))
        return f(x, z)

    together = fixed_point(counting, z, (z,), tolerance=1e-8, contraction=0.9, method=method)
    assert together.iterations[0] == 1
    assert sum(sizes) == int(together.iterations.sum())
    assert together.evaluations == len(sizes) == int(together.iterations.max())
    for i in range(len(z)):
        row = z[i : i + 1]
        alone = fixed_point(f, row, (row,), tolerance=1e-8, contraction=0.9, method=method)
        assert_close(alone.value[0], together.value[i], rtol=1e-9, atol=1e-12)
        assert alone.iterations[0] == together.iterations[i]


def test_what_does_not_converge_is_said(generator):
    f, z, _ = problem(0.98, generator)
    found = fixed_point(
        f, z, (z,), tolerance=1e-12, contraction=0.98, method="plain", max_iterations=20
    )
    assert not found.ok
    assert found.evaluations == 20
    away = fixed_point(lambda x: 3 * x + 1, z, tolerance=1e-9, method="plain", max_iterations=50)
    assert not away.converged.any()
    assert away.value.isfinite().all()


def test_a_tolerance_below_the_arithmetic_ends_at_the_arithmetic(generator):
    f, z, truth = problem(0.9, generator)
    single = z.float()
    found = fixed_point(
        lambda x, z: f(x.double(), z.double()).float(), single, (single,), tolerance=0.0
    )
    assert found.ok
    assert_close(found.value.double(), truth, rtol=0, atol=1e-4)


def test_the_empty_batch_and_bad_options():
    empty = fixed_point(lambda x: x, torch.zeros(0, 3), tolerance=1e-6)
    assert empty.ok
    assert empty.evaluations == 0
    with pytest.raises(ValueError, match="did you mean 'anderson'"):
        fixed_point(lambda x: x, torch.zeros(1, 3), tolerance=1e-6, method="andersen")
    with pytest.raises(ValueError, match="below 1"):
        fixed_point(lambda x: x, torch.zeros(1, 3), tolerance=1e-6, contraction=1.0)
