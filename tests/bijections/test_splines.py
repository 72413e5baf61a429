"""The proven bound on the slope, round trips under stress, edges and tails, and the kernel."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from steadyflow.bijections import CircularSpline, MixtureOfLogistics, RationalQuadraticSpline
from steadyflow.bijections.splines import wrap

POINTS = 20_000


def drawn(spline, size, generator, dtype=torch.float32, points=POINTS):
    """Inputs in and around the box, and raw parameters N(0, size^2)."""
    x = 1.2 * spline.bound * (2 * torch.rand(points, 1, generator=generator, dtype=dtype) - 1)
    return x, size * torch.randn(points, spline.planes, generator=generator, dtype=dtype)


def test_the_lemma_on_a_grid_of_knot_slopes():
    # slope / secant = N / D^2 is at least e for a and b in [e, 1/e], least at the ends
    xi = torch.linspace(0, 1, 1001, dtype=torch.float64)
    q = 1 - xi
    for e in (0.5, 0.1, 1e-3):
        side = torch.logspace(math.log10(e), -math.log10(e), 25, dtype=torch.float64).tolist()
        for a, b in itertools.product(side, side):
            n = b * xi**2 + 2 * xi * q + a * q**2
            d = xi**2 + q**2 + (a + b) * xi * q
            assert (n / d**2).min() >= e * (1 - 1e-12)


@pytest.mark.parametrize("tails", ["unit", "free", "circular"])
@pytest.mark.parametrize("size", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("min_slope", [1e-3, 0.05])
def test_no_slope_is_below_the_bound(generator, tails, size, min_slope):
    spline = RationalQuadraticSpline(8, tails=tails, min_slope=min_slope)
    x, parameters = drawn(spline, size, generator, torch.float64)
    x.requires_grad_()
    z, log_det = spline.forward(x, parameters)
    (slope,) = torch.autograd.grad(z.sum(), x)
    assert slope.min() >= min_slope * (1 - 1e-9)
    assert_close(log_det, slope[:, 0].log(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("size", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("plain", [True, False])
@torch.no_grad()
def test_stress_in_single_precision(generator, size, plain):
    # 200,000 points, 8 bins: peers lose 4.6 to 9.8 at size 10, raise or give NaN
    spline = RationalQuadraticSpline(8)
    x, parameters = drawn(spline, size, generator, points=200_000)
    if plain:
        z, log_det = spline.plain(x, parameters, inverse=False)
        back, _ = spline.plain(z, parameters, inverse=True)
    else:
        z, log_det = spline.forward(x, parameters)
        back, _ = spline.inverse(z, parameters)
    assert z.isfinite().all()
    assert log_det.isfinite().all()
    assert (back - x).abs().max() < 1e-3


@pytest.mark.parametrize("tails", ["unit", "free"])
@torch.no_grad()
def test_edges_of_bins_and_of_the_box(generator, tails):
    spline = RationalQuadraticSpline(5, bound=3.0, tails=tails)
    parameters = 2 * torch.randn(1, spline.planes, generator=generator, dtype=torch.float64)
    probe = torch.zeros(1, 1, dtype=torch.float64)
    left, _, bottom, *_ = spline._knots(probe, parameters)[1][:, 0, :, 0]
    edges = torch.cat((left, torch.tensor([3.0, -3.0, 1e4, -1e4]))).double()[:, None]
    many = parameters.expand(len(edges), -1)
    z, log_det = spline.forward(edges, many)
    assert_close(z[:5, 0], bottom, rtol=0, atol=1e-12)
    assert_close(z[5:7, 0], torch.tensor([3.0, -3.0]).double(), rtol=0, atol=1e-12)
    back, back_log_det = spline.inverse(z, many)
    assert_close(back, edges, rtol=1e-12, atol=1e-10)
    assert_close(back_log_det, -log_det, rtol=0, atol=1e-7)
    if tails == "unit":
        assert (z[7:] == edges[7:]).all()
    # value and slope are continuous at every knot and at the edges of the box
    for x in edges[:7]:
        around = torch.stack((x - 1e-11, x + 1e-11))
        z, log_det = spline.forward(around, parameters.expand(2, -1))
        assert_close(z[0], z[1], rtol=0, atol=1e-6)
        assert_close(log_det[0], log_det[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("tails", ["unit", "free", "circular"])
@torch.no_grad()
def test_zero_parameters_are_the_identity(tails):
    spline = RationalQuadraticSpline(7, tails=tails)
    x = torch.linspace(-5.5, 5.5, 23, dtype=torch.float64)[None]
    z, log_det = spline.forward(x, x.new_zeros(1, 23 * spline.planes))
    assert_close(z, x, rtol=0, atol=1e-12)
    assert_close(log_det, torch.zeros_like(log_det), rtol=0, atol=1e-11)


@torch.no_grad()
def test_angles_are_periodic(generator):
    spline = CircularSpline(6)
    x = 2 * math.pi * (torch.rand(500, 1, generator=generator, dtype=torch.float64) - 0.5)
    parameters = 3 * torch.randn(500, spline.planes, generator=generator, dtype=torch.float64)
    z, log_det = spline.forward(x, parameters)
    again, again_log_det = spline.forward(x + 2 * math.pi, parameters)
    assert (z.abs() <= math.pi).all()
    assert wrap(again - z).abs().max() < 1e-9
    assert_close(again_log_det, log_det, rtol=0, atol=1e-9)
    assert wrap(spline.inverse(z, parameters)[0] - x).abs().max() < 1e-9
    # the slope is continuous where the circle closes
    ends = torch.tensor([[-math.pi + 1e-11], [math.pi - 1e-11]], dtype=torch.float64)
    bend = spline.spline.forward(ends, parameters[:1, 1:].expand(2, -1))[1]
    assert_close(bend[0], bend[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 64), (33, 5), (7, 1), (5, 3, 4, 4), (4, 16, 5)])
@pytest.mark.parametrize("bins", [2, 8, 11])
def test_the_kernel_is_the_definition(generator, shape, bins):
    spline = RationalQuadraticSpline(bins, min_slope=0.05)
    wide = (shape[0], spline.planes * shape[1], *shape[2:])
    x = (3 * torch.randn(shape, generator=generator)).requires_grad_()
    parameters = (2 * torch.randn(wide, generator=generator)).requires_grad_()
    weights = torch.randn(shape, generator=generator), torch.randn(shape[0], generator=generator)

    def both(function, x, parameters):
        z, log_det = function(x, parameters)
        loss = (z * weights[0]).sum() + (log_det * weights[1]).sum()
        return z, log_det, *torch.autograd.grad(loss, (x, parameters))

    fast = both(spline.forward, x, parameters)
    slow = both(lambda *v: spline.plain(*v, inverse=False), x, parameters)
    exact = both(spline.forward, *(v.detach().double().requires_grad_() for v in (x, parameters)))
    for ours, plain, truth in zip(fast, slow, exact, strict=True):
        scale = 1 + truth.abs()
        error, allowed = ((v.double() - truth).abs() / scale for v in (ours, plain))
        assert error.max() <= 4 * allowed.max() + 1e-6
    with torch.no_grad():
        fast, fast_log_det = spline.inverse(x, parameters)
        slow, slow_log_det = spline.plain(x, parameters, inverse=True)
    assert_close(fast, slow, rtol=0, atol=1e-4)
    assert_close(fast_log_det, slow_log_det, rtol=1e-3, atol=1e-3)


def test_second_derivatives_and_vmap(generator):
    spline = RationalQuadraticSpline(4)
    x = torch.randn(5, 2, generator=generator).requires_grad_()
    parameters = torch.randn(5, 2 * spline.planes, generator=generator)

    def curvature(function, x, parameters):
        (first,) = torch.autograd.grad(function(x, parameters)[0].sum(), x, create_graph=True)
        return torch.autograd.grad(first.sum(), x)[0]

    exact = curvature(spline.forward, x.double().detach().requires_grad_(), parameters.double())
    assert_close(curvature(spline.forward, x, parameters).double(), exact, rtol=1e-3, atol=1e-3)

    def one(x, parameters):
        return spline.forward(x[None], parameters[None])[0].sum()

    gradient = torch.func.vmap(torch.func.grad(one))(x.detach(), parameters)
    (whole,) = torch.autograd.grad(spline.forward(x, parameters)[0].sum(), x)
    assert_close(gradient, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [{"bins": 1}, {"bound": 0.0}, {"min_slope": 0.5}, {"tails": "fre"}, {"bins": 200}],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        RationalQuadraticSpline(**wrong)


@pytest.mark.parametrize("size", [1.0, 3.0, 10.0])
def test_mixtures_keep_their_bounds_and_come_back(generator, size):
    mixture = MixtureOfLogistics(6)
    x = (5 * torch.randn(5000, 1, generator=generator, dtype=torch.float64)).requires_grad_()
    parameters = size * torch.randn(5000, mixture.planes, generator=generator, dtype=torch.float64)
    z, log_det = mixture.forward(x, parameters)
    (slope,) = torch.autograd.grad(z.sum(), x)
    assert slope.min() >= mixture.min_slope * (1 - 1e-9)
    assert slope.max() <= math.exp(mixture.bound) + mixture.min_slope
    back, back_log_det = mixture.inverse(z.detach(), parameters)
    assert_close(back, x.detach(), rtol=1e-9, atol=1e-9)
    assert_close(back_log_det, -log_det, rtol=1e-7, atol=1e-7)


def test_gradients_of_the_inverse_of_a_mixture(generator):
    mixture = MixtureOfLogistics(3)
    z = torch.randn(3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    parameters = torch.randn(
        3, 2 * mixture.planes, generator=generator, dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(mixture.inverse, (z, parameters))
