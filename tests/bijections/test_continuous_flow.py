"""Continuous flows: direct and adjoint gradients, estimates, regularisers, and mistakes."""

import pytest
import torch
from torch.testing import assert_close
from zoo import randomize

from steadyflow import Flow
from steadyflow.bijections import ContinuousFlow
from steadyflow.networks import VectorField
from steadyflow.solvers import SolverError


def make(generator, d=3, context=None, **options):
    tight = {"rtol": 1e-10, "atol": 1e-10, **options}
    field = randomize(VectorField(d, (8, 8), context, frequencies=2).double(), generator)
    return ContinuousFlow(field, **tight)


@pytest.fixture
def x(generator):
    return torch.randn(5, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_adjoint_gradients_are_the_direct_ones(divergence, x, generator):
    flow = make(generator, context=2, divergence=divergence)
    context = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    found = []
    for gradients in ("direct", "adjoint"):
        flow.gradients = gradients
        torch.manual_seed(1)  # of the probes
        given = [x.clone().requires_grad_(), context.clone().requires_grad_()]
        z, log_det = flow(*given)
        loss = z.square().sum() + (log_det * torch.arange(5)).sum()
        found.append(torch.autograd.grad(loss, [*given, *flow.parameters()]))
        assert z.grad_fn is not None
    for direct, adjoint in zip(*found, strict=True):
        assert_close(direct, adjoint, rtol=1e-6, atol=1e-7)


def test_gradients_of_log_prob_agree_with_finite_differences(x, generator):
    flow = Flow(make(generator, d=2), (2,)).double()
    parameters = dict(flow.named_parameters())

    def log_prob(*values):
        state = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(flow, state, (x[:2, :2],))

    assert torch.autograd.gradcheck(
        log_prob, tuple(parameters.values()), eps=1e-5, atol=1e-4, fast_mode=True
    )


def test_the_change_of_volume_is_that_of_the_whole_solve(x, generator):
    flow = make(generator)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v[None])[0][0], x[0])
    assert_close(flow(x[:1])[1][0], torch.linalg.slogdet(jacobian).logabsdet)


@torch.no_grad()
def test_estimates_come_with_their_error(x, generator):
    flow = make(generator, rtol=1e-6, atol=1e-6, divergence="hutchinson", probes=64)
    assert not flow.exact_log_det
    made = flow.solve(x)
    flow.divergence, flow.exact_log_det = "exact", True
    exact = flow.solve(x)
    assert (exact.probe_error == 0).all()
    assert_close(made.value, exact.value, rtol=0, atol=1e-5)
    assert (made.probe_error > 0).all()
    assert ((made.log_det - exact.log_det).abs() < 5 * made.probe_error + 1e-5).all()
    assert made.solution.ok
    assert flow.flow(x).ok
    assert_close(flow.flow(x).x, exact.value, rtol=0, atol=1e-5)


def test_regularizers_are_the_integrals(x, generator):
    matrix = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    # x is moved by c for a unit of time: kinetic energy |c|^2
    still = ContinuousFlow(lambda t, x, context: torch.ones_like(x) * 2.0)
    made = still.solve(x, regularizers=True)
    assert_close(made.kinetic, torch.full((5,), 12.0, dtype=torch.float64))
    assert_close(made.jacobian, torch.zeros(5, dtype=torch.float64))
    turning = ContinuousFlow(lambda t, x, context: x @ matrix.T)
    many = turning.solve(x[:1].expand(4000, -1), regularizers=True)
    norm = matrix.square().sum()
    error = many.jacobian.std() / 4000**0.5
    assert abs(many.jacobian.mean() - norm) < 5 * error
    assert_close(many.log_det[0], matrix.trace(), rtol=1e-6, atol=1e-6)


def test_a_little_training_fits_a_shifted_normal(generator):
    torch.manual_seed(0)
    flow = Flow(
        ContinuousFlow(VectorField(2, (16, 16), frequencies=1), rtol=1e-3, atol=1e-3), (2,)
    )
    data = torch.tensor([2.0, -1.0]) + 0.5 * torch.randn(256, 2, generator=generator)
    optimizer = torch.optim.Adam(flow.parameters(), lr=2e-2)
    first = flow.loss(data).item()
    for _ in range(30):
        made = flow.bijection.solve(data, regularizers=True)
        likelihood = -(flow.base.log_prob(made.value) + made.log_det).mean() / 2
        loss = likelihood + 0.01 * (made.kinetic + made.jacobian).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    truth = 0.5 * torch.log(2 * torch.pi * torch.tensor(0.25)).item() + 0.5
    assert flow.loss(data).item() < truth + 0.15 < first


def test_mistakes(x):
    with pytest.raises(ValueError, match="did you mean 'exact'"):
        ContinuousFlow(torch.sin, divergence="exakt")
    with pytest.raises(ValueError, match="unknown gradients"):
        ContinuousFlow(torch.sin, gradients="backprop")
    with pytest.raises(ValueError, match="probes"):
        ContinuousFlow(torch.sin, probes=0)
    explodes = ContinuousFlow(lambda t, x, context: 9 * x**3, max_evaluations=500)
    with pytest.raises(SolverError, match="examples"):
        explodes(x)
