"""Glow: what the paper says, what users ask of it, and what it answers to bad input."""

import math

import pytest
import torch
from torch.testing import assert_close
from zoo import randomize

import steadyflow
from steadyflow import Glow
from steadyflow.bijections import (
    ActNorm,
    Coupling,
    LearnedPrior,
    UniformDequantization,
    VariationalDequantization,
)
from steadyflow.bijections.shape import MultiScale
from steadyflow.networks import GatedConvNet, GlowNet, ZeroConv, fused_glow

TINY = {"steps": 2, "hidden_channels": 8}


def pixels(generator, shape=(1, 8, 8), batch=6, bits=8):
    return torch.randint(2**bits, (batch, *shape), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("side", "levels", "latents"), [(28, 2, [(2, 14, 14), (8, 7, 7)]), (16, 3, None), (6, 1, None)]
)
def test_levels_follow_the_size_of_the_image(generator, side, levels, latents):
    model = Glow(event_shape=[1, side, side], **TINY)
    multi_scale = next(part for part in model.modules() if isinstance(part, MultiScale))
    assert len(multi_scale.scales) == levels
    if latents is not None:
        assert multi_scale.latent_shapes == latents
    x = pixels(generator, (1, side, side))
    model.initialize(x)
    assert torch.equal(model.decode(model.encode(x)), x)


def test_initialisation_normalises_layer_after_layer(generator):
    model = Glow(event_shape=[3, 8, 8], steps=6, hidden_channels=8)
    x = pixels(generator, (3, 8, 8), 64)
    model.initialize(x)
    assert all(part.initialized for part in model.modules() if isinstance(part, ActNorm))
    # each normalisation sees what the couplings before it have shrunk, so none of it adds up
    std = model.encode(x).detach().std(0)
    assert 0.5 < float(std.mean()) < 1.5


@pytest.mark.parametrize("bits", [1, 5, 8])
def test_a_new_model_is_nearly_uniform_over_the_pixels_it_has(generator, bits):
    model = Glow(event_shape=[1, 8, 8], bits=bits, **TINY)
    x = pixels(generator, batch=256, bits=bits)
    model.initialize(x)
    bits_per_dim = float(model.loss(x).detach()) / math.log(2)
    assert bits - 0.1 < bits_per_dim < bits + 0.5


def test_temperature_reaches_every_level(generator):
    model = randomize(Glow(event_shape=[1, 8, 8], **TINY).double(), generator, 0.3)
    assert len(torch.unique(model.sample(8, temperature=0.0), dim=0)) == 1
    z = model.encode(pixels(generator))
    draw = torch.Generator().manual_seed(3)
    again = torch.Generator().manual_seed(3)
    cold = model.sample(4, temperature=0.5, generator=draw)
    eps = torch.randn(4, z.shape[1], generator=again, dtype=torch.float64)
    assert torch.equal(cold, model.decode(0.5 * eps))


@torch.no_grad()
@pytest.mark.parametrize("scale", ["sigmoid", "tanh", "softsign"])
def test_deep_single_precision_comes_back(generator, scale):
    model = Glow(event_shape=[3, 16, 16], levels=3, steps=32, hidden_channels=8, scale=scale)
    x = pixels(generator, (3, 16, 16), 8)
    for part in model.modules():  # away from the identity, as training goes
        if isinstance(part, ZeroConv):
            part.weight.normal_(0, 0.05, generator=generator)
    model.initialize(x)
    y = model.dequantization(x)[0]
    z, log_det = model.flow.bijection(y)
    back, back_log_det = model.flow.bijection.inverse(z)
    assert (back - y).abs().max() <= 1e-4
    assert_close(back_log_det, -log_det, rtol=1e-4, atol=0)


@pytest.mark.parametrize("num_classes", [None, 3])
def test_reversible_training_gives_the_same_gradients(generator, num_classes):
    shape = {"event_shape": [1, 8, 8], "num_classes": num_classes, "steps": 8}
    models = [Glow(**shape, hidden_channels=8, reversible=r).double() for r in (False, True)]
    x = pixels(generator)
    labels = None if num_classes is None else torch.arange(6) % num_classes
    models[0].initialize(x, labels)
    with torch.no_grad():
        for p in models[0].parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator))
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        torch.manual_seed(5)  # of the dequantization noise
        model.loss(x, labels).backward()
    for (name, p), q in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert_close(q.grad, p.grad, rtol=1e-8, atol=1e-8, msg=name)
    assert models[0].drift() == 0.0
    assert 0 < models[1].drift() < 1e-10


