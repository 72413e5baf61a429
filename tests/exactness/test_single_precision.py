"""Single precision at the depth that users have: the default models, random and trained."""

import pytest
import torch
from torch.testing import assert_close
from zoo import randomize

from steadyflow.bijections import Coupling
from steadyflow.models.maf import MAF
from steadyflow.models.nice import NICE
from steadyflow.models.realnvp import RealNVP
from steadyflow.models.spline_flow import SplineFlow

# (constructor, gain of the random parameters); images are deeper, and a gain beyond 0.5 makes
# random ones stretch distances by more than float32 has digits, which no trained one does
DEFAULTS = {
    "realnvp-2": (lambda: RealNVP(event_shape=[2]), 0.7),
    "realnvp-64": (lambda: RealNVP(event_shape=[64]), 0.7),
    "realnvp-mnist": (lambda: RealNVP(event_shape=[1, 28, 28]), 0.5),
    "realnvp-cifar": (lambda: RealNVP(event_shape=[3, 32, 32], hidden_channels=8), 0.5),
    "maf-64": (lambda: MAF(event_shape=[64]), 0.5),
    "spline-flow-64": (lambda: SplineFlow(event_shape=[64]), 0.5),
    "spline-coupling-64": (lambda: SplineFlow(event_shape=[64], architecture="coupling"), 0.5),
    "nice-8": (lambda: NICE(event_shape=[8], hidden_features=200), 1.0),
    "nice-mnist": (lambda: NICE(event_shape=[1, 28, 28], hidden_features=200), 1.0),
}


def examples(model, n, generator):
    if model.dequantization is None:
        return torch.randn(n, *model.event_shape, generator=generator)
    pixels = torch.randint(256, (n, *model.event_shape), generator=generator, dtype=torch.uint8)
    return model.dequantization(pixels)[0]


@torch.no_grad()
@pytest.mark.parametrize("name", DEFAULTS)
def test_default_depth_comes_back_to_1e_4(name, generator):
    build, gain = DEFAULTS[name]
    model = randomize(build(), generator, gain)
    y = examples(model, 8, generator)
    z, log_det = model.flow.bijection(y)
    back, back_log_det = model.flow.bijection.inverse(z)
    assert_close(back, y, rtol=0, atol=1e-4)
    assert_close(back_log_det, -log_det, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", DEFAULTS)
def test_single_and_double_precision_agree(name, generator):
    build, gain = DEFAULTS[name]
    model = randomize(build(), generator, min(gain, 0.5))
    y = examples(model, 4, generator)
    single = model.flow.bijection(y)[1]
    double = model.double().flow.bijection(y.double())[1]
    assert single.dtype == torch.float32
    assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in DEFAULTS if name[-1].isdigit()])
@pytest.mark.parametrize("size", [10.0, 1e4])
def test_far_inputs_of_default_models(name, generator, size):
    build, gain = DEFAULTS[name]
    model = randomize(build(), generator, gain)
    x = size * torch.randn(64, *model.event_shape, generator=generator)
    assert model.log_prob(x).isfinite().all()
    back = model.decode(model.encode(x))
    assert_close(back, x, rtol=0, atol=1e-4 * size)


@pytest.fixture(scope="module")
def trained():
    """A default RealNVP after 150 steps on two moons."""
    from sklearn.datasets import make_moons

    torch.manual_seed(0)
    data = torch.as_tensor(make_moons(2048, noise=0.05, random_state=0)[0], dtype=torch.float32)
    model = RealNVP(event_shape=[2])
    model.initialize(data)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(150):
        loss = model.loss(data[torch.randint(len(data), (256,))])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    return model.eval(), data


@torch.no_grad()
def test_a_trained_flow_is_a_good_and_exact_density(trained):
    model, data = trained
    normal = torch.distributions.MultivariateNormal(data.mean(0), data.T.cov())
    assert model.loss(data) < -normal.log_prob(data).mean() / 2 - 0.2
    report = model.check(data[:512])
    assert report.ok, str(report)
    assert report.integral == pytest.approx(1, abs=1e-3)
    assert report.round_trip < 1e-4


@torch.no_grad()
def test_noise_goes_through_a_trained_flow_and_comes_back(trained, generator):
    model, data = trained
    far = data.mean(0) + 10 * data.std(0) * torch.randn(1000, 2, generator=generator)
    assert model.log_prob(far).isfinite().all()
    assert_close(model.decode(model.encode(far)), far, rtol=0, atol=1e-3)


@torch.no_grad()
def test_no_layer_stretches_more_than_its_bound(generator):
    model = randomize(RealNVP(event_shape=[4]), generator, gain=30.0)
    x = 100 * torch.randn(64, 4, generator=generator)
    for layer in model.flow.bijection.bijections:
        if isinstance(layer, Coupling):
            _, log_det = layer(x)
            assert (log_det.abs() <= 2 * layer.transform.bound + 1e-5).all()
