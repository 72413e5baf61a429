"""f-VAE where everything has a closed form, and its special cases against direct formulas."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from zoo import randomize

from steadyflow import FVAE, Glow
from steadyflow.bijections.bijection import sum_event
from steadyflow.models.model import GenerativeModel
from steadyflow.observations import GaussianObservation, LearnedScale, LogisticObservation

TINY = 1e-10
STD = 0.25  # exact in binary


def normal_log_density(x: Tensor, mean: Tensor, std: Tensor | float) -> Tensor:
    return sum_event(torch.distributions.Normal(mean, std).log_prob(x))


class LinearGaussian:
    """x = A w + b + s e in 3 dimensions with 2 latents: its marginal and posterior are normal.

    The columns of A are orthogonal, so that the posterior is independent over the latents.
    """

    def __init__(self):
        q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
        self.a = q[:, :2] * torch.tensor([1.5, 0.7], dtype=torch.float64)
        self.b = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
        gram = (self.a**2).sum(0)
        self.posterior_std = 1 / torch.sqrt(1 + gram / STD**2)
        self.gain = (self.posterior_std / STD) ** 2 * self.a  # E[w|x] = gain' (x - b)

    def log_marginal(self, x):
        covariance = self.a @ self.a.T + STD**2 * torch.eye(3, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(self.b, covariance).log_prob(x)

    def sample(self, n):
        w = torch.randn(n, 2, dtype=torch.float64)
        return w @ self.a.T + self.b + STD * torch.randn(n, 3, dtype=torch.float64)

    @torch.no_grad()
    def model(self, posterior_std=None):
        """The f-VAE with this decoder, and this posterior if no other std is given."""
        model = FVAE(
            event_shape=[3],
            latent_features=2,
            hidden_features=[],
            posterior="gaussian",
            prior="normal",
            decoder_std=STD,
        ).double()
        for network in (model.encoder, model.decoder):
            network.projection.weight.zero_()
        std = self.posterior_std if posterior_std is None else posterior_std
        encoder, decoder = model.encoder.mlp.layers[0], model.decoder.mlp.layers[0]
        encoder.weight[:2], encoder.bias[:2] = self.gain.T, -self.gain.T @ self.b
        encoder.bias[2:] = raw_for(model.scale, std)
        decoder.weight.copy_(self.a)
        decoder.bias.copy_(self.b)
        return model


def raw_for(scale, std):
    """The plane of the encoder that gives this std, beside the learned number of the model."""
    return 8 * torch.atanh(torch.log(std - scale.floor) / 8) - 3 * scale.raw


@torch.no_grad()
def test_with_the_exact_posterior_every_draw_of_the_bound_is_the_marginal_likelihood():
    exact = LinearGaussian()
    model, x = exact.model(), exact.sample(50)
    for samples in (1, 5):
        assert_close(model.log_prob(x, samples=samples), exact.log_marginal(x), rtol=0, atol=1e-9)


@torch.no_grad()
def test_the_evidence_lower_bound_with_the_exact_posterior_is_the_marginal_likelihood():
    exact = LinearGaussian()
    model, x = exact.model(), exact.sample(1)
    likelihood, rate = model.elbo(x.expand(100_000, -1))
    error = (likelihood - rate).std() / math.sqrt(100_000)
    assert abs((likelihood - rate).mean() - exact.log_marginal(x)[0]) < 4 * error


@torch.no_grad()
def test_the_bound_rises_with_the_samples_and_never_above_the_truth():
    exact = LinearGaussian()
    model = exact.model(posterior_std=2.5 * exact.posterior_std)
    x = exact.sample(1).expand(4000, -1)
    truth = exact.log_marginal(x[:1])[0]
    bounds = [model.log_prob(x, samples=k) for k in (1, 2, 4, 16, 64)]
    means = torch.stack([b.mean() for b in bounds])
    errors = torch.stack([b.std() / math.sqrt(len(b)) for b in bounds])
    assert (means.diff() > -3 * (errors[1:] + errors[:-1])).all()
    assert means[0] < truth - 0.5, "one sample of a wide posterior is far below"
    assert (means < truth + 3 * errors).all()
    assert truth - means[-1] < 0.05, "many samples come near"


@torch.no_grad()
def test_sampled_data_have_the_moments_of_the_marginal():
    exact = LinearGaussian()
    x = exact.model().sample(40_000)
    covariance = exact.a @ exact.a.T + STD**2 * torch.eye(3, dtype=torch.float64)
    assert_close(x.mean(0), exact.b, rtol=0, atol=4 * 1.5 / 200)
    assert_close(x.T.cov(), covariance, rtol=0, atol=4 * 1.5**2 * math.sqrt(2) / 200)


@pytest.mark.parametrize("shape", [(5,), (1, 4, 4)])
def test_the_plain_vae_is_a_directly_written_one(shape, generator):
    options = {"latent_features": 2} if len(shape) == 1 else {"latent_channels": 2, "bits": 0}
    model = FVAE(
        event_shape=shape,
        posterior="gaussian",
        prior="normal",
        decoder_std=STD,
        hidden_features=[8],
        hidden_channels=8,
        blocks=1,
        squeezes=1,
        **options,
    ).double()
    randomize(model, generator, gain=0.3)
    x = torch.randn(6, *shape, dtype=torch.float64)

    torch.manual_seed(4)
    loss = model.loss(x)

    torch.manual_seed(4)
    v, change = (x, 0.0) if len(shape) == 3 else model.standardization(x)
    mean, raw = model.encoder(v).chunk(2, 1)
    std = 1e-3 + torch.exp(8 * torch.tanh((3 * model.scale.raw + raw) / 8))
    w = mean + std * torch.randn(6, *model.latent_shape, dtype=torch.float64)
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    )
    terms = normal_log_density(v, model.decoder(w), STD) - divergence.flatten(1).sum(1) + change
    assert_close(loss, -terms.mean() / math.prod(shape), rtol=0, atol=TINY)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(3,), (1, 4, 4)])
def test_the_pure_flow_on_noisy_data_example_by_example(shape, generator):
    model = FVAE(
        event_shape=shape,
        network="identity",
        posterior_std=STD,
        decoder_std=STD,
        hidden_features=[8],
        flow_channels=8,
        flow_layers=2,
        bits=0,
    ).double()
    randomize(model, generator)
    x = torch.randn(20, *shape, dtype=torch.float64)
    torch.manual_seed(4)
    bound = model.log_prob(x)
    torch.manual_seed(4)
    u = torch.randn(20, *shape, dtype=torch.float64)
    v, change = (x, 0.0) if len(shape) == 3 else model.standardization(x)
    assert_close(bound, model.prior.log_prob(v + STD * u) + change, rtol=0, atol=TINY)


@torch.no_grad()
def test_the_pure_flow_on_noisy_pixels_example_by_example(generator):
    model = FVAE(
        event_shape=[1, 4, 4],
        network="identity",
        posterior_std=STD,
        decoder_std=STD,
        flow_channels=8,
        flow_layers=2,
        bits=3,
    ).double()
    randomize(model, generator)
    x = torch.randint(0, 8, (20, 1, 4, 4), generator=generator)
    torch.manual_seed(4)
    bound = model.log_prob(x)
    torch.manual_seed(4)
    y, change = model.dequantization(x)
    noisy = (2 * y.double() - 1) + STD * torch.randn(20, 1, 4, 4, dtype=torch.float64)
    expected = model.prior.log_prob(noisy) + change + 16 * math.log(2)
    assert_close(bound, expected, rtol=0, atol=1e-9)


def test_its_prior_on_images_is_glow(generator):
    model = FVAE(event_shape=[1, 4, 4], network="identity", flow_layers=2, flow_channels=8, bits=0)
    glow = Glow(event_shape=[1, 4, 4], steps=2, hidden_channels=8, bits=0)
    w = torch.randn(3, 1, 4, 4)
    model.prior.bijection.load_state_dict(glow.flow.bijection[1].state_dict())
    assert_close(model.prior.log_prob(w), glow.log_prob(w + 0.5))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["spline-flow", "maf", "realnvp"])
def test_a_flow_posterior_is_a_normalised_density(kind, generator):
    # under it, the mean of p / q is the integral of p: here of N(0, I) itself
    model = FVAE(
        event_shape=[2],
        posterior="flow",
        flow=kind,
        prior="normal",
        flow_layers=2,
        hidden_features=[8],
    ).double()
    randomize(model, generator, gain=0.5)
    x = torch.randn(1, 2, dtype=torch.float64).expand(20_000, -1)
    v, _ = model._to_unit(x)
    w, log_q = model._draw(v, None)
    std = w.std(0)
    wide = torch.distributions.Normal(w.mean(0), 0.8 * std)
    ratio = torch.exp(wide.log_prob(w).sum(1) - log_q)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(len(ratio))


def _noise_to_latent(model: FVAE, u: Tensor, v: Tensor) -> Tensor:
    mean, log_std, given = model._encoded(v, None)
    return (mean + log_std.exp() * model.noise.bijection.inverse(u[None], given)[0])[0]


def test_log_q_is_that_of_the_autograd_jacobian(generator):
    model = FVAE(event_shape=[3], posterior="flow", flow_layers=2, hidden_features=[8]).double()
    randomize(model, generator)
    v = torch.randn(1, 3, dtype=torch.float64)
    torch.manual_seed(4)
    _, log_q = model._draw(v, None)
    torch.manual_seed(4)
    u = torch.randn(1, 3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda e: _noise_to_latent(model, e, v), u[0])
    expected = normal_log_density(u, torch.zeros(3), 1.0) - torch.linalg.slogdet(jacobian)[1]
    assert_close(log_q, expected, rtol=0, atol=1e-9)


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, and the bits of the integers that it takes; 0 for real numbers."""

    build: Callable[[], FVAE]
    bits: int = 0

    def x(self, batch, generator):
        shape = (batch, *self.build().event_shape)
        if self.bits:
            return torch.randint(0, 2**self.bits, shape, generator=generator, dtype=torch.uint8)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def given(self, batch, generator):
        model = self.build()
        if model.num_classes is not None:
            return torch.randint(0, model.num_classes, (batch,), generator=generator)
        if model.context_features is None:
            return None
        shape = (batch, model.context_features)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def random(self, generator, dtype=torch.float64):
        return randomize(self.build().to(dtype), generator, gain=0.5).eval()


