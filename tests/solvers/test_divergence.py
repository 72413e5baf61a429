"""Divergence: exact against the Jacobian, Hutchinson against its known mean and variance."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from steadyflow.solvers import (
    draw_probes,
    exact_divergence,
    hutchinson_divergence,
    standard_error,
)


@pytest.fixture
def matrix(generator):
    return torch.randn(5, 5, generator=generator, dtype=torch.float64)


def test_the_step_of_an_ode_changes_volume_by_its_trace(matrix):
    eye = torch.eye(5, dtype=torch.float64)
    for h in (1e-2, 1e-3):
        left = torch.linalg.slogdet(eye + h * matrix).logabsdet - h * matrix.trace()
        second = left + h**2 * (matrix @ matrix).trace() / 2
        assert abs(second) < 100 * h**3


def test_exact_divergence_of_a_linear_field(matrix):
    x = torch.randn(3, 5, dtype=torch.float64)
    value, divergence = exact_divergence(lambda x: x @ matrix.T, x)
    assert_close(value, x @ matrix.T)
    assert_close(divergence, matrix.trace().expand(3))
    assert not x.requires_grad


def test_exact_divergence_of_a_convolution_is_the_trace_of_its_jacobian():
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 2, 3, padding=1))
    net = net.double()
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        _, divergence = exact_divergence(net, x)
    assert not divergence.requires_grad
    for i in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda v: net(v[None])[0], x[i])
        assert_close(divergence[i], jacobian.reshape(24, 24).trace())
    probes = draw_probes(x, 400)
    _, estimates = hutchinson_divergence(net, x, probes)
    error = standard_error(estimates)
    assert ((estimates.mean(1) - divergence).abs() < 4 * error).all()


@pytest.mark.parametrize("kind", ["rademacher", "gauss"])
def test_hutchinson_has_the_known_mean_and_variance(kind, matrix, generator):
    n = 20_000
    x = torch.zeros(n, 5, dtype=torch.float64)
    probes = draw_probes(x, 1, kind, generator)
    _, estimates = hutchinson_divergence(lambda x: x @ matrix.T, x, probes)
    symmetric = (matrix + matrix.T) / 2
    variance = 2 * symmetric.square().sum()
    if kind == "rademacher":
        variance = variance - 2 * symmetric.diagonal().square().sum()
    assert abs(estimates.mean() - matrix.trace()) < 4 * math.sqrt(variance / n)
    assert float(estimates.var()) == pytest.approx(float(variance), rel=0.06)


def test_probes(generator):
    x = torch.zeros(1000, 3)
    (probe,) = draw_probes(x, 1, "rademacher", generator)
    assert set(probe.unique().tolist()) == {-1.0, 1.0}
    assert abs(probe.mean()) < 0.1
    with pytest.raises(ValueError, match="unknown probe"):
        draw_probes(x, 1, "normal")
    with pytest.raises(ValueError, match="at least 1"):
        draw_probes(x, 0)


def test_divergences_are_differentiable():
    weight = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    probe = draw_probes(x)

    def exact(x, w):
        return exact_divergence(lambda x: torch.tanh(x @ w), x)

    def estimated(x, w):
        return hutchinson_divergence(lambda x: torch.tanh(x @ w), x, probe)

    assert torch.autograd.gradcheck(exact, (x, weight))
    assert torch.autograd.gradcheck(estimated, (x, weight))


def test_constant_fields_and_inference_mode():
    x = torch.randn(4, 3)
    with torch.inference_mode():
        inside = x * 1
        assert torch.equal(exact_divergence(torch.ones_like, inside)[1], torch.zeros(4))
        assert_close(exact_divergence(torch.sin, inside)[1], inside.cos().sum(1))
