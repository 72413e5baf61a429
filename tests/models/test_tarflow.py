"""TarFlow: the identity at the start, denoising, classes, training, mistakes."""

import math

import pytest
import torch
from torch.testing import assert_close
from zoo import randomize

from steadyflow import TarFlow, data, fit
from steadyflow.bijections import AutoregressiveTransformer, GaussianNoise

SMALL = {"patch_size": 2, "channels": 16, "blocks": 2, "layers_per_block": 1}


def tiny(**options):
    return TarFlow(**{"event_shape": [1, 4, 6], **SMALL, **options})


def test_it_starts_as_the_exact_identity():
    model = tiny(event_shape=[3, 4, 4], bits=0, patch_size=1, layers_per_block=2)
    x = torch.randn(5, 3, 4, 4)
    z = model.encode(x)
    assert torch.equal(z, x)
    assert_close(model.log_prob(x), torch.distributions.Normal(0, 1).log_prob(x).sum((1, 2, 3)))


@torch.no_grad()
def test_bits_of_a_constant_image_are_those_of_the_formula():
    model = tiny(gaussianize=False).double()  # the identity: the density of y is a normal
    x = torch.full((200, 1, 4, 6), 77, dtype=torch.uint8)
    bits = -model.log_prob(x) / (24 * math.log(2))
    edges = torch.tensor([77 / 256, 78 / 256], dtype=torch.float64)
    mean_square = (edges[1] ** 3 - edges[0] ** 3) / 3 * 256
    truth = (0.5 * mean_square + 0.5 * math.log(2 * math.pi) + math.log(256)) / math.log(2)
    assert float(bits.mean()) == pytest.approx(float(truth), abs=1e-5)


@pytest.mark.parametrize(
    ("shape", "patch"),
    [((1, 28, 28), 4), ((1, 8, 8), 1), ((3, 32, 32), 4), ((1, 13, 17), 1), ((3, 64, 48), 8)],
)
def test_the_patch_size_that_is_left_open(shape, patch):
    model = TarFlow(event_shape=shape, channels=8, blocks=1, layers_per_block=1)
    assert model.flow.bijection[-1].bijection.patch == patch


def test_layers_of_each_block_and_orders():
    model = tiny(blocks=3, layers_per_block=[4, 1, 2], orders="learned")
    blocks = [b for b in model.modules() if isinstance(b, AutoregressiveTransformer)]
    assert [len(b.network.layers) for b in blocks] == [4, 1, 2]
    assert TarFlow(**model.config).config == model.config


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["sequential", "cached", "jacobi", "windowed", "auto"])
def test_samplers_draw_the_same_images(sampler, generator):
    model = randomize(tiny(num_classes=3).double(), generator)
    labels = torch.tensor([0, 2, 1, 1])

    def draw(sampler, **options):
        seeded = torch.Generator().manual_seed(4)
        return model.sample(4, labels, generator=seeded, sampler=sampler, **options)

    for options in ({}, {"guidance": 1.5}, {"guidance": 0.5, "rule": "variance"}):
        assert torch.equal(draw(sampler, **options), draw("cached", **options))
    assert torch.equal(draw(sampler, guidance=0.0), draw("cached"))


@torch.no_grad()
def test_decoding_reports_what_each_block_took(generator):
    model = randomize(tiny().double(), generator)
    z = torch.randn(3, 1, 4, 6, generator=generator, dtype=torch.float64)
    found = model.decode_with_report(z, sampler="jacobi")
    assert [block.sampler for block in found.blocks] == ["jacobi"] * 2
    assert all(1 <= block.sweeps <= 6 and block.seconds > 0 for block in found.blocks)
    assert str(found).splitlines()[0].startswith("block 2  jacobi: ")
    assert_close(model.flow.bijection(found.x)[0], z, rtol=0, atol=1e-9)


