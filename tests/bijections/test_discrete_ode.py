"""Samplers as residual flows: exact inverses, exact log-dets, and who does not contract."""

import math

import pytest
import torch
from torch.testing import assert_close

from steadyflow.analytic import eight_gaussians
from steadyflow.bijections.discrete_ode import EulerSteps
from steadyflow.solvers import SolverError
from steadyflow.solvers.samplers import noise_grid


def ddim(mixture, steps):
    return EulerSteps(
        lambda s, y, _: (y - mixture.denoise(y, s)) / s, noise_grid("karras", 80.0, 0.02, steps)
    )


@pytest.fixture
def drawn(generator):
    mixture = eight_gaussians(variance=0.5)
    return mixture, 80 * torch.randn(60, 2, generator=generator, dtype=torch.float64)


def test_the_inverse_is_exact_where_it_converges(drawn):
    mixture, z = drawn
    flow = ddim(mixture, 50)
    x = flow.sample(z)
    made = flow.invert(x)
    assert made.converged.float().mean() > 0.9
    error = (made.value - z).abs().amax(1) / 80
    assert (error[made.converged] < 1e-9).all()
    assert made.evaluations < 50 * flow.max_iterations


def test_the_log_determinant_is_that_of_the_whole_map(drawn):
    mixture, z = drawn
    flow = ddim(mixture, 10)
    with torch.no_grad():
        x, log_det = flow.inverse(z[:3])
    assert_close(x, flow.sample(z[:3]))
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow.inverse(v[None])[0][0], z[i])
        assert_close(log_det[i], torch.linalg.slogdet(jacobian).logabsdet)


@torch.no_grad()
def test_more_steps_draw_nearer_to_the_data(generator):
    """KL(sampler | data) = E[log q - log p], n = 300, falls with the steps and is not negative."""
    mixture = eight_gaussians(variance=0.5)
    z = torch.randn(300, 2, generator=generator, dtype=torch.float64) * math.hypot(80, 4)
    found = []
    for steps in (10, 40):
        x, log_det = ddim(mixture, steps).inverse(z)
        base = torch.distributions.Normal(0, math.hypot(80, 4)).log_prob(z).sum(1)
        gap = base - log_det - mixture.log_prob(x, 0.02)
        found.append((float(gap.mean()), float(gap.std() / math.sqrt(300))))
    (few, _), (many, error) = found
    assert many < few
    assert many > -4 * error


def test_steps_that_do_not_contract_are_reported():
    flow = EulerSteps(lambda t, x, _: -3.0 * torch.sin(x), [0.0, 1.0], max_iterations=50)
    x = torch.tensor([[0.1], [3.0], [-0.2]], dtype=torch.float64)
    made = flow.invert(x)
    assert not made.converged.all()
    with pytest.raises(SolverError, match="do not contract"):
        flow(x)
    calm = EulerSteps(lambda t, x, _: 0.5 * torch.sin(x), [0.0, 1.0])
    z, log_det = calm(x)
    back, opposite = calm.inverse(z)
    assert_close(back, x)
    assert_close(opposite, -log_det)
    with pytest.raises(ValueError, match="two times"):
        EulerSteps(torch.sin, [1.0])
