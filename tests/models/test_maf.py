"""MAF as a user meets it; the exactness tests run over it in tests/exactness."""

import pytest
import torch
from tables import fitted, mixed
from torch.testing import assert_close

from steadyflow import MAF


@pytest.fixture(scope="module")
def trained():
    return fitted(
        MAF(event_shape=[8], transforms=3, hidden_features=[64, 64]), mixed(8), 200, 4e-3
    )


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
    assert rounded.dtype == torch.float32
    assert_close(rounded, trained.log_prob(data), rtol=0, atol=0.02)


@torch.no_grad()
def test_it_fits_better_than_a_gaussian_and_samples_look_alike(trained):
    data = mixed(8)
    gaussian = torch.distributions.MultivariateNormal(data.mean(0), data.T.cov())
    assert trained.log_prob(data).mean() > gaussian.log_prob(data).mean() + 0.3
    samples = trained.sample(5000)
    assert_close(samples.mean(0), data.mean(0), rtol=0, atol=0.2 * float(data.std(0).max()))
    assert_close(samples.std(0), data.std(0), rtol=0.2, atol=0)


def test_log_prob_is_in_the_units_of_the_user():
    data = mixed(3)
    models = []
    for scale in (1.0, 1000.0):
        torch.manual_seed(0)
        model = MAF(event_shape=[3], transforms=2, hidden_features=[8])
        model.initialize(scale * data)
        models.append(model.log_prob(scale * data))
    shift = 3 * torch.log(torch.tensor(1000.0))
    assert_close(models[1], models[0] - shift, rtol=1e-4, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"context_features": 2}, {"num_classes": 3}])
def test_one_variable(options, generator):
    model = MAF(event_shape=[1], transforms=2, hidden_features=[8], **options)
    for p in model.parameters():
        p.normal_(std=0.3, generator=generator)
    context = None
    if "num_classes" in options:
        context = torch.tensor([0, 2, 1, 1])
    if "context_features" in options:
        context = torch.randn(4, 2, generator=generator)
    x = torch.randn(4, 1, generator=generator)
    assert_close(model.decode(model.encode(x, context), context), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"event_shape": [1, 8, 8]}, "vectors"),
        ({"order": "reversed"}, "reverse"),
        ({"residual": True, "hidden_features": [8, 16]}, "one width"),
        ({"activation": "rleu"}, "relu"),
        ({"inverse": "fast"}, "incremental"),
    ],
)
def test_wrong_options_say_what_is_right(options, said):
    with pytest.raises(ValueError, match=said):
        MAF(**{"event_shape": [3], **options})
