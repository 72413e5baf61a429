"""NICE is the paper's: four additive couplings that keep volume, one scaling, a logistic prior."""

import math

import pytest
import torch
from torch.testing import assert_close
from zoo import randomize

from steadyflow.bases import StandardLogistic, StandardNormal
from steadyflow.bijections import Additive, Alternating, Chain, Coupling, Scaling
from steadyflow.models.nice import NICE


def small(event_shape=(4,), **config):
    return NICE(event_shape=event_shape, **{"hidden_features": 8, "hidden_layers": 2, **config})


def body(model):
    """The couplings, without what comes before and the scaling after them."""
    return Chain(*[b for b in model.flow.bijection.bijections if isinstance(b, Coupling)])


def test_the_defaults_are_the_papers():
    model = NICE(event_shape=[1, 28, 28])
    couplings = body(model)
    assert len(couplings) == 4
    assert isinstance(model.flow.bijection[-1], Scaling)
    assert isinstance(model.flow.base, StandardLogistic)
    for layer in couplings.bijections:
        assert isinstance(layer.transform, Additive)
        assert isinstance(layer.split, Alternating)
        widths = [linear.out_features for linear in layer.conditioner.layers]
        assert widths == [1000] * 5 + [392]
    assert [layer.split.flip for layer in couplings.bijections] == [False, True, False, True]


@torch.no_grad()
def test_the_body_keeps_volume_and_the_scaling_is_all_of_the_log_det(generator):
    model = randomize(small().double(), generator)
    x = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    assert torch.equal(body(model)(x)[1], torch.zeros(50).double())
    first, scaling = model.flow.bijection[0], model.flow.bijection[-1]
    expected = scaling.log_scale.sum() - first.std.log().sum()
    assert_close(model.flow.bijection(x)[1], expected.expand(50))


@pytest.mark.parametrize("couplings", [1, 2, 3, 4])
def test_three_couplings_are_the_least_that_mix_everything(couplings, generator):
    model = randomize(small((6,), couplings=couplings, hidden_features=32).double(), generator)
    x = torch.randn(6, generator=generator, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: body(model)(v[None])[0][0], x)
    assert bool((jacobian != 0).all()) == (couplings >= 3)
    if couplings == 1:
        kept, moved = [0, 2, 4], [1, 3, 5]
        assert_close(jacobian[kept], torch.eye(6).double()[kept])
        assert_close(jacobian[moved][:, moved], torch.eye(3).double())
        assert (jacobian[moved][:, kept] != 0).all()


@torch.no_grad()
def test_a_hand_computed_density():
    """One coupling z_1 = x_1 + 2 x_0 with x_0 > 0, scaling (e, 1), logistic prior."""
    model = NICE(event_shape=[2], couplings=1, hidden_features=1, hidden_layers=1)
    hidden, output = model.flow.bijection[1].conditioner.layers
    hidden.weight.fill_(1.0)
    hidden.bias.zero_()
    output.weight.fill_(2.0)
    output.bias.zero_()
    model.flow.bijection[-1].log_scale.copy_(torch.tensor([1.0, 0.0]))
    z = [math.e * 0.5, 0.25 + 2 * 0.5]
    expected = 1.0 - sum(math.log1p(math.exp(v)) + math.log1p(math.exp(-v)) for v in z)
    assert_close(model.encode(torch.tensor([[0.5, 0.25]])), torch.tensor([z]))
    assert model.log_prob(torch.tensor([[0.5, 0.25]])).item() == pytest.approx(expected, rel=1e-6)


@torch.no_grad()
def test_nats_of_the_paper_are_those_of_pixels_in_the_unit_interval(generator):
    """log p(y) on [0, 1]^D is log P(x) + D log 256; bits per dimension are -log P / (D log 2)."""
    model = randomize(small((1, 4, 4)), generator)
    x = torch.randint(256, (5, 1, 4, 4), generator=generator, dtype=torch.uint8)
    torch.manual_seed(1)
    log_p = model.log_prob(x)
    torch.manual_seed(1)
    y, log_det = model.dequantization(x)
    density = model.flow.base.log_prob(model.flow.bijection(y)[0]) + model.flow.bijection(y)[1]
    assert_close(density, log_p + 16 * math.log(256), rtol=1e-5, atol=1e-3)
    assert_close(log_det, torch.full((5,), -16 * math.log(256)))
    # the paper's 1980.50 nats on MNIST are 4.36 bits per dimension
    assert (784 * math.log(256) - 1980.50) / 784 / math.log(2) == pytest.approx(4.36, abs=0.01)


@torch.no_grad()
def test_initialisation_takes_images_and_vectors_to_the_unit_scale(generator):
    vectors = 1e3 + 50 * torch.randn(500, 4, generator=generator)
    model = small()
    model.initialize(vectors)
    z = model.encode(vectors)
    assert_close(z.mean(0), torch.zeros(4), rtol=0, atol=1e-3)
    assert_close(z.std(0, correction=0), torch.ones(4), rtol=1e-3, atol=0)
    pixels = torch.randint(256, (500, 1, 2, 2), generator=generator, dtype=torch.uint8)
    model = small((1, 2, 2))
    model.initialize(pixels)
    assert_close(model.encode(pixels).std(0), torch.ones(4), rtol=1e-2, atol=0)


def test_other_bases_depths_and_bits():
    assert isinstance(small(base="normal").flow.base, StandardNormal)
    assert len(body(small(couplings=7))) == 7
    assert small((1, 2, 2), bits=5).dequantization.levels == 32
    assert small((1, 2, 2), bits=0).dequantization is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"base": "logistics"}, "unknown base 'logistics': did you mean 'logistic'"),
        ({"event_shape": (1,)}, "at least two"),
        ({"event_shape": (1, 1, 1)}, "at least two"),
        ({"event_shape": (1, 2, 2), "bits": 17}, "bits must be between 1 and 16"),
    ],
)
def test_wrong_options_are_named(config, words):
    with pytest.raises(ValueError, match=words):
        small(**config)
