"""SplineFlow as a user meets it; the exactness tests run over it in tests/exactness."""

import pytest
import torch
from tables import fitted, mixed, moons
from torch.testing import assert_close

from steadyflow import SplineFlow

PRESETS = {
    "autoregressive": {},
    "coupling": {"architecture": "coupling"},
    "plain": {"linear": "none"},
    "mixture": {"transform": "mixture"},
}


@pytest.fixture(scope="module", params=PRESETS)
def trained(request):
    torch.manual_seed(0)
    model = SplineFlow(
        event_shape=[8], transforms=3, hidden_features=[64, 64], **PRESETS[request.param]
    )
    return fitted(model, mixed(8), 150, 3e-3)


@torch.no_grad()
def test_far_inputs_have_a_density_and_come_back(trained, generator):
    data = mixed(8)
    far = data.mean(0) + 10 * data.std(0) * torch.randn(4096, 8, generator=generator)
    assert trained.log_prob(far).isfinite().all()
    assert_close(trained.decode(trained.encode(far)), far, rtol=0, atol=1e-3)


@torch.no_grad()
def test_mixed_precision_leaves_the_density_alone(trained):
    data = mixed(8)[:1000]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = trained.log_prob(data)
    assert_close(rounded, trained.log_prob(data), rtol=0, atol=0.02)


@torch.no_grad()
def test_it_fits_better_than_a_gaussian(trained):
    data = mixed(8)
    gaussian = torch.distributions.MultivariateNormal(data.mean(0), data.T.cov())
    assert trained.log_prob(data).mean() > gaussian.log_prob(data).mean() + 1


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["autoregressive", "coupling"])
def test_two_moons(architecture):
    # entropy 1.124; test set of 10,000: standard error 0.01, the same for every model
    torch.manual_seed(0)
    model = SplineFlow(event_shape=[2], architecture=architecture)
    fitted(model, moons(10_000, 10), 2000)
    with torch.no_grad():
        test = moons(100_000, 11)
        assert -model.log_prob(test).mean() <= 1.14


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"context_features": 2}])
def test_one_variable(options, generator):
    model = SplineFlow(event_shape=[1], transforms=2, hidden_features=[8], **options)
    for p in model.parameters():
        p.normal_(std=0.3, generator=generator)
    context = torch.randn(50, 2, generator=generator) if options else None
    x = torch.randn(50, 1, generator=generator)
    assert_close(model.decode(model.encode(x, context), context), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"event_shape": [1, 8, 8]}, "vectors"),
        ({"event_shape": [1], "architecture": "coupling"}, "at least two"),
        ({"architecture": "auto"}, "autoregressive"),
        ({"linear": "lower"}, "lu"),
        ({"transform": "splin"}, "spline"),
    ],
)
def test_wrong_options_say_what_is_right(options, said):
    with pytest.raises(ValueError, match=said):
        SplineFlow(**{"event_shape": [3], **options})