_image: Any = {
    "event_shape": [1, 4, 4],
    "blocks": 1,
    "hidden_channels": 6,
    "flow_layers": 2,
    "flow_channels": 6,
}
_vector: Any = {"hidden_features": [8], "flow_layers": 2}

CASES = {
    "vector": Case(lambda: FVAE(event_shape=[3], **_vector)),
    "vector-narrow-classes": Case(
        lambda: FVAE(event_shape=[5], latent_features=2, num_classes=3, **_vector)
    ),
    "vector-one-latent": Case(lambda: FVAE(event_shape=[2], latent_features=1, **_vector)),
    "vector-vae-context": Case(
        lambda: FVAE(
            event_shape=[4],
            context_features=2,
            posterior="gaussian",
            prior="normal",
            decoder_scale="network",
            **_vector,
        )
    ),
    "vector-flow-posterior": Case(
        lambda: FVAE(event_shape=[3], posterior="flow", flow="maf", **_vector)
    ),
    "image": Case(lambda: FVAE(squeezes=1, bits=3, **_image), bits=3),
    "image-odd-map": Case(
        lambda: FVAE(**{**_image, "event_shape": [3, 6, 6]}, latent_channels=2, bits=3), bits=3
    ),
    "image-logistic-classes": Case(
        lambda: FVAE(
            decoder="logistic", posterior="flow", num_classes=2, squeezes=1, bits=3, **_image
        ),
        bits=3,
    ),
    "image-realnvp": Case(
        lambda: FVAE(flow="realnvp", decoder_scale="variable", squeezes=1, bits=3, **_image),
        bits=3,
    ),
    "image-real": Case(lambda: FVAE(posterior="gaussian", squeezes=1, bits=0, **_image)),
}
BATCH = 4


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@torch.no_grad()
def test_shapes_and_dtypes(case, generator):
    model = case.random(generator)
    x, context = case.x(BATCH, generator), case.given(BATCH, generator)
    assert model.likelihood == "bound"
    assert model.log_prob(x, context).shape == (BATCH,)
    assert model.log_prob(x, context, samples=3).dtype == torch.float64
    assert model.loss(x, context).shape == ()
    z = model.encode(x, context)
    assert z.flatten(1).shape == (BATCH, math.prod(model.latent_shape))
    assert model.encode(x, context, draw=True).shape == z.shape
    for made in (model.decode(z, context), model.sample(BATCH, context)):
        assert (made.shape, made.dtype) == (x.shape, x.dtype)
    noisy = model.sample(BATCH, context, noise=True)
    assert (noisy.shape, noisy.dtype) == (x.shape, x.dtype)
    assert model.sample(0, None if context is None else context[:0]).shape[0] == 0


