"""RealNVP is the paper's: affine couplings, checkerboards and channels, latents at every scale."""

import math

import pytest
import torch
from torch.testing import assert_close
from zoo import randomize

from steadyflow.bijections import (
    Affine,
    Alternating,
    Checkerboard,
    Coupling,
    Halves,
    Logit,
    MultiScale,
    Squeeze,
    Standardization,
)
from steadyflow.models.realnvp import RealNVP


def image(event_shape=(1, 8, 8), **config):
    return RealNVP(event_shape=event_shape, **{"hidden_channels": 4, "blocks": 1, **config})


def couplings(model):
    return [part for part in model.modules() if isinstance(part, Coupling)]


def multi_scale(model):
    return next(part for part in model.modules() if isinstance(part, MultiScale))


# vectors


def test_vectors_take_turns():
    model = RealNVP(event_shape=[6])
    assert isinstance(model.flow.bijection[0], Standardization)
    splits = [layer.split for layer in couplings(model)]
    assert {Halves, Alternating} >= {type(split) for split in splits}
    assert [split.flip for split in splits] == [False, True] * (len(splits) // 2)


@torch.no_grad()
def test_a_hand_computed_density():
    """One coupling: z_1 = x_1 exp(s) + t with r = 0.8 and t = -0.3, s = 2 tanh(r / 2)."""
    model = RealNVP(event_shape=[2], couplings=1, hidden_features=[4])
    (layer,) = couplings(model)
    assert isinstance(layer.transform, Affine)
    layer.conditioner.layers[-1].bias.copy_(torch.tensor([0.8, -0.3]))
    model.flow.bijection[-1].log_scale.copy_(torch.tensor([0.1, 0.2]))
    s = layer.transform.log_scale(torch.tensor(0.8)).item()
    z = [0.5 * math.exp(0.1), (0.25 * math.exp(s) - 0.3) * math.exp(0.2)]
    log_normal = -0.5 * (z[0] ** 2 + z[1] ** 2) - math.log(2 * math.pi)
    x = torch.tensor([[0.5, 0.25]])
    assert_close(model.encode(x), torch.tensor([z]))
    assert model.log_prob(x).item() == pytest.approx(log_normal + s + 0.3, rel=1e-6)


def test_a_coupling_leaves_one_half_alone(generator):
    model = randomize(RealNVP(event_shape=[4], couplings=1).double(), generator)
    (layer,) = couplings(model)
    x = torch.randn(4, generator=generator, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0][0], x)
    assert_close(jacobian[:2], torch.eye(4).double()[:2])
    moved = jacobian[2:, 2:]
    assert (moved.diagonal() > 0).all()
    assert_close(moved, moved.diagonal().diag())
    assert (jacobian[2:, :2] != 0).all()


def test_the_affine_tails_are_those_of_the_base(generator):
    """Beyond the clip the conditioners are constant, so the map is affine along every ray."""
    model = randomize(RealNVP(event_shape=[3], couplings=4).double(), generator, gain=0.5)
    with torch.no_grad():
        ray = torch.randn(3, generator=generator, dtype=torch.float64)
        z = model.encode(torch.stack([1e6 * ray, 2e6 * ray, 3e6 * ray]))
    assert_close(z[2] - z[1], z[1] - z[0], rtol=1e-9, atol=1e-6)


# images


def test_the_scales_are_the_papers():
    """Three checkerboards, a squeeze, three channel couplings; four checkerboards at the end."""
    model = image((3, 32, 32))
    assert isinstance(model.flow.bijection[0], Logit)
    body = multi_scale(model)
    assert body.latent_shapes == [(6, 16, 16), (12, 8, 8), (24, 4, 4), (24, 4, 4)]
    for level, scale in enumerate(body.scales):
        last = level == len(body.scales) - 1
        inside = [part for part in scale.bijections if isinstance(part, Coupling | Squeeze)]
        kinds = [type(part.split) if isinstance(part, Coupling) else Squeeze for part in inside]
        whole = [Checkerboard] * 3 + [Squeeze] + [Halves] * 3
        assert kinds == ([Checkerboard] * 4 if last else whole)
        flips = [part.split.flip for part in inside if isinstance(part, Coupling)]
        assert flips == ([False, True] * 2 if last else [False, True, False] * 2)


@pytest.mark.parametrize(
    ("event_shape", "latents"),
    [
        ((1, 28, 28), [(2, 14, 14), (2, 14, 14)]),
        ((1, 8, 8), [(2, 4, 4), (2, 4, 4)]),
        ((3, 4, 4), [(3, 4, 4)]),
        ((1, 6, 6), [(1, 6, 6)]),
        ((3, 16, 8), [(6, 8, 4), (6, 8, 4)]),
    ],
)
def test_default_scales_fit_the_image(event_shape, latents):
    model = image(event_shape)
    assert multi_scale(model).latent_shapes == latents
    assert model.flow.base.event_shape == (math.prod(event_shape),)
    assert model.sample(2).shape == (2, *event_shape)


