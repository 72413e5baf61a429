"""f-VAE: a variational autoencoder and a flow in one model.

    w = E(x) + s(x) T_x(u),   u ~ N(0, I)        the encoder: a distribution of latents w given x
    z = F(w) ~ N(0, I)                           the prior: a flow on the latents
    x ~ p(x | G(w))                              the decoder

    log p(x) >= E_u log p(x | G(w)) - E_u [ log q(w|x) - log p(w) ]
                 reconstruction               rate
    log q(w|x) = log N(u) - log|det dT/du| - sum log s,    log p(w) = log N(F(w)) + log|det dF/dw|

In the coordinate z this is the paper's posterior flow F_x(u) = F(s u + E(x)) with a normal prior
and the decoder G(F^-1(z)): the same model and the same bound, by the change of variables. Without
F and T it is the plain VAE. With E = G = identity and one s for encoder and decoder, the bound is
log p_F(x + s u), that of a flow trained on noisy data.

Su & Wu, "f-VAEs: Improve VAEs with Conditional Flows" (2018), eq. 4-15; Burda, Grosse &
Salakhutdinov, "Importance Weighted Autoencoders" (2016), eq. 8, for the tighter bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.bijections import Chain, Standardization, UniformDequantization
from steadyflow.bijections.bijection import sum_event
from steadyflow.errors import unknown
from steadyflow.flow import Flow, check_temperature
from steadyflow.models.latent_flow import LatentFlow
from steadyflow.models.model import GenerativeModel
from steadyflow.networks.autoencoder import Identity, convolutions, perceptrons
from steadyflow.observations import (
    GaussianObservation,
    LearnedScale,
    LogisticObservation,
    Observation,
)

CHOICES = {
    "network": ("auto", "identity"),
    "posterior": ("scalar", "gaussian", "flow"),
    "prior": ("flow", "normal"),
    "decoder": ("gaussian", "logistic"),
}
SUMMARY = 64  # numbers that the conditional flow is told of the encoder's output


class FVAE(GenerativeModel):
    """Variational autoencoder whose latents are shaped by flows.

    Vectors are standardised by the training data. Images are integer pixels, scaled to [-1, 1],
    with uniform noise for the Gaussian decoder and without for the logistic one.

    Args:
        event_shape: (D,) for vectors, (channels, height, width) for images.
        num_classes: number of class labels to condition on; None for none.
        context_features: length of a context vector to condition on; None for none.
        network: 'auto' (convolutions for images, an MLP for vectors) or 'identity', for E and G.
        latent_features: number of latents, for vectors; None for as many as variables.
        latent_channels: channels of the map of latents, for images; None for as many latents as
            pixels.
        squeezes: how often the encoder halves height and width, for images; None for up to 2.
        blocks: residual blocks of encoder and decoder after each squeeze, for images.
        hidden_channels: channels inside those blocks.
        hidden_features: widths of hidden layers, for vectors; none of them for linear E and G.
        posterior: 'scalar' (s is one number, the paper's), 'gaussian' (s(x) for each latent, the
            VAE's) or 'flow' (that, and a conditional flow T).
        posterior_std: a fixed s of a 'scalar' posterior; None to learn it.
        prior: 'flow' or 'normal'.
        flow: where F and T are taken from: 'spline-flow', 'maf' or 'realnvp' for vectors, 'glow'
            or 'realnvp' for images; 'auto' takes the first.
        flow_layers: steps of flow at each level for images, layers for vectors.
        flow_levels: levels of the flows, for images; None for as many as go, up to 3 and 256
            channels, 0 for steps on the map as it is.
        flow_channels: channels inside the flows' networks, for images.
        decoder: 'gaussian', or 'logistic' for integer pixels.
        decoder_scale: 'scalar', 'variable' (one for each variable) or 'network' (from G);
            'auto' takes 'variable' for vectors, 'network' for a logistic decoder, else 'scalar'.
        decoder_std: a fixed scale of the decoder; None to learn it.
        min_std: the least that a learned scale can be; from black to white it is 2, and vectors
            have a standard deviation of 1.
        anneal: share of the training budget over which the weight of the rate rises from 0 to 1.
        free_bits: nats of rate for each latent that cost nothing in training.
        bits: bits of each pixel, for images; 0 for real-valued images.
    """

    name = "fvae"
    beta: Tensor
    parts: Tensor
    latent_shape: tuple[int, ...]

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        num_classes: int | None = None,
        context_features: int | None = None,
        network: str = "auto",
        latent_features: int | None = None,
        latent_channels: int | None = None,
        squeezes: int | None = None,
        blocks: int = 4,
        hidden_channels: int = 64,
        hidden_features: Sequence[int] = (128, 128),
        posterior: str = "scalar",
        posterior_std: float | None = None,
        prior: str = "flow",
        flow: str = "auto",
        flow_layers: int = 4,
        flow_levels: int | None = None,
        flow_channels: int = 64,
        decoder: str = "gaussian",
        decoder_scale: str = "auto",
        decoder_std: float | None = None,
        min_std: float = 1e-3,
        anneal: float = 0.0,
        free_bits: float = 0.0,
        bits: int = 8,
    ):
        super().__init__(
            event_shape=event_shape, num_classes=num_classes, context_features=context_features
        )
        image, given = len(self.event_shape) == 3, num_classes or context_features
        _check_choices(network=network, posterior=posterior, prior=prior, decoder=decoder)
        _check_numbers(anneal, free_bits, min_std)
        if posterior_std is not None and posterior != "scalar":
            raise ValueError("posterior_std is for posterior='scalar': the others learn s(x)")
        self.anneal, self.free_bits = anneal, free_bits
        self.dequantization = UniformDequantization(bits) if image and bits else None
        self.standardization = None if image else Standardization(self.event_shape)
        self.observation = self._observation(decoder, decoder_scale, decoder_std, min_std)
        planes = (1 if posterior == "scalar" else 2, self.observation.planes)
        self.encoder: nn.Module
        self.decoder: nn.Module
        if network == "identity":
            self._join_identities(planes)
        elif image:
            self.encoder, self.decoder, self.latent_shape = convolutions(
                self.event_shape, latent_channels, planes, squeezes, blocks, hidden_channels, given
            )
        else:
            self.encoder, self.decoder, self.latent_shape = perceptrons(
                self.event_shape, latent_features, planes, hidden_features, given
            )
        self.scale = LearnedScale((), posterior_std, min_std)
        latent = LatentFlow(flow, flow_layers, flow_levels, flow_channels, hidden_features)
        normal = Flow(Chain(), self.latent_shape)
        self.prior = latent.build(self.latent_shape, given) if prior == "flow" else normal
        self.noise, self.summary = normal, None
        if posterior == "flow":
            cells = 4 if image else 1
            self.summary = nn.Linear(2 * cells * self.latent_shape[0], SUMMARY)
            self.noise = latent.build(self.latent_shape, SUMMARY, draws=True)
        self._analytic = posterior != "flow" and prior == "normal"
        self.register_buffer("beta", torch.ones(()), persistent=False)
        self.register_buffer("parts", torch.zeros(2), persistent=False)  # of the last loss

    def _join_identities(self, planes: tuple[int, int]) -> None:
        """No networks: the latents are the data, and the bound is that of a flow on noisy data."""
        if max(planes) > 1:
            raise ValueError(
                "network='identity' gives no scales: it needs posterior='scalar' and "
                "decoder_scale='scalar' or 'variable'"
            )
        self.encoder, self.decoder = Identity(), Identity()
        self.latent_shape = self.event_shape

    @property
    def replayable(self) -> bool:  # type: ignore[override]
        """Of images, unless layers are computed again instead of stored."""
        chains = [part for part in self.modules() if isinstance(part, Chain)]
        return self.standardization is None and not any(chain.reversible for chain in chains)

    @property
    def likelihood(self) -> str:
        """Always a lower bound: on the log-density, or on the log-probability of integers."""
        return "bound"

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The same as `log_prob`."""
        return self.log_prob(x, context)

    def log_prob(self, x: Tensor, context: Tensor | None = None, samples: int = 1) -> Tensor:
        """The importance-weighted bound log mean_k p(x, w_k) / q(w_k|x): (batch,) in nats.

        In the mean it lies below log p(x), and the nearer the more samples; with one it is a draw
        of the evidence lower bound. Pixels get fresh noise with each sample.

        Args:
            x: (batch, *event).
            context: class labels or vectors, or None.
            samples: K.
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        row = self.condition(context, x.shape[0])
        draws = torch.stack([torch.add(*self._terms(x, row)) for _ in range(samples)])
        return draws.logsumexp(0) - math.log(samples)

    def elbo(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The parts of the evidence lower bound: E log p(x|w) and the rate, (batch,) each, nats.

        The bound is their difference. Expectations are over one draw of w; the rate of a Gaussian
        posterior under a normal prior is exact.
        """
        row = self.condition(context, x.shape[0])
        if not self._analytic:
            likelihood, ratio = self._terms(x, row)
            return likelihood, -ratio
        v, change = self._to_unit(x)
        mean, log_std, _ = self._encoded(v, row)
        w = mean + log_std.exp() * self.noise.sample_with_log_prob(len(v))[0]
        divergence = 0.5 * (mean * mean + torch.exp(2 * log_std) - 1) - log_std
        return self.observation.log_prob(v, self.decoder(w, row)) + change, sum_event(divergence)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Minus the bound, in nats per dimension, a scalar; with annealing in training mode."""
        likelihood, rate = (part.mean() for part in self.elbo(x, context))
        self.parts.copy_(torch.stack((-likelihood, rate)).detach())
        if self.training:
            free = self.free_bits * math.prod(self.latent_shape)
            rate = self.beta.to(rate.dtype) * (rate.clamp_min(free) if free else rate)
        return (rate - likelihood) / self.dimensions

    def metrics(self) -> dict[str, float | Tensor]:
        """-E log p(x|w) and the rate of the last loss, in nats for an example."""
        reconstruction, rate = self.parts.tolist()
        return {"reconstruction": reconstruction, "rate": rate}

    def begin_step(self, progress: float) -> None:
        """Sets the weight of the rate."""
        if self.anneal:
            self.beta.fill_(min(1.0, progress / self.anneal))

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Standardises vectors; starts the prior of images at the scale of their latents.

        Raises:
            ValueError: if x holds NaN or infinite values, from which nothing can be learned.
        """
        self.standardize_context(context)
        row = self.condition(context, len(x))
        if x.is_floating_point() and not x.isfinite().all():
            raise ValueError("the data hold NaN or infinite values: remove or fill them first")
        if self.standardization is not None:
            self.standardization.initialize(x)
        else:
            self.prior.initialize(self._draw(self._to_unit(x)[0], row)[0], row)

    def encode(self, x: Tensor, context: Tensor | None = None, *, draw: bool = False) -> Tensor:
        """The latents z = F(w) of x.

        Args:
            x: (batch, *event); pixels as integers, or as reals in [0, 1].
            context: class labels or vectors, or None.
            draw: take w from the posterior, instead of its centre u = 0. Over data, such z follow
                N(0, I) if the prior fits; those of the centre vary less.
        """
        row = self.condition(context, x.shape[0])
        if draw:
            return self.prior.bijection(self._draw(self._to_unit(x)[0], row)[0], row)[0]
        mean, log_std, given = self._encoded(self._to_unit(x, exact=True)[0], row)
        zero = mean.new_zeros(len(mean), *self.noise.base.event_shape)
        centre = mean + log_std.exp() * self.noise.bijection.inverse(zero, given)[0]
        return self.prior.bijection(centre, row)[0]

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The mean of the data of latents z; integers for integer pixels."""
        row = self.condition(context, z.shape[0])
        return self._to_data(self.observation.moments(self._decoded(z, row))[0])

    @torch.no_grad()
    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        *,
        noise: bool | None = None,
    ) -> Tensor:
        """Draws n examples (n, *event).

        Args:
            n: how many.
            context: labels or vectors; one row serves all.
            temperature: scales the latents, and the decoder's noise.
            generator: the source of randomness; torch's global one without it.
            noise: draw from the decoder's distribution, as the likelihood has it, or take its
                mean, as pictures of autoencoders do; by default the first for vectors and the
                second for images.
        """
        row = self.condition(context, n)
        z = self.prior.base.sample(n, row, check_temperature(temperature), generator)
        output = self._decoded(z, row)
        if noise is None:
            noise = len(self.event_shape) == 1
        if not noise:
            return self._to_data(self.observation.moments(output)[0])
        return self._to_data(self.observation.sample(output, temperature, generator))

    def _terms(self, x: Tensor, row: Tensor | None) -> tuple[Tensor, Tensor]:
        """The terms log p(x|w) and log p(w) - log q(w|x) of a draw of w, (batch,) each."""
        v, change = self._to_unit(x)
        w, log_q = self._draw(v, row)
        likelihood = self.observation.log_prob(v, self.decoder(w, row)) + change
        return likelihood, self.prior.log_prob(w, row) - log_q

    def _draw(self, v: Tensor, row: Tensor | None) -> tuple[Tensor, Tensor]:
        """A draw of w given data, and log q(w|x)."""
        mean, log_std, given = self._encoded(v, row)
        e, log_q = self.noise.sample_with_log_prob(len(v), given)
        return mean + log_std.exp() * e, log_q - sum_event(log_std.expand_as(mean))

    def _encoded(self, v: Tensor, row: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """E(x), log s(x), and what the conditional flow is told."""
        output = self.encoder(v, row)
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        if output.shape[1:] == self.latent_shape:
            return output, self.scale(output).log(), None
        mean, moved = output.chunk(2, 1)
        log_std = self.scale(mean, moved).log()
        if self.summary is None:
            return mean, log_std, None
        seen = F.adaptive_avg_pool2d(output, 2).flatten(1) if output.dim() == 4 else output
        return mean, log_std, self.summary(seen)

    def _decoded(self, z: Tensor, row: Tensor | None) -> Tensor:
        return self.decoder(self.prior.bijection.inverse(z, row)[0], row)

    def _to_unit(self, x: Tensor, exact: bool = False) -> tuple[Tensor, Tensor | float]:
        """Data in the units of the networks, with the log-determinant of the change.

        Args:
            x: (batch, *event).
            exact: leave out the noise of dequantisation, and take pixels in [0, 1] too.
        """
        if x.shape[1:] != self.event_shape:
            expected = ", ".join(map(str, self.event_shape))
            raise ValueError(
                f"expected examples of shape (batch, {expected}), got {tuple(x.shape)}"
            )
        own = self.prior.base.dtype
        if self.dequantization is None:
            if not x.is_floating_point():
                raise TypeError(
                    f"expected real numbers (a float tensor), got {x.dtype}: use x.float(), or "
                    "bits=8 for pixels, which makes them real by noise"
                )
            return (x, 0.0) if self.standardization is None else self.standardization(x)
        if exact and x.is_floating_point():
            return 2 * x.to(own) - 1, 0.0
        y, change = self.dequantization(x)
        if exact or isinstance(self.observation, LogisticObservation):
            return (2 * x.to(own) + 1) / self.dequantization.levels - 1, 0.0
        return 2 * y.to(own) - 1, change.to(own) + self.dimensions * math.log(2)

    def _to_data(self, v: Tensor) -> Tensor:
        if self.standardization is not None:
            return self.standardization.inverse(v)[0]
        return v if self.dequantization is None else self.dequantization.inverse((v + 1) / 2)

    def _observation(
        self, name: str, scale: str, fixed: float | None, floor: float
    ) -> Observation:
        image = len(self.event_shape) == 3
        if scale == "auto":
            narrow = "scalar" if image or fixed is not None else "variable"
            scale = "network" if name == "logistic" and fixed is None else narrow
        if name == "gaussian":
            return GaussianObservation(self.event_shape, scale, fixed, floor)
        if self.dequantization is None:
            raise ValueError("a logistic decoder is for integer pixels: choose decoder='gaussian'")
        return LogisticObservation(self.event_shape, self.dequantization.bits, scale, fixed, floor)


def _check_numbers(anneal: float, free_bits: float, min_std: float) -> None:
    if not 0 <= anneal <= 1 or not free_bits >= 0 or not min_std > 0:
        raise ValueError(
            "anneal must be from 0 to 1, free_bits at least 0 and min_std above 0, "
            f"got {anneal}, {free_bits} and {min_std}"
        )


def _check_choices(**given: str) -> None:
    for name, value in given.items():
        if value not in CHOICES[name]:
            raise unknown(name, value, CHOICES[name])