def test_gradients_reach_every_parameter(case, generator):
    model = case.random(generator).train()
    model.loss(case.x(BATCH, generator), case.given(BATCH, generator)).backward()
    single = model.latent_shape == (1,)  # the first variable of a masked network sees no other
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or (single and name.startswith("prior")), name


@torch.no_grad()
def test_context_matters(generator):
    for case in CASES.values():
        context = case.given(BATCH, generator)
        if context is None:
            continue
        model, x = case.random(generator), case.x(BATCH, generator)
        other = (context + 1) % model.num_classes if model.num_classes else context + 1
        z = model.encode(x, context)
        assert (model.encode(x, other) != z).flatten(1).any(1).all()
        here, there = (model._decoded(z, model.condition(c, BATCH)) for c in (context, other))
        assert (here != there).flatten(1).any(1).all()


@torch.no_grad()
def test_examples_do_not_see_each_other(case, generator):
    model = case.random(generator)
    x, context = case.x(BATCH, generator), case.given(BATCH, generator)
    first = model.encode(x[:1], None if context is None else context[:1])
    assert_close(first, model.encode(x, context)[:1], rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_saved_models_are_the_same_bit_for_bit(case, generator, tmp_path):
    model = case.random(generator)
    model.save_pretrained(tmp_path / "model")
    other = GenerativeModel.from_pretrained(tmp_path / "model")
    x, context = case.x(BATCH, generator), case.given(BATCH, generator)

    def drawn(model):
        torch.manual_seed(7)
        return model.sample(3, context[:3] if context is not None else None), model(x, context)

    for ours, theirs in zip(drawn(model), drawn(other), strict=True):
        assert torch.equal(ours, theirs)


@torch.no_grad()
def test_extreme_inputs_stay_finite(case, generator):
    model = case.random(generator)
    x, context = case.x(BATCH, generator), case.given(BATCH, generator)
    extremes = [torch.zeros_like(x), torch.full_like(x, 2**case.bits - 1)]
    for extreme in extremes if case.bits else [1e3 * x]:
        assert model.log_prob(extreme, context).isfinite().all()
        assert model.decode(model.encode(extreme, context), context).isfinite().all()


@torch.no_grad()
def test_it_starts_as_an_identity_or_a_projection(case, generator):
    model = case.build().double()
    x, context = case.x(64, generator), case.given(64, generator)
    model.initialize(x, context)
    assert model.log_prob(x, context).isfinite().all()
    back = model.decode(model.encode(x, context), context)
    if math.prod(model.latent_shape) == model.dimensions:
        assert_close(back, x, rtol=0, atol=0 if case.bits else 1e-6)
    elif not case.bits:
        assert ((back - x) ** 2).mean() < ((x - x.mean(0)) ** 2).mean()


@torch.no_grad()
def test_autocast_keeps_log_prob_in_single(case, generator):
    model = case.random(generator, torch.float32)
    x, context = case.x(BATCH, generator), case.given(BATCH, generator)
    x = x if case.bits else x.float()
    context = context if context is None or model.num_classes else context.float()
    with torch.autocast("cpu", torch.bfloat16):
        log_prob, loss = model.log_prob(x, context), model.loss(x, context)
    assert log_prob.dtype == loss.dtype == torch.float32
    assert log_prob.isfinite().all()


@torch.no_grad()
def test_samples_follow_the_generator_alone(case, generator):
    model, context = case.random(generator), case.given(BATCH, generator)

    def draw(seed):
        return model.sample(BATCH, context, generator=generator.manual_seed(seed), noise=True)

    state = torch.get_rng_state()
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_annealing_and_free_bits_act_in_training_only():
    options = {"event_shape": [3], "posterior": "gaussian", "prior": "normal", **_vector}
    model, x = FVAE(anneal=0.5, **options), torch.randn(8, 3)
    parts = []
    for progress, training in ((0.0, True), (0.25, True), (0.75, True), (0.0, False)):
        model.train(training).begin_step(progress)
        torch.manual_seed(1)
        parts.append(model.loss(x).item())
    reconstruction, rate = (float(v) / 3 for v in model.metrics().values())
    assert parts == pytest.approx([reconstruction + w * rate for w in (0, 0.5, 1, 1)])

    free = FVAE(free_bits=100.0, **options)
    free.loss(x).backward()
    torch.manual_seed(1)
    assert free.loss(x).item() > 90
    assert not free.encoder.mlp.layers[-1].bias.grad[3:].isnan().any()


def test_a_scale_has_its_floor_and_its_ceiling():
    scale = LearnedScale((), floor=0.01)
    assert scale(torch.zeros(())).item() == pytest.approx(0.11)
    for moved in (-1e9, 1e9):
        value = scale(torch.zeros(()), torch.tensor(moved))
        assert 0.01 < float(value) < 3000
    assert float(LearnedScale((), fixed=0.3)(torch.zeros((), dtype=torch.float64))) == 0.3


@pytest.mark.parametrize("scale", [1e-3, 0.1, 30.0])
def test_logistic_probabilities_of_all_integers_sum_to_one(scale):
    levels = 16
    observation = LogisticObservation((1,), bits=4, scale="scalar", fixed=scale)
    x = ((2 * torch.arange(levels, dtype=torch.float64) + 1) / levels - 1)[:, None]
    for mean in (-3.0, -0.97, 0.01, 1.0, 50.0):
        log_p = observation.log_prob(x, torch.full_like(x, mean))
        assert log_p.isfinite().all()
        assert_close(log_p.logsumexp(0), torch.zeros(()).double(), rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gaussian", "logistic"])
def test_observations_are_drawn_from_their_own_law(kind, generator):
    size = 100_000
    output = torch.full((size, 1), 0.2, dtype=torch.float64)
    if kind == "gaussian":
        x = GaussianObservation((1,), fixed=0.3).sample(output, generator=generator)
        assert_close(x.mean(), torch.tensor(0.2).double(), rtol=0, atol=4 * 0.3 / size**0.5)
        assert_close(x.std(), torch.tensor(0.3).double(), rtol=0.02, atol=0)
        return
    observation = LogisticObservation((1,), bits=2, scale="scalar", fixed=0.3)
    drawn = ((observation.sample(output, generator=generator) + 1) * 2).floor().clamp(0, 3)
    middles = ((2 * torch.arange(4, dtype=torch.float64) + 1) / 4 - 1)[:, None]
    p = observation.log_prob(middles, output[:4]).exp()
    share = torch.bincount(drawn.long().flatten(), minlength=4) / size
    assert_close(share, p.to(share.dtype), rtol=0, atol=4 * 0.5 / size**0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"event_shape": [3], "latent_features": 4}, "latent_features must be from 1 to 3"),
        ({"event_shape": [1, 4, 4], "latent_channels": 17}, "must be from 1 to 16"),
        ({"event_shape": [1, 5, 5]}, "can be halved 0 times"),
        ({"event_shape": [3], "decoder": "logistic"}, "for integer pixels"),
        ({"event_shape": [3], "prior": "norml"}, "normal"),
        ({"event_shape": [3], "posterior": "flow", "posterior_std": 1.0}, "posterior_std is for"),
        ({"event_shape": [3], "network": "identity", "posterior": "gaussian"}, "gives no scales"),
        ({"event_shape": [3], "anneal": 2.0}, "anneal must be"),
        ({"event_shape": [3], "decoder_std": -1.0}, "must be above 0"),
        ({"event_shape": [3], "flow": "glow"}, "spline-flow"),
        ({"event_shape": [1, 12, 12], "latent_channels": 1}, "at least two channels"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FVAE(**options)


def test_bad_data_are_refused():
    image = FVAE(bits=0, **_image)
    with pytest.raises(TypeError, match="bits=8"):
        image.loss(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
    with pytest.raises(TypeError, match="integers"):
        FVAE(bits=8, **_image).log_prob(torch.zeros(2, 1, 4, 4))
    vector = FVAE(event_shape=[3], **_vector)
    with pytest.raises(ValueError, match="expected examples of shape"):
        vector.loss(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="NaN or infinite"):
        vector.initialize(torch.full((4, 3), math.nan))
    with pytest.raises(ValueError, match="samples must be at least 1"):
        vector.log_prob(torch.zeros(2, 3), samples=0)
