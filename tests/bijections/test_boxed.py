"""Polynomials and integrated networks: the papers' formulas, bounds, tails, the shared inverse."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from steadyflow.bijections import (
    BernsteinPolynomial,
    IntegratedNetwork,
    MixtureOfLogistics,
    SumOfSquares,
)
from steadyflow.bijections.roots import invert

CURVES = {
    "bernstein": lambda: BernsteinPolynomial(7, bound=3.0),
    "bernstein-straight": lambda: BernsteinPolynomial(1),
    "sum-of-squares": lambda: SumOfSquares(3, bound=3.0),
    "sum-of-squares-one": lambda: SumOfSquares(1, squares=1),
    "integrated": lambda: IntegratedNetwork(4, bound=3.0),
    "integrated-one": lambda: IntegratedNetwork(1, min_slope=0.05),
    "sum-of-squares-three": lambda: SumOfSquares(2, squares=3, min_slope=0.05),
}


@pytest.fixture(params=CURVES)
def curve(request):
    return CURVES[request.param]()


def drawn(transform, size, generator, points=2000, dtype=torch.float64):
    x = 1.5 * transform.bound * (2 * torch.rand(points, 1, generator=generator).to(dtype) - 1)
    raw = size * torch.randn(points, transform.planes, generator=generator, dtype=torch.float64)
    return x, raw.to(dtype)


@torch.no_grad()
def test_bernstein_polynomials_are_those_of_the_textbook(generator):
    n, bound = 6, 2.0
    transform = BernsteinPolynomial(n, bound)
    x, raw = torch.linspace(-2, 2, 41).double()[:, None], torch.randn(1, n + 1).double()
    raw = raw.expand(41, -1)
    theta = transform._coefficients(x, raw)[0][:, :, 0]
    u = (x + bound) / (2 * bound)
    basis = [math.comb(n, k) * u**k * (1 - u) ** (n - k) for k in range(n + 1)]
    assert_close(transform.forward(x, raw)[0], (theta * torch.cat(basis, 1)).sum(1, keepdim=True))
    assert (theta.diff(dim=1) > 0).all()


@torch.no_grad()
def test_sums_of_squares_are_integrated_without_error(generator):
    transform = SumOfSquares(3, squares=2, bound=2.0, min_slope=0.1)
    raw = torch.randn(1, transform.planes, generator=generator).double()
    x = torch.linspace(-2, 2, 41).double()[:, None]
    shift, a = transform._coefficients(x[:1], raw)
    squares = [np.polynomial.Chebyshev(row) ** 2 for row in a[0, :, :, 0].numpy()]
    slope = 0.1 + 0.9 * sum(squares)
    value = slope.integ(lbnd=0)
    z, _ = transform.forward(x, raw.expand(41, -1))
    assert_close(z, shift + 2.0 * torch.as_tensor(value(x.numpy() / 2.0)))


@torch.no_grad()
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_integrals_of_networks_are_exact_to_rounding(generator, size):
    transform = IntegratedNetwork(3, bound=2.0)
    raw = size * torch.randn(50, transform.planes, generator=generator, dtype=torch.float64)
    x = torch.full((50, 1), 2.0, dtype=torch.float64)
    shift, c, a, w, b = (v.squeeze(-1) for v in transform._coefficients(x, raw))
    assert (c.abs() + a.abs().sum(1) < -math.log(transform.min_slope)).all()
    nodes, weights = np.polynomial.legendre.leggauss(200)
    u = torch.as_tensor((nodes + 1) / 2)[:, None, None]
    slope = torch.exp(c + (a * torch.tanh(w * u + b)).sum(-1))
    truth = shift + 2.0 * (slope * torch.as_tensor(weights / 2)[:, None]).sum(0)
    assert_close(transform.forward(x, raw)[0][:, 0], truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1.0, 10.0])
def test_slopes_keep_their_bounds_and_inputs_come_back(curve, generator, size):
    x, raw = drawn(curve, size, generator)
    z, log_det = curve.forward(x.requires_grad_(), raw)
    (slope,) = torch.autograd.grad(z.sum(), x)
    assert slope.min() >= curve.min_slope * (1 - 1e-9)
    if not isinstance(curve, SumOfSquares):
        assert slope.max() <= (1 + 1e-9) / curve.min_slope
    else:
        assert slope.max() <= 1 + curve.squares * (1.1 + curve.degree + 1) ** 2
    assert_close(log_det, slope[:, 0].log(), rtol=1e-9, atol=1e-9)
    back, back_log_det = curve.inverse(z.detach(), raw)
    assert_close(back, x.detach(), rtol=1e-9, atol=1e-9)
    assert_close(back_log_det, -log_det, rtol=1e-8, atol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("size", [1.0, 10.0])
def test_stress_in_single_precision(curve, generator, size):
    x, raw = drawn(curve, size, generator, 4000, torch.float32)
    z, log_det = curve.forward(x, raw)
    assert log_det.isfinite().all()
    # z is rounded to eps |z|, and the inverse stretches that by 1 / min_slope at most
    allowed = 4 * torch.finfo(z.dtype).eps * z.abs().max() / curve.min_slope
    assert (curve.inverse(z, raw)[0] - x).abs().max() < allowed


@torch.no_grad()
def test_value_and_slope_are_continuous_at_the_edges(curve, generator):
    _, raw = drawn(curve, 2.0, generator, 50)
    for edge in (-curve.bound, curve.bound):
        inside, outside = (torch.full((50, 1), edge * (1 + s)).double() for s in (-1e-9, 1e-9))
        (z, slope), (beyond, beyond_slope) = (curve.forward(x, raw) for x in (inside, outside))
        assert_close(z, beyond, rtol=0, atol=1e-5)
        assert_close(slope, beyond_slope, rtol=0, atol=1e-5)


@torch.no_grad()
def test_zero_parameters_are_close_to_the_identity(curve):
    x = torch.linspace(-9, 9, 37).double()[None]
    z, _ = curve.forward(x, x.new_zeros(1, 37 * curve.planes))
    exact = not isinstance(curve, SumOfSquares)
    assert_close(z, x, rtol=0, atol=1e-12 if exact else 0.2)


def test_zero_parameters_get_gradients(curve, generator):
    x = torch.randn(4, 2, generator=generator).double()
    raw = torch.zeros(4, 2 * curve.planes, dtype=torch.float64, requires_grad=True)
    z, log_det = curve.forward(x, raw)
    (gradient,) = torch.autograd.grad(z.square().sum() + log_det.sum(), raw)
    moved = gradient.any(0).unflatten(0, (curve.planes, 2))
    # of a network the sizes of its units come first; where these are zero, what is inside waits
    first = curve.units + 2 if isinstance(curve, IntegratedNetwork) else None
    assert moved[:first].all()


@pytest.mark.parametrize(
    "transform", [*CURVES.values(), lambda: MixtureOfLogistics(3)], ids=[*CURVES, "mixture"]
)
def test_first_and_second_derivatives_of_the_inverse(transform, generator):
    transform = transform()
    z = 2 * torch.randn(2, 2, generator=generator, dtype=torch.float64)
    raw = torch.randn(2, 2 * transform.planes, generator=generator, dtype=torch.float64)
    inputs = (z.requires_grad_(), raw.requires_grad_())
    assert torch.autograd.gradcheck(transform.inverse, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(transform.inverse, inputs, fast_mode=True)


@torch.no_grad()
def test_the_inverse_of_a_function_that_newton_alone_would_lose():
    # slopes from 1e-6 to 1: Newton's step from the middle leaves every bracket
    def cube(x):
        return x**3 + 1e-6 * x, (3 * x**2 + 1e-6).log()

    z = torch.linspace(-1e6, 1e6, 1001, dtype=torch.float64)
    x, log_slope = invert(cube, z, torch.full_like(z, -1e3), torch.full_like(z, 1e7))
    assert_close(cube(x)[0], z, rtol=1e-12, atol=1e-12)
    assert_close(log_slope, cube(x)[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: BernsteinPolynomial(0),
        lambda: BernsteinPolynomial(bound=0.0),
        lambda: BernsteinPolynomial(min_slope=1.0),
        lambda: IntegratedNetwork(0),
        lambda: IntegratedNetwork(min_slope=1e-4),
        lambda: SumOfSquares(0),
        lambda: SumOfSquares(squares=0),
        lambda: SumOfSquares(min_slope=0.0),
        lambda: SumOfSquares(largest=0.0),
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be|need"):
        wrong()