def gaussian(model, generator):
    """Makes the flow a normal distribution of independent pixels; gives its deviation."""
    with torch.no_grad():
        norm = model.flow.bijection[0]
        norm.shift.fill_(-0.5)
        norm.log_scale.fill_(-math.log(0.3))
    return 0.3


def test_denoising_gives_the_posterior_mean_of_a_normal(generator):
    model = tiny(sigma=0.2, num_classes=2).double()
    std = gaussian(model, generator)
    y = 0.5 + std * torch.randn(4, 1, 4, 6, generator=generator, dtype=torch.float64)
    noise = 0.1  # sigma in the unit of pixels on [0, 1]
    clean = 0.5 + (y - 0.5) * (std**2 - noise**2) / std**2
    labels = torch.tensor([0, 1, 1, 0])
    assert_close(model.denoised(y, labels), clean, rtol=1e-10, atol=1e-10)
    one_by_one = torch.cat([model.denoised(y[i : i + 1], labels[i : i + 1]) for i in range(4)])
    assert_close(one_by_one, clean, rtol=1e-10, atol=1e-10)
    drawn = model.sample(3, torch.tensor([0]), denoise=True)
    assert drawn.dtype == torch.uint8
    assert drawn.shape == (3, 1, 4, 6)


@torch.no_grad()
def test_normal_noise_has_the_width_asked_for():
    x = torch.full((100, 1, 20, 20), 128, dtype=torch.uint8)
    y, log_det = GaussianNoise(0.1)(x)
    assert not log_det.any()
    assert float(2 * y.std()) == pytest.approx(0.1, rel=0.02)
    assert float(y.mean()) == pytest.approx(128.5 / 256, abs=1e-3)
    real, _ = GaussianNoise(0.1, None)(x.float())
    assert float(real.std()) == pytest.approx(0.1, rel=0.02)
    assert tiny(sigma=0.1).likelihood == "none"
    assert tiny().likelihood == "bound"


@torch.no_grad()
def test_probabilities_of_classes_are_those_of_bayes(generator):
    model = randomize(tiny(num_classes=3).double(), generator, gain=0.5)
    x = torch.randint(256, (6, 1, 4, 6), generator=generator, dtype=torch.uint8)
    torch.manual_seed(1)
    probabilities = model.predict_proba(x)
    assert probabilities.shape == (6, 3)
    assert_close(probabilities.sum(1), torch.ones(6, dtype=torch.float64))
    scores = []
    for label in range(3):
        torch.manual_seed(1)  # the same noise for every class
        scores.append(model.log_prob(x, torch.tensor([label])))
    assert_close(probabilities, torch.stack(scores, 1).softmax(1))
    prior = torch.tensor([0.2, 0.8, 0.0])
    torch.manual_seed(1)
    weighted = model.predict_proba(x, prior=prior)
    expected = (torch.stack(scores, 1) + prior.log()).softmax(1)
    assert_close(weighted, expected)
    assert model.predict_proba(x, draws=3).shape == (6, 3)


def test_dropping_labels_happens_in_training_only(generator):
    model = randomize(tiny(num_classes=2, drop_context=0.9), generator)
    x = torch.randint(256, (32, 1, 4, 6), generator=generator, dtype=torch.uint8)
    labels = torch.zeros(32, dtype=torch.int64)

    def loss(mode):
        torch.manual_seed(0)
        return model.train(mode).loss(x, labels).item()

    torch.manual_seed(0)
    plain = -model.log_prob(x, labels).mean().item() / 24
    assert loss(False) == pytest.approx(plain, rel=1e-6)
    assert loss(True) != pytest.approx(plain, rel=1e-6)


