"""The entropy of a generator x = G(z), by four names.

    exact               H = E_z[-log p_G(G(z))]         log p_G = log p(z) - log|det dG/dz|: a flow
    mutual-information  max_T E[log s(T(x, z)) + log s(-T(x, z'))] / 2          z' of another x
    reconstruction      max_E E[-|z - E(x)|^2 / 2]
    none                0

A generator without noise of its own has H(X) = I(X, Z) + constant. The second is, up to a
constant, half the Jensen-Shannon information between x and z (Kumar et al. 2019, eq. 8; Hjelm et
al., "Deep InfoMax", 2019): at most 0, so that its gradient fades once T is sure. The third is the
bound of Barber & Agakov (2003) with unit variance, as in InfoGAN (Chen et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.errors import UsageError, unknown

Build = Callable[[int, int], nn.Module]  # outputs and inputs besides x, to a network of x


class Entropy(nn.Module):
    """Estimates the entropy of a batch of draws, up to a constant."""

    def forward(
        self, x: Tensor, z: Tensor, context: Tensor | None, log_prob: Tensor | None
    ) -> Tensor:
        """A scalar in nats, which the generator and this estimator make large.

        Args:
            x: draws, (batch, *event), normalised.
            z: their latents, (batch, latents).
            context: (batch, features) or None.
            log_prob: log p_G of the draws, (batch,), if the generator is a flow.
        """
        raise NotImplementedError


class Exact(Entropy):
    """E[-log p_G]."""

    def forward(
        self, x: Tensor, z: Tensor, context: Tensor | None, log_prob: Tensor | None
    ) -> Tensor:
        """The mean of -log_prob."""
        if log_prob is None:
            raise UsageError("the exact entropy needs a generator that is a flow")
        return -log_prob.mean()


class MutualInformation(Entropy):
    """How well a discriminator tells a draw's own latents from those of another."""

    def __init__(self, build: Build, latent_features: int):
        super().__init__()
        self.discriminator = build(1, latent_features)

    def forward(
        self, x: Tensor, z: Tensor, context: Tensor | None, log_prob: Tensor | None
    ) -> Tensor:
        """The mean log-likelihood of both answers."""
        own = self.discriminator(x, _joined(z, context))
        other = self.discriminator(x, _joined(z.roll(1, 0), context))
        return -(F.softplus(-own) + F.softplus(other)).mean() / 2


class Reconstruction(Entropy):
    """How well an encoder finds the latents of a draw."""

    def __init__(self, build: Build, latent_features: int):
        super().__init__()
        self.encoder = build(latent_features, 0)

    def forward(
        self, x: Tensor, z: Tensor, context: Tensor | None, log_prob: Tensor | None
    ) -> Tensor:
        """The mean log-likelihood of z under N(E(x), I), up to a constant."""
        return -(z - self.encoder(x, context)).square().sum(1).mean() / 2


class Nothing(Entropy):
    """No entropy: what collapses without it can be seen."""

    def forward(
        self, x: Tensor, z: Tensor, context: Tensor | None, log_prob: Tensor | None
    ) -> Tensor:
        """Zero."""
        return x.new_zeros(())


ENTROPIES = ("exact", "mutual-information", "reconstruction", "none")


def make_entropy(name: str, build: Build, latent_features: int) -> Entropy:
    """The estimator of a name; `build` makes its network."""
    if name == "exact":
        return Exact()
    if name == "none":
        return Nothing()
    kinds = {"mutual-information": MutualInformation, "reconstruction": Reconstruction}
    if name not in kinds:
        raise unknown("entropy", name, ENTROPIES)
    return kinds[name](build, latent_features)


def _joined(z: Tensor, context: Tensor | None) -> Tensor:
    return z if context is None else torch.cat((z, context.to(z.dtype)), 1)
