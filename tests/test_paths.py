"""Paths: scales, conversions, weights; and that all of them are one ODE with closed forms."""

import math

import pytest
import torch
from torch.testing import assert_close

from steadyflow.analytic import Mixture, eight_gaussians
from steadyflow.bijections import ContinuousFlow
from steadyflow.paths import KINDS, LOSSES, PATHS, Prediction, canonical_field, make_path

TIGHT = {"rtol": 1e-9, "atol": 1e-9, "per_example": False}


@pytest.fixture(params=PATHS)
def path(request):
    return make_path(request.param)


@pytest.fixture
def times(path):
    shares = torch.linspace(0.03, 0.97, 9, dtype=torch.float64)
    return path.t_min + shares * (path.t_max - path.t_min)


def test_rates_are_the_derivatives_of_the_scales(path, times):
    h = 1e-6 * (path.t_max - path.t_min)
    before, after = path.scales(times - h), path.scales(times + h)
    for rate, a, b in zip(path.rates(times), before, after, strict=True):
        assert_close(rate, (b - a) / (2 * h), rtol=2e-3, atol=1e-6)


def test_the_ratio_grows_and_is_undone_by_time(path, times):
    ratio = path.ratio(times)
    assert (ratio.diff() > 0).all()
    assert_close(path.time(ratio), times, rtol=1e-9, atol=1e-9)