@pytest.mark.parametrize("flip", [False, True])
def test_a_checkerboard_moves_one_colour_as_the_other_says(generator, flip):
    layer = [part for part in couplings(image((1, 4, 4)))][1 if flip else 0].double()
    assert layer.split.flip == flip
    randomize(layer, generator)
    x = torch.randn(1, 4, 4, generator=generator, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0][0], x)
    jacobian = jacobian.reshape(16, 16)
    colour = (torch.arange(4)[:, None] + torch.arange(4)).flatten() % 2
    kept, moved = (colour == int(flip)).nonzero()[:, 0], (colour != int(flip)).nonzero()[:, 0]
    assert_close(jacobian[kept], torch.eye(16).double()[kept])
    own = jacobian[moved][:, moved]
    assert_close(own, own.diagonal().diag())
    assert (own.diagonal() > 0).all()
    assert (jacobian[moved][:, kept] != 0).double().mean() > 0.5


def test_every_pixel_reaches_every_latent(generator):
    model = randomize(image((1, 4, 4), scales=2).double(), generator, gain=0.5)
    x = torch.rand(1, 4, 4, generator=generator, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: model.flow.bijection(v[None])[0][0], x
    ).reshape(16, 16)
    assert (jacobian != 0).double().mean() > 0.9


@torch.no_grad()
def test_early_latents_hold_details_and_the_last_ones_the_image(generator):
    """At the identity the factored-out half of a scale is one diagonal of every 2 x 2 cell."""
    model = image((1, 8, 8), bits=0)
    x = torch.randn(3, 1, 8, 8, generator=generator)
    z = model.encode(x)
    first, last = z.split([32, 32], 1)
    cells = torch.nn.functional.pixel_unshuffle(x, 2)
    assert_close(last.unflatten(1, (2, 4, 4)), cells[:, :2])
    assert_close(first.unflatten(1, (2, 4, 4)), cells[:, 2:])


@torch.no_grad()
def test_pixels_pass_the_logit_of_the_paper():
    """At the identity z = logit(a + (1 - 2a) y), and log_prob is the formula's."""
    model = image((1, 2, 2), alpha=0.1, scales=1)
    x = torch.tensor([[[[0, 255], [128, 7]]]], dtype=torch.uint8)
    torch.manual_seed(2)
    log_prob = model.log_prob(x)
    torch.manual_seed(2)
    y = model.dequantization(x)[0].double()
    v = 0.1 + 0.8 * y
    z = torch.log(v) - torch.log1p(-v)
    slope = 0.8 / (v * (1 - v))
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = (normal.log_prob(z) + slope.log() - math.log(256)).sum()
    assert_close(log_prob.double()[0], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_initialisation_normalises_every_layer(generator):
    model = image((1, 8, 8))
    x = torch.randint(256, (64, 1, 8, 8), generator=generator, dtype=torch.uint8)
    model.initialize(x)
    z = model.encode(x)
    assert abs(z.mean()) < 0.1
    assert z.std() == pytest.approx(1, abs=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items() if "shift" in name}
    model.initialize(torch.zeros_like(x))
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value), "activations are normalised once"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"event_shape": (1,)}, "at least two"),
        ({"event_shape": (1, 7, 7)}, "even height and width"),
        ({"event_shape": (1, 28, 28), "scales": 4}, "even height and width"),
        ({"event_shape": (2,), "scale": "tan"}, "unknown scale 'tan': did you mean 'tanh'"),
        ({"event_shape": (2,), "bound": 0.0}, "positive"),
        ({"event_shape": (1, 4, 4), "alpha": 0.5}, "alpha"),
    ],
)
def test_wrong_options_are_named(config, words):
    with pytest.raises(ValueError, match=words):
        RealNVP(**config)


@pytest.mark.parametrize("shape", [[1, 8, 8], [5]])
def test_reversible_training_gives_the_same_gradients(generator, shape):
    options = {"event_shape": shape, "hidden_channels": 4, "blocks": 1, "couplings": 6}
    models = [RealNVP(**options, reversible=r).double() for r in (False, True)]
    randomize(models[0], generator, 0.5)
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randint(256, (4, *shape), generator=generator, dtype=torch.uint8)
    x = x if len(shape) == 3 else x.double() / 64
    for model in models:
        torch.manual_seed(5)  # of the dequantization noise
        model.loss(x).backward()
    for (name, p), q in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-8, atol=1e-8, msg=name)
    assert models[0].drift() == 0.0
    assert not models[0].metrics()
    assert 0 < models[1].drift() < 1e-10
    assert float(models[1].metrics()["drift"]) == models[1].drift()


def test_reversible_is_chosen_by_the_couplings():
    assert not RealNVP(event_shape=[4], couplings=8).reversible
    assert RealNVP(event_shape=[4], couplings=32).reversible
    assert RealNVP(event_shape=[1, 64, 64], scales=5, hidden_channels=2, blocks=1).reversible
    with pytest.raises(ValueError, match="choice for reversible"):
        RealNVP(event_shape=[4], reversible="perhaps")