def test_reversible_is_chosen_by_depth():
    shape = {"event_shape": [1, 8, 8], "hidden_channels": 4, "levels": 2}
    assert not Glow(**shape, steps=4).reversible
    assert Glow(**shape, steps=16).reversible
    assert not Glow(**shape, steps=16, reversible=False).reversible


def test_a_step_lowers_the_loss(generator):
    model = Glow(event_shape=[1, 8, 8], reversible=True, num_classes=2, **TINY)
    x = (pixels(generator, batch=64).float() * torch.linspace(0, 1, 8)).to(torch.uint8)
    labels = torch.arange(64) % 2
    model.initialize(x, labels)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = model.loss(x, labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1
    assert all(math.isfinite(value) for value in losses)


@torch.no_grad()
def test_many_examples_are_worked_off_in_parts(generator, monkeypatch):
    monkeypatch.setattr(fused_glow, "attempt", lambda *_: None)
    net = randomize(GlowNet(2, 4, 128, context_features=3), generator)
    x = torch.randn(40, 2, 16, 16, generator=generator)
    context = torch.randn(40, 3, generator=generator)
    whole = net._evaluate(x, net.context(context))
    assert_close(net(x, context), whole, rtol=1e-4, atol=1e-4)


def test_networks_start_at_zero_and_see_no_further_than_clip(generator):
    x = torch.randn(2, 3, 4, 4, generator=generator)
    for net in (GlowNet(3, 5, 8, clip=10.0), GatedConvNet(3, 5, 8, clip=10.0, attention=True)):
        assert not net(x).any()
        randomize(net, generator)
        far = 1e4 * x.sign()
        assert_close(net(far), net(10 * far), rtol=0, atol=0)


def test_variational_noise_starts_uniform_and_keeps_the_pixels(generator):
    x = pixels(generator, (2, 4, 4), 64)
    noise = VariationalDequantization((2, 4, 4)).double()
    torch.manual_seed(2)
    y, log_det = noise(x)
    torch.manual_seed(2)
    uniform, same = UniformDequantization()(x)
    assert_close(y, uniform.double(), rtol=0, atol=1e-6)
    assert_close(log_det, same.double(), rtol=0, atol=1e-6)
    randomize(noise, generator)
    y, log_det = noise(x)
    assert torch.equal(noise.inverse(y), x)
    assert log_det.isfinite().all()


@torch.no_grad()
def test_the_density_of_variational_noise_integrates_to_one(generator):
    # E_q[1 / q(u)] over the unit cube is its volume: here 4 variables, 2^16 draws
    noise = randomize(VariationalDequantization((1, 2, 2), bits=3).double(), generator, 0.5)
    x = pixels(generator, (1, 2, 2), 1, bits=3).expand(2**16, -1, -1, -1)
    weight = (noise(x)[1] + 4 * 3 * math.log(2)).exp()
    error = float(weight.std()) / 2**8
    assert error < 0.02
    assert abs(float(weight.mean()) - 1) < 4 * error


def test_learned_prior_whitens(generator):
    prior = randomize(LearnedPrior((2, 3, 3)).double(), generator)
    mean, std = prior.inverse(torch.zeros(1, 2, 3, 3).double())[0], prior.inverse
    one = std(torch.ones(1, 2, 3, 3).double())[0] - mean
    x = mean + one * torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64)
    truth = torch.distributions.Normal(mean, one).log_prob(x).flatten(1).sum(1)
    z, log_det = prior(x)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
    assert_close(normal + log_det, truth, rtol=1e-10, atol=1e-10)