def test_times_outside_of_the_range_are_refused(path):
    for t in (path.t_min - 0.1, path.t_max + 0.1):
        with pytest.raises(ValueError, match=r"path lie in \["):
            path.ratio(t)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_become_each_other(path, times, kind, generator):
    data, noise = torch.randn(2, 9, 3, generator=generator, dtype=torch.float64)
    x = path.mix(data, noise, times)
    made = Prediction(data, noise)
    back = path.predict(kind, path.express(kind, made, times), x, times)
    assert_close(back.data, data, rtol=1e-7, atol=1e-7)
    assert_close(back.noise, noise, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("width", [1.0, 0.4])
@pytest.mark.parametrize("loss", LOSSES)
def test_weights_turn_the_error_of_v_into_that_of_the_loss(path, times, loss, width, generator):
    """An error d of v moves the data by -w sin d and the noise by cos d."""
    d = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    phi = path.angle(times, width)[:, None]
    moved = Prediction(-width * torch.sin(phi) * d, torch.cos(phi) * d)
    a, s = path.scales(times)
    da, ds = path.rates(times)
    truth = {
        "noise": moved.noise,
        "data": moved.data,
        "v": d,
        "edm": torch.sqrt((s / a) ** 2 + width**2)[:, None]
        / (s / a * width)[:, None]
        * moved.data,
        "velocity": path.express("velocity", moved, times),
        "likelihood": torch.sqrt(ds / s - da / a)[:, None] * moved.noise,
    }[loss]
    error = path.weight(loss, times, width)[:, None] * d.square()
    assert_close(error, truth.square(), rtol=1e-8, atol=1e-12)


def test_flow_matching_over_time_is_the_error_of_v_over_the_angle():
    """So that training draws the angle and weighs nothing: mean_t w(t) g = pi/2 mean_phi g."""
    straight = make_path("straight")
    middle = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    over_time = straight.weight("velocity", middle) * torch.sin(3 * straight.angle(middle))
    over_angle = torch.sin(3 * math.pi / 2 * middle)
    assert_close(over_time.mean(), math.pi / 2 * over_angle.mean(), rtol=0, atol=1e-7)


def test_the_heat_equation_holds():
    mixture = eight_gaussians()
    heat = make_path("heat", diffusivity=1.0)
    y = torch.tensor([[4.3, 0.6], [1.0, -2.0]], dtype=torch.float64)
    # dp/d(s^2) = laplace(p) / 2, both by autograd
    s2 = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    for row in y:

        def p(row, s2=s2):
            return mixture.log_prob(row[None], s2.sqrt()).exp()[0]

        (rate,) = torch.autograd.grad(p(row), s2)
        laplacian = torch.autograd.functional.hessian(p, row).trace()
        assert abs(rate - laplacian / 2) < 1e-12
    assert float(heat.scales(torch.tensor(0.35))[1]) == pytest.approx(math.sqrt(0.7))


def normal(d, generator):
    root = torch.randn(d, d, generator=generator, dtype=torch.float64) / math.sqrt(d)
    covariance = root @ root.T + 0.1 * torch.eye(d, dtype=torch.float64)
    mean = torch.randn(1, d, generator=generator, dtype=torch.float64)
    return Mixture(torch.ones(1), mean, covariance[None]), mean[0], covariance


def moved(mean, covariance, y, s, to):
    """The probability flow of a normal between noise levels, in closed form."""
    values, axes = torch.linalg.eigh(covariance)
    factor = ((values + to**2) / (values + s**2)).sqrt()
    return mean + ((y - mean) @ axes * factor) @ axes.T


def native(path, mixture, **options):
    """The path's own ODE as a bijection."""
    field = path.field(mixture.denoise)
    t1 = min(path.t_max, 0.999) if path.t_max == 1.0 else path.t_max
    t0 = max(path.t_min, 1e-3) if path.t_min == 0 else path.t_min
    options = {**TIGHT, "max_evaluations": 3000, **options}
    return ContinuousFlow(lambda t, x, _: field(t, x), t0=t0, t1=t1, **options), t0, t1


def test_ddpm_passes_through_its_levels():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    a2 = torch.cumprod(1 - betas, 0)
    a, s = make_path("ddpm").scales(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    assert_close(a, a2.sqrt(), rtol=1e-12, atol=0)
    assert_close(s, (1 - a2).sqrt(), rtol=1e-11, atol=0)


def test_normal_data_have_the_closed_forms_on_every_path(path, generator):
    d = 8 if type(path).__name__ == "VariancePreserving" else 2
    mixture, mean, covariance = normal(d, generator)
    flow, t0, t1 = native(path, mixture)
    x0 = mixture.sample(4, generator)
    a, s = path.scales(torch.tensor([t0, t1], dtype=torch.float64))
    ratio = s / a
    y = x0 + ratio[0] * torch.randn(4, d, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        z, log_det = flow(a[0] * y)
        truth = moved(mean, covariance, y, ratio[0], ratio[1])
        assert_close(z / a[1], truth, rtol=1e-7, atol=1e-7)
        end = mixture.log_prob(z / a[1], ratio[1]) - d * a[1].log()
        assert_close(
            end + log_det + d * a[0].log(), mixture.log_prob(y, ratio[0]), rtol=0, atol=1e-7
        )
        back, back_log_det = flow.inverse(z)
        assert_close(back, a[0] * y, rtol=1e-7, atol=1e-7)
        assert_close(back_log_det, -log_det, rtol=0, atol=1e-7)
    single = ContinuousFlow(flow.field, t0=t0, t1=t1, per_example=False)
    with torch.no_grad():
        z32, log_det32 = single((a[0] * y).float())
    # the heat equation's own time is the square of the noise: its ODE is the hardest of them
    tolerance = 2e-3 if type(path).__name__ == "Heat" else 1e-3
    assert_close(z32.double(), z, rtol=tolerance, atol=tolerance)
    assert_close(log_det32.double(), log_det, rtol=1e-3, atol=1e-3)


def canonical(mixture, width, low, high, **options):
    field = canonical_field(mixture.denoise, width)
    options = {**TIGHT, **options}
    angles = [math.atan(s / width) for s in (low, high)]
    return ContinuousFlow(lambda t, x, _: field(t, x), t0=angles[0], t1=angles[1], **options)


@torch.no_grad()
def test_all_paths_give_one_log_prob(path, generator):
    mixture = eight_gaussians()
    width = float(mixture.moments()[1].mean().sqrt())
    flow, t0, t1 = native(path, mixture)
    a, s = path.scales(torch.tensor([t0, t1], dtype=torch.float64))
    low, high = (s / a).tolist()
    y = mixture.sample(6, generator)
    z, log_det = flow(a[0] * y)
    own = mixture.log_prob(z / a[1], high) - 2 * a[1].log() + log_det + 2 * a[0].log()
    # every path against the density itself at its own cut-off, and against the canonical ODE
    assert_close(own, mixture.log_prob(y, low), rtol=0, atol=1e-6)
    u, log_det = canonical(mixture, width, low, high)(y / math.hypot(width, low))
    r0, r1 = math.hypot(width, low), math.hypot(width, high)
    same = mixture.log_prob(u * r1, high) + 2 * math.log(r1) + log_det - 2 * math.log(r0)
    assert_close(same, own, rtol=0, atol=1e-6)
    assert_close(u * r1, z / a[1], rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_the_canonical_coordinate_needs_fewer_evaluations(generator):
    mixture = eight_gaussians()
    width = float(mixture.moments()[1].mean().sqrt())
    y = mixture.sample(64, generator)
    own = native(make_path("edm"), mixture, rtol=1e-5, atol=1e-5, per_example=False)[0]
    one = canonical(mixture, width, 0.002, 80.0, rtol=1e-5, atol=1e-5, per_example=False)
    in_sigma, in_angle = own.solve(y).solution, one.solve(y / math.hypot(width, 0.002)).solution
    assert in_angle.evaluations < 0.75 * in_sigma.evaluations


@torch.no_grad()
def test_a_wide_prior_matches_the_moments(generator):
    """N(m, var + s^2) at the end of the path: the error falls as the noise grows."""
    mixture, mean, covariance = normal(8, generator)
    y = mixture.sample(16, generator)
    errors = []
    for high in (10.0, 80.0, 1000.0):
        z = moved(mean, covariance, y, 0.0, high)
        var = covariance.diagonal() + high**2
        matched = torch.distributions.Normal(mean, var.sqrt()).log_prob(z).sum(1)
        errors.append((matched - mixture.log_prob(z, high)).abs().max())
    assert errors[0] < 0.2
    assert errors[1] < 0.01
    assert errors[2] < 1e-4


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vp", {"beta_min": 0.0}, "betas"),
        ("vp", {"t_min": 0.5, "t_max": 0.2}, "in order"),
        ("ve", {"sigma_min": 0.0}, "score of data"),
        ("edm", {"sigma_min": 2.0, "sigma_max": 1.0}, "in order"),
        ("heat", {"diffusivity": -1.0}, "diffusivity"),
        ("ddpm", {"levels": 1}, "levels"),
        ("strait", {}, "did you mean 'straight'"),
    ],
)
def test_bad_paths(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_path(name, **options)


def test_unknown_predictions_and_losses(path, times):
    x = torch.zeros(9, 2)
    with pytest.raises(ValueError, match="unknown prediction"):
        path.predict("epsilon", x, x, times)
    with pytest.raises(ValueError, match="unknown loss"):
        path.weight("simple", times)
