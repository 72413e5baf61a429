"""An energy and a generator that keeps its entropy: the energy view of GANs.

    q(x) = exp(-U(x)) / Z,   U(x) = f_theta(x) - log r(x)          r a normal, or a trained flow
    theta:  min E_data U - E_negative U + lambda E_data |dU/dx|^2  low where data are, high where
                                                                   the generator draws
    phi:    min E_z U(G_phi(z)) - H(G_phi) - w E_data log p_G      KL(p_G || q) - log Z, and data

The entropy H keeps the generator from collapsing onto the lowest energies (`models.entropy`). With
a flow as generator it is exact, log p_G is known, and so the weights of its draws are, too:

    negative   sum_i w_i U(x_i) / sum_i w_i,   w = exp(-U) / p_G    the likelihood's own gradient
    log Z      log mean_i w_i >= E_z[-U(G)] + H (ELBO)              log q = -U - log Z

Kumar, Ozair, Goyal, Courville & Bengio, "Maximum Entropy Generators for Energy-Based Models"
(2019); Kim & Bengio, "Deep Directed Generative Models with Energy-Based Probability Estimation"
(2016).

f is 0 at the centre of the data, which pins the additive constant of U, and bounded (its network
sees no further than `CLIP` standard deviations), so that Z is finite for all weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steadyflow.errors import unknown
from steadyflow.flow import Flow
from steadyflow.models import energy_losses as losses
from steadyflow.models.adversarial import FEW_VARIABLES, PENALTY, AdversarialModel
from steadyflow.models.energy_losses import flattened as flattened
from steadyflow.models.energy_losses import steady_weights as steady_weights
from steadyflow.models.entropy import ENTROPIES, make_entropy
from steadyflow.models.flow_model import FlowModel
from steadyflow.models.normalizer import (
    MANY,
    LogNormalizer,
    estimate_log_normalizer,
    in_words,
)
from steadyflow.models.players import Player, parameters_of
from steadyflow.models.reference import TiltedFlow, make_flow, make_reference
from steadyflow.models.sampling import check_sampler, run_sampler
from steadyflow.networks.adversarial import critic
from steadyflow.solvers.mcmc import Chains

CLIP = 5.0  # standard deviations
NEGATIVES = ("auto", "weighted", "generator")


class EnergyModel(AdversarialModel):
    """An energy, normalised where its generator is a flow.

    The energy of an example says how unusual it is, with or without a normaliser.

    Args:
        event_shape: (D,) for vectors, (channels, height, width) for images.
        num_classes: number of class labels to condition on; None for none.
        context_features: not supported: the normaliser would be another for every vector.
        entropy: 'exact' (the generator is a flow), 'mutual-information', 'reconstruction' or
            'none'.
        generator: 'network', or the name of a flow, such as spline-flow or realnvp; 'auto' takes
            a flow for the exact entropy and a network otherwise.
        generator_layers: of a flow on vectors.
        generator_features: widths of the hidden layers of the generator's networks.
        likelihood_weight: w above, the share of maximum likelihood in training a flow.
        entropy_weight: factor on the entropy.
        negatives: 'weighted' (draws count by exp(-U) / p_G, which needs a flow) or 'generator'
            (all draws count the same, as in the paper); 'auto' weighs where it can.
        penalty: lambda above, in standard deviations of the data; without it none for weighted
            negatives and up to three variables, else 0.1 for so few and 10 for more.
        tilt: folder of a trained flow r, which the energy then corrects; without it r is normal.
        hidden_features: widths of the hidden layers of the energy's networks.
        hidden_channels: channels at the full resolution, for images.
        frequencies: for vectors, sines and cosines of the variables that the energy sees, at so
            many frequencies; without it 4 for weighted negatives and up to three variables,
            where wells may be narrow, and otherwise none.
        latent_features: latents of a generator network; D, or 64 for images, without it.
        generator_every: the generator moves in each so many-th step.
        sampler: 'generator', or a chain that starts from its draws: 'langevin', 'mala', 'hmc', and
            where it is a flow 'independence', 'latent-mala', 'latent-hmc'. 'auto' takes
            'independence' for vectors where it can, and 'generator' otherwise.
        sampler_steps: of the chain.
        bits: bits of each pixel, for images; 0 for real-valued images.
    """

    name = "energy"
    log_z: Tensor
    log_z_error: Tensor
    log_z_pareto_k: Tensor

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        num_classes: int | None = None,
        context_features: int | None = None,
        entropy: str = "exact",
        generator: str | dict[str, Any] = "auto",
        generator_layers: int = 4,
        generator_features: Sequence[int] = (64, 64),
        likelihood_weight: float = 5.0,
        entropy_weight: float = 1.0,
        negatives: str = "auto",
        penalty: float | None = None,
        tilt: str | dict[str, Any] | None = None,
        hidden_features: Sequence[int] = (128, 128, 128),
        hidden_channels: int = 16,
        frequencies: int | None = None,
        latent_features: int | None = None,
        generator_every: int = 1,
        sampler: str = "auto",
        sampler_steps: int = 50,
        bits: int = 8,
    ):
        super().__init__(
            event_shape=event_shape,
            num_classes=num_classes,
            context_features=context_features,
            latent_features=latent_features,
            bits=bits,
        )
        _check(
            context_features,
            entropy,
            sampler,
            negatives,
            likelihood_weight=likelihood_weight,
            entropy_weight=entropy_weight,
            penalty=penalty,
            frequencies=frequencies,
            generator_every=generator_every,
            sampler_steps=sampler_steps,
        )
        self.reference = make_reference(self, tilt)
        if isinstance(self.reference, TiltedFlow):
            self._resolved = {"tilt": self.reference.recorded}
        if generator == "auto" and entropy != "exact":
            generator = "network"
        flow = make_flow(self, generator, generator_layers, list(generator_features))
        self.weighted = flow is not None if negatives == "auto" else negatives == "weighted"
        if flow is None and (entropy == "exact" or self.weighted):
            raise ValueError(
                "the exact entropy and weighted negatives need a generator whose density is "
                "known: give generator='spline-flow' or another flow instead of 'network'"
            )
        if sampler == "auto":
            exact = flow is not None and len(self.event_shape) == 1
            sampler = "independence" if exact else "generator"
        check_sampler(sampler, flow is not None)
        self.generator: nn.Module = flow or self._network(generator_features, hidden_channels)
        few = self.dimensions <= FEW_VARIABLES
        if frequencies is None:
            frequencies = 4 if few and self.weighted else 0
        if penalty is None:  # weighted negatives follow the likelihood, which has a minimum
            penalty = 0.0 if self.weighted and few else PENALTY[few]
        self._build_networks(entropy, hidden_features, hidden_channels, frequencies)
        self.penalty = penalty
        self.likelihood_weight = likelihood_weight if flow is not None else 0.0
        self.entropy_weight, self.generator_every = entropy_weight, generator_every
        self.sampler, self.sampler_steps = sampler, sampler_steps
        for name in ("log_z", "log_z_error", "log_z_pareto_k"):
            self.register_buffer(name, torch.full((num_classes or 1,), math.nan))
        self._parts: dict[str, Tensor] = {}

    def _build_networks(
        self, entropy: str, widths: Sequence[int], channels: int, frequencies: int
    ) -> None:
        """The network of the energy, and that of the estimator of the entropy."""

        def network(outputs: int, more: int) -> nn.Module:
            given = (self.num_classes or 0) + more or None
            return critic(self.event_shape, outputs, widths, channels, given)

        self.energy_network = critic(
            self.event_shape,
            1,
            widths,
            channels,
            self.num_classes,
            clip=CLIP,
            zero_output=True,
            frequencies=frequencies,
        )
        latents = self.latent_features if self.flow is None else self.dimensions
        self.entropy = make_entropy(entropy, network, latents)

    @property
    def flow(self) -> Flow | None:
        """The generator's flow, if it is one: its latents are the model's."""
        return self.generator.flow if isinstance(self.generator, FlowModel) else None

    @property
    def likelihood(self) -> str:
        """'estimate' with a flow as generator (log Z is estimated), otherwise 'none'."""
        return "none" if self.flow is None else "estimate"

    # the energy

    def energy(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """U(x) of x: (batch, *event), shape (batch,) in nats: high where data are not."""
        return self.energy_of(self.real(x), self.condition(context, len(x)))

    def energy_of(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """U of real-valued y: (batch, *event), given (batch, features) or None; (batch,)."""
        return self.correction(y, context) - self.reference(y, context)

    def correction(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """F of real-valued y: (batch, *event), (batch,), which is 0 at the centre of the data."""
        u = self.normalized(y)
        if context is None:
            values = self.energy_network(torch.cat((u, torch.zeros_like(u[:1]))))[:, 0]
            return values[:-1] - values[-1]
        centres = torch.zeros_like(u)
        return (self.energy_network(u, context) - self.energy_network(centres, context))[:, 0]

    def gradient_of(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """dU/du at real-valued y: (batch, *event), with u in standard deviations of the data.

        It has gradients for the energy's weights.
        """
        y = y.detach().requires_grad_()
        with torch.enable_grad():
            (of_f,) = torch.autograd.grad(self.correction(y, context).sum(), y, create_graph=True)
            log_r = self.reference(y, context)
            of_r = torch.zeros_like(y)
            if log_r.requires_grad:
                (of_r,) = torch.autograd.grad(log_r.sum(), y)
        return (of_f - of_r) * self.normalization.std

    def slope(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """|dU/du| at x: (batch, *event), (batch,), with u in standard deviations of the data."""
        rows = self.condition(context, len(x))
        return self.gradient_of(self.real(x), rows).detach().square().flatten(1).sum(1).sqrt()

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """-U(x) - log Z of x: (batch, *event), (batch,) in nats, by the estimate of log Z.

        For integers the density at a uniform draw in their bin, as a log-probability.

        Raises:
            ValueError: if log Z was not estimated, or can not be without a flow as generator.
        """
        if self.flow is None:
            raise ValueError(
                "this energy has no normaliser: its generator is a network, whose density is not "
                "known. Use energy(x), or build it with entropy='exact'"
            )
        if not self.log_z.isfinite().all():
            raise ValueError("log Z is not known yet: call settle(), as training does")
        rows = self.condition(context, len(x))
        log_z = self.log_z if rows is None else rows.to(self.log_z.dtype) @ self.log_z
        y, change = self.real(x), 0.0
        if self.dequantization is not None and not x.is_floating_point():
            change = self.dimensions * math.log(self.dequantization.levels)
        return -self.energy_of(y, rows) - log_z - change

    @torch.no_grad()
    def log_normalizer(
        self,
        context: Tensor | None = None,
        draws: int = MANY,
        generator: torch.Generator | None = None,
    ) -> LogNormalizer:
        """Estimates log Z from weighted draws of the generator, with its error; print it.

        Args:
            context: one class label, (1,), for a class-conditional model.
            draws: how many.
            generator: the source of randomness.
        """
        return estimate_log_normalizer(self, context, draws, generator)

    @torch.no_grad()
    def settle(self) -> None:
        """Estimates log Z, for each class, with draws that do not depend on the global seed."""
        if self.flow is None:
            return
        for k in range(len(self.log_z)):
            source = torch.Generator(self.log_z.device).manual_seed(k)
            label = None if self.num_classes is None else torch.tensor([k], device=source.device)
            found = self.log_normalizer(label, generator=source)
            self.log_z[k], self.log_z_error[k] = found.value, found.standard_error
            self.log_z_pareto_k[k] = found.pareto_k

    @property
    def likelihood_in_words(self) -> str:
        """What `log_prob` is and how well log Z is known."""
        return in_words(self.log_z, self.log_z_error, self.log_z_pareto_k)

    # the game, `models.energy_losses`

    def players(self) -> tuple[Player, ...]:
        """The energy, and the generator with the estimator of its entropy."""
        return (
            Player("energy", parameters_of(self.energy_network), self.energy_loss),
            Player(
                "generator",
                parameters_of(self.generator, self.entropy),
                self.generator_loss,
                self.generator_every,
            ),
        )

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Takes the moments of the data; a tilting generator begins as the flow that it tilts."""
        super().initialize(x, context)
        tilted = self.reference.model if isinstance(self.reference, TiltedFlow) else None
        if tilted is not None and tilted.config == getattr(self.generator, "config", None):
            self.generator.load_state_dict(tilted.state_dict())
        elif isinstance(self.generator, FlowModel):
            self.generator.initialize(x, context)

    def energy_loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Positive minus negative phase and the gradient penalty, in nats per dimension."""
        loss, parts = losses.of_energy(self, x, context)
        self._parts |= parts
        return loss

    def generator_loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """E[U] minus the entropy, and maximum likelihood, in nats per dimension."""
        loss, parts = losses.of_generator(self, x, context)
        self._parts |= parts
        return loss

    @torch.no_grad()
    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """How good the model is, a scalar: -log q in nats per dimension, log Z from new draws.

        Without a flow as generator, the energy distance of data and draws.
        """
        return super().loss(x, context) if self.flow is None else losses.of_both(self, x, context)

    def metrics(self) -> dict[str, float | Tensor]:
        """The losses of both players and the entropy, in nats."""
        return dict(self._parts) if self.training else {}

    # drawing

    def draw(
        self,
        n: int,
        context: Tensor | None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws (n, *event), real-valued, by the model's sampler.

        Args:
            n: how many.
            context: (n, features) as the networks take it, or None.
            temperature: T scales the latents of the generator; chains draw from exp(-U / T^2).
            generator: the source of randomness.
        """
        y, _, _ = self.weighed_draws(n, context, temperature, generator)
        if self.sampler == "generator" or not n:
            return y
        return run_sampler(self, self.sampler, y, context, temperature, generator).last

    def chains(
        self,
        n: int,
        context: Tensor | None = None,
        *,
        sampler: str = "mala",
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Chains:
        """Runs n chains of exp(-U) from draws of the generator, and says how they mixed.

        Args:
            n: how many.
            context: labels, one for each or for all.
            sampler: 'langevin', 'mala', 'hmc', and with a flow as generator 'independence',
                'latent-mala' and 'latent-hmc'.
            generator: the source of randomness.
            **options: of `steadyflow.solvers.run_chains`.

        Returns:
            chains whose draws are data, real-valued.
        """
        check_sampler(sampler, self.flow is not None)
        rows = self.condition(context, n)
        with torch.no_grad():
            y, _, _ = self.weighed_draws(n, rows, generator=generator)
            return run_sampler(self, sampler, y, rows, generator=generator, **options)

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The latents of x: (batch, *event) in the generator, which must be a flow."""
        return self._with_latents().bijection(self.real(x), self.condition(context, len(x)))[0]

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The data of latents z."""
        flow = self._with_latents()
        return self.to_data(flow.bijection.inverse(z, self.condition(context, len(z)))[0])

    def weighed_draws(
        self,
        n: int,
        context: Tensor | None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Draws of the generator, real-valued, their latents (n, latents), and log p_G or None."""
        flow = self.flow
        if flow is None:
            z = self.latents(n, temperature, generator)
            return self.from_network(self.generator(z, context)), z, None
        z = flow.base.sample(n, context, temperature, generator)
        y, log_det = flow.bijection.inverse(z, context)
        return y, z.flatten(1), flow.base.log_prob(z, context) - log_det

    def _with_latents(self) -> Flow:
        if self.flow is None:
            raise ValueError("the generator of this energy is a network: it has no inverse")
        return self.flow


def _check(
    context_features: int | None,
    entropy: str,
    sampler: str,
    negatives: str,
    **numbers: float | None,
) -> None:
    if context_features is not None:
        raise ValueError(
            "an energy given vectors would have another normaliser for every vector: build it "
            "without context_features"
        )
    if entropy not in ENTROPIES:
        raise unknown("entropy", entropy, ENTROPIES)
    if negatives not in NEGATIVES:
        raise unknown("kind of negatives", negatives, NEGATIVES)
    if sampler != "auto":
        check_sampler(sampler, True)
    for name, value in numbers.items():
        least = 1 if name in ("generator_every", "sampler_steps") else 0
        if value is not None and not least <= value < math.inf:
            raise ValueError(f"{name} must be at least {least}, got {value}")
