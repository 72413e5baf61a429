"""A generative adversarial network, the baseline without the energy view.

    discriminator   min_D E_x softplus(-D(x)) + E_z softplus(D(G(z))) + lambda E_x |dD/dx|^2
    generator       min_G E_z softplus(-D(G(z)))

D tells data from draws, and after training says nothing: where both agree it is flat, which makes
it no energy. Goodfellow et al., "Generative Adversarial Nets" (2014), with the generator's loss of
their sec. 3; Mescheder, Geiger & Nowozin, "Which Training Methods for GANs do actually Converge?"
(2018), for the penalty.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from steadyflow.models.adversarial import FEW_VARIABLES, PENALTY, AdversarialModel
from steadyflow.models.players import Player, parameters_of
from steadyflow.networks.adversarial import critic


class GAN(AdversarialModel):
    """A non-saturating GAN with the zero-centred gradient penalty on data.

    Args:
        event_shape: (D,) for vectors, (channels, height, width) for images.
        num_classes: number of class labels to condition on; None for none.
        context_features: length of a context vector to condition on; None for none.
        hidden_features: widths of the hidden layers of the discriminator.
        generator_features: widths of the hidden layers of the generator.
        hidden_channels: channels at the full resolution, for images.
        frequencies: for vectors, sines and cosines of the variables that the discriminator sees.
        latent_features: length of z; D, or 64 for images, without it.
        penalty: lambda above, in standard deviations of the data; without it 0.1 for up to three
            variables and 10 for more.
        generator_every: the generator moves in each so many-th step.
        bits: bits of each pixel, for images; 0 for real-valued images.
    """

    name = "gan"
    likelihood = "none"

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        num_classes: int | None = None,
        context_features: int | None = None,
        hidden_features: Sequence[int] = (128, 128, 128),
        generator_features: Sequence[int] = (128, 128, 128),
        hidden_channels: int = 16,
        frequencies: int = 0,
        latent_features: int | None = None,
        penalty: float | None = None,
        generator_every: int = 1,
        bits: int = 8,
    ):
        super().__init__(
            event_shape=event_shape,
            num_classes=num_classes,
            context_features=context_features,
            latent_features=latent_features,
            bits=bits,
        )
        if penalty is None:
            penalty = PENALTY[self.dimensions <= FEW_VARIABLES]
        if not penalty >= 0 or generator_every < 1:
            raise ValueError(
                "penalty must be at least 0 and generator_every at least 1, got "
                f"{penalty} and {generator_every}"
            )
        self.penalty, self.generator_every = penalty, generator_every
        self.generator = self._network(generator_features, hidden_channels)
        self.discriminator = critic(
            self.event_shape,
            1,
            hidden_features,
            hidden_channels,
            num_classes or context_features,
            frequencies=frequencies,
        )
        self._parts: dict[str, Tensor] = {}

    def players(self) -> tuple[Player, ...]:
        """The discriminator and the generator."""
        return (
            Player("discriminator", parameters_of(self.discriminator), self.discriminator_loss),
            Player(
                "generator",
                parameters_of(self.generator),
                self.generator_loss,
                self.generator_every,
            ),
        )

    def discriminator_loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The cross-entropy of telling data from draws, and the penalty, a scalar."""
        rows = self.condition(context, len(x))
        u = self.normalized(self.real(x)).detach().requires_grad_()
        with torch.no_grad():
            drawn = self.normalized(self.draw(len(x), rows))
        real, false = self.discriminator(u, rows), self.discriminator(drawn, rows)
        loss = F.softplus(-real).mean() + F.softplus(false).mean()
        self._parts["discriminator"] = loss.detach()
        if self.penalty > 0:
            (slope,) = torch.autograd.grad(real.sum(), u, create_graph=True)
            loss = loss + self.penalty * slope.square().flatten(1).sum(1).mean()
        return loss

    def generator_loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """How surely draws are taken for draws, a scalar."""
        rows = self.condition(context, len(x))
        value = self.discriminator(self.normalized(self.draw(len(x), rows)), rows)
        self._parts["generator"] = loss = F.softplus(-value).mean()
        return loss

    def metrics(self) -> dict[str, float | Tensor]:
        """The losses of both players."""
        return {k: v.detach() for k, v in self._parts.items()} if self.training else {}

    def draw(
        self,
        n: int,
        context: Tensor | None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws of the generator, real-valued, (n, *event)."""
        return self.from_network(self.generator(self.latents(n, temperature, generator), context))