def test_training_improves_on_the_marginals_and_draws_finite_images():
    digits = data.open("digits")
    result = fit(
        "tarflow",
        digits,
        steps=120,
        batch_size=64,
        progress=False,
        model_options={"patch_size": 2, "channels": 32, "blocks": 2, "layers_per_block": [1]},
    )
    x = digits.test.x
    fresh = TarFlow(**result.model.config)
    fresh.initialize(digits.train.x)
    with torch.no_grad():
        bits = [-m.log_prob(x).mean() / (64 * math.log(2)) for m in (fresh, result.model)]
    assert bits[1] < bits[0] - 0.1, bits
    z = torch.randn(64, 1, 8, 8)
    found = result.model.decode_with_report(z)
    assert found.x.isfinite().all()
    assert_close(result.model.flow.bijection(found.x)[0], z, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_two_processes_train_what_one_trains():
    digits = data.open("digits")
    options = {"steps": 6, "batch_size": 32, "progress": False, "device": "cpu"}
    built = {**SMALL, "event_shape": [1, 8, 8], "bits": 5, "orders": "learned"}
    one = fit(TarFlow(**built), digits, **options)
    torch.manual_seed(0)
    two = fit(TarFlow(**built), digits, processes=2, **options)
    assert two.steps == one.steps == 6
    assert two.best_validation_loss is not None


def test_bf16_training_keeps_the_density_in_single(generator):
    model = randomize(tiny(channels=64), generator, gain=0.5)
    x = torch.randint(256, (16, 1, 4, 6), generator=generator, dtype=torch.uint8)
    torch.manual_seed(0)
    full = model.loss(x)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.loss(x)
    assert mixed.dtype == torch.float32
    assert abs(float((mixed - full).detach())) / math.log(2) < 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"event_shape": [4]}, "TarFlow acts on images"),
        ({"event_shape": [1, 1, 1]}, "more than one pixel"),
        ({"event_shape": [1, 30, 30], "patch_size": 4}, "patches of 4 x 4 do not tile .* 30 x 30"),
        ({"channels": 64, "heads": 5}, "64 channels can not be divided among 5 heads"),
        ({"blocks": 0}, "blocks must be at least 1"),
        ({"layers_per_block": [1, 2, 3]}, "one for each of the 2 blocks"),
        ({"orders": "flp"}, "did you mean 'flip'"),
        ({"sigma": -0.1}, "sigma must be a number of at least 0, got -0.1"),
        ({"drop_context": 1.0}, "drop_context must be from 0 to below 1"),
        ({"patch_size": -2}, "do not tile"),
    ],
)
def test_mistakes_of_building(options, words):
    with pytest.raises(ValueError, match=words):
        tiny(**options)


@pytest.mark.parametrize(
    ("built", "options", "words"),
    [
        ({"num_classes": 3}, {}, "needs class labels"),
        ({"num_classes": 3}, {"context": torch.tensor([3])}, "class label 3 is out of range"),
        ({"num_classes": 3}, {"context": torch.tensor([-1])}, "class label -1 is out of range"),
        ({}, {"context": torch.tensor([0])}, "unconditional"),
        ({}, {"guidance": -1.0}, "guidance must be a number of at least 0, got -1"),
        ({}, {"guidance": 1.0}, "no classes: give an attention_temperature"),
        (
            {"num_classes": 3, "drop_context": 0.0},
            {"guidance": 1.0, "context": torch.tensor([0])},
            "drop_context=0",
        ),
        ({}, {"guidance": 1.0, "attention_temperature": 0.0}, "attention_temperature must be"),
        ({}, {"rule": "liner", "guidance": 1.0}, "did you mean 'linear'"),
        ({}, {"sampler": "jacoby"}, "did you mean 'jacobi'"),
        ({}, {"denoise": True}, "sigma 0"),
        ({}, {"temperature": -1.0}, "temperature must be"),
    ],
)
def test_mistakes_of_sampling(built, options, words):
    with pytest.raises(ValueError, match=words):
        tiny(**built).sample(2, **options)


def test_a_batch_of_none_is_empty():
    for sampler in ("cached", "jacobi", "windowed", "sequential", "auto"):
        assert tiny(sigma=0.1).sample(0, sampler=sampler, denoise=True).shape == (0, 1, 4, 6)
    with pytest.raises(ValueError, match="expected latents of shape"):
        tiny().decode(torch.randn(2, 6, 4))