def test_couplings_and_networks_by_name():
    for network, kind in (("convolution", GlowNet), ("gated", GatedConvNet)):
        model = Glow(event_shape=[1, 4, 4], network=network, **TINY)
        couplings = [part for part in model.modules() if isinstance(part, Coupling)]
        assert sum(isinstance(c.conditioner, kind) for c in couplings) == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"event_shape": [2]}, "acts on images"),
        ({"event_shape": [1, 7, 8]}, "pad them"),
        ({"event_shape": [1, 28, 28], "levels": 3}, "levels must be 1 to 2, got 3"),
        ({"event_shape": [1, 8, 8], "levels": 0}, "levels must be 1 to 3, got 0"),
        ({"event_shape": [1, 8, 8], "steps": 0}, "steps must be at least 1"),
        ({"event_shape": [1, 8, 8], "permutation": "lu"}, "did you mean 'plu'"),
        ({"event_shape": [1, 8, 8], "coupling": "afine"}, "did you mean 'affine'"),
        ({"event_shape": [1, 8, 8], "network": "conv"}, "did you mean 'convolution'"),
        ({"event_shape": [1, 8, 8], "scale": "tan"}, "did you mean 'tanh'"),
        ({"event_shape": [1, 8, 8], "dequantization": "none"}, "unknown dequantization"),
        ({"event_shape": [1, 8, 8], "reversible": "maybe"}, "reversible"),
        ({"event_shape": [1, 8, 8], "bits": 17}, "bits must be between 1 and 16"),
        ({"event_shape": [1, 8, 8], "bound": 0.0}, "bound"),
        (
            {"event_shape": [1, 8, 8], "network": "attention", "hidden_channels": 6},
            "not a multiple of 4",
        ),
    ],
)
def test_a_wrong_constructor_is_answered(given, message):
    with pytest.raises(ValueError, match=message):
        Glow(**({"steps": 1, "hidden_channels": 4} | given))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x[:, :, :4], ValueError, "expected examples of shape"),
        (lambda x: x.repeat(1, 3, 1, 1), ValueError, "expected examples of shape"),
        (lambda x: x.float() / 255, TypeError, "bits=0"),
        (lambda x: x | 32, ValueError, "pixels of 5 bits lie in 0 to 31"),
        (lambda x: x.int() - 40, ValueError, "pixels of 5 bits lie in 0 to 31"),
    ],
)
def test_wrong_images_are_answered(generator, change, error, message):
    model = Glow(event_shape=[1, 8, 8], bits=5, **TINY)
    with pytest.raises(error, match=message):
        model.log_prob(change(pixels(generator, bits=5)))


def test_wrong_temperatures_and_labels_are_answered(generator):
    model = Glow(event_shape=[1, 8, 8], num_classes=3, **TINY)
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="temperature"):
        model.sample(2, labels, temperature=-1.0)
    with pytest.raises(ValueError, match="label 3 is out of range"):
        model.sample(2, labels + 3)
    with pytest.raises(ValueError, match="needs class labels"):
        model.log_prob(pixels(generator))


def test_constant_first_batches_are_warned_of(generator):
    model = Glow(event_shape=[1, 8, 8], bits=0, **TINY)
    with pytest.warns(UserWarning, match="constant"):
        model.initialize(torch.zeros(4, 1, 8, 8))
    assert model.log_prob(torch.zeros(1, 1, 8, 8)).isfinite().all()


def test_reversible_training_in_parts_takes_the_same_way():
    losses = []
    for reversible in (False, True):
        result = steadyflow.fit(
            "glow",
            "digits",
            model_options={**TINY, "levels": 1, "reversible": reversible},
            steps=4,
            batch_size=32,
            accumulate=2,
            precision="float64",
            log_every=1,
            progress=False,
        )
        losses.append([row["loss"] for row in result.history if row["split"] == "train"])
        assert ("drift" in result.history[0]) == reversible
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_initialisation_evaluates_no_more_than_it_needs(generator):
    calls = []
    model = Glow(event_shape=[1, 8, 8], levels=2, **TINY)
    for part in model.modules():
        if isinstance(part, GlowNet):
            part.register_forward_hook(lambda *_: calls.append(1))
    model.initialize(pixels(generator))
    # in each of two levels, the first of two steps once for the normalisation after it, and both
    # once for what follows the level: the second level, and the prior of the last one
    assert len(calls) == 2 * (1 + 2)
