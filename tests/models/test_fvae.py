"""f-VAE where everything has a closed form, and its special cases against direct formulas."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from zoo import randomize

from steadyflow import FVAE, Glow
from steadyflow.bijections.bijection import sum_event

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
    jacobian = torch.autograd.functional.jacobian(
        lambda e: _noise_to_latent(model, e, v[:1]), torch.randn(2, dtype=torch.float64)
    )
    assert torch.linalg.slogdet(jacobian).logabsdet.isfinite()


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
