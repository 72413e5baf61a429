"""The diffusion samplers: their orders on an exact score, and what they reduce to."""

import math

import pytest
import torch
from torch.testing import assert_close

from steadyflow.analytic import eight_gaussians
from steadyflow.solvers import solve
from steadyflow.solvers.samplers import SAMPLERS, noise_grid, sample


@pytest.fixture(scope="module")
def exact():
    """A mixture, noise to start from, and where the ODE takes it."""
    mixture, generator = eight_gaussians(), torch.Generator().manual_seed(0)
    noise = torch.randn(32, 2, generator=generator, dtype=torch.float64)
    y = mixture.sample(32, generator) + 80 * noise

    def slope(t, y):
        return (y - mixture.denoise(y, t)) / t

    return mixture, y, solve(slope, y, 80.0, 0.002, rtol=1e-12, atol=1e-12).x


@pytest.mark.parametrize(
    ("method", "order"), [("ddim", 0.95), ("heun", 1.9), ("dpm++2m", 1.85), ("dpm++3m", 2.1)]
)
def test_orders(method, order, exact):
    mixture, y, truth = exact
    errors = []
    for n in (128, 256, 512):
        steps = n // 2 if method == "heun" else n
        done = sample(mixture.denoise, y, noise_grid("karras", 80.0, 0.002, steps), method)
        assert done.evaluations == n
        errors.append((done.x - truth).square().mean().sqrt())
    assert math.log2(errors[0] / errors[2]) / 2 > order


def test_rk4_in_log_sigma(exact):
    mixture, y, truth = exact
    errors = []
    for n in (64, 128):
        done = solve(
            lambda t, y: y - mixture.denoise(y, t.exp()),
            y,
            math.log(80.0),
            math.log(0.002),
            method="rk4",
            steps=n,
        )
        errors.append((done.x - truth).square().mean().sqrt())
    assert math.log2(errors[0] / errors[1]) > 3.7


def test_ddim_is_euler_in_the_ratio_of_scales(exact):
    """Su's recursion for x_t = a y with eta = 0, against Euler's method in s/a."""
    mixture, y, _ = exact
    levels = noise_grid("karras", 80.0, 0.002, 20)
    done = sample(mixture.denoise, y, levels, "ddim").x
    euler = solve(
        lambda t, y: (y - mixture.denoise(y, t)) / t, y, 80.0, 0.002, method="euler", grid=levels
    ).x
    assert_close(done, euler, rtol=1e-12, atol=1e-12)
    a = [1 / math.sqrt(1 + s * s) for s in levels]
    x = y * a[0]
    for i in range(20):
        s, to = levels[i] * a[i], levels[i + 1] * a[i + 1]
        noise = (x - a[i] * mixture.denoise(x / a[i], levels[i])) / s
        x = a[i + 1] / a[i] * (x - (s - a[i] / a[i + 1] * to) * noise)
    assert_close(x / a[-1], done, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", SAMPLERS)
def test_the_last_step_may_go_to_no_noise(method, exact):
    mixture, y, truth = exact
    levels = noise_grid("karras", 80.0, 0.01, 40, end=True)
    assert len(levels) == 41
    done = sample(mixture.denoise, y, levels, method)
    assert done.ok
    assert done.t.tolist() == [0.0] * 32
    if method != "ancestral":
        assert (done.x - truth).square().mean().sqrt() < 0.1


def test_the_ancestral_sampler_draws_from_the_mixture(exact):
    mixture, _, _ = exact
    generator = torch.Generator().manual_seed(1)
    y = 80 * torch.randn(4000, 2, generator=generator, dtype=torch.float64)
    levels = noise_grid("karras", 80.0, 0.002, 100, end=True)
    x = sample(mixture.denoise, y, levels, "ancestral", generator=generator).x
    n = 4000
    # E log p = minus the entropy; the discretisation in 100 steps costs less than the error bar
    ours, truth = mixture.log_prob(x), mixture.log_prob(mixture.sample(n, generator))
    error = math.hypot(ours.std() / math.sqrt(n), truth.std() / math.sqrt(n))
    assert abs(ours.mean() - truth.mean()) < 4 * error + 0.05


def test_grids_and_bad_input(exact):
    mixture, y, _ = exact
    for kind in ("karras", "log", "uniform"):
        levels = noise_grid(kind, 80.0, 0.002, 5)
        assert levels[0] == 80.0
        assert levels[-1] == 0.002
        assert len(levels) == 6
    assert noise_grid("log", 80.0, 0.002, 1, end=True) == [80.0, 0.0]
    for given, message in [
        (("karas", 80.0, 0.002, 5), "did you mean 'karras'"),
        (("log", 80.0, 0.002, 0), "at least 1"),
        (("log", 0.002, 80.0, 5), "fall"),
    ]:
        with pytest.raises(ValueError, match=message):
            noise_grid(*given)
    with pytest.raises(ValueError, match=r"dpm\+\+2m"):
        sample(mixture.denoise, y, [1.0, 0.5], "dpm2m")
    with pytest.raises(ValueError, match="must fall"):
        sample(mixture.denoise, y, [0.5, 1.0])
    broken = sample(lambda y, s: y * math.nan, y, [1.0, 0.5])
    assert broken.status == "not finite"
    assert len(broken.unfinished) == 32
