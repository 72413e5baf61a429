"""What energies and GANs share: a generator of examples that no likelihood needs to judge.

    z ~ N(0, I),   u = G(z, c),   x = mean + std u          integers: x = floor(2^bits sigmoid(u))

On validation examples such a model is judged by the energy distance of its draws,

    D^2 = 2 E|u - v| - E|u - u'| - E|v - v'|                  u, u' data and v, v' draws, unbiased,

zero if and only if both have one distribution. Szekely & Rizzo, "Energy statistics" (2013).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steadyflow.bijections import Standardization, UniformDequantization
from steadyflow.flow import check_temperature
from steadyflow.models.endpoints import Normalization
from steadyflow.models.model import GenerativeModel
from steadyflow.networks import adversarial

FEW_VARIABLES = 3
# for so few or for more: Kumar et al. take 0.1 in the plane, 10 for images and 100 for a table
PENALTY = {True: 0.1, False: 10.0}


class AdversarialModel(GenerativeModel):
    """A generative model whose generator is a network; a subclass says how it is trained.

    Takes the shared constructor arguments of `EnergyModel` and `GAN`.
    """

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        num_classes: int | None,
        context_features: int | None,
        latent_features: int | None,
        bits: int,
    ):
        super().__init__(
            event_shape=event_shape, num_classes=num_classes, context_features=context_features
        )
        image = len(self.event_shape) == 3
        if latent_features is not None and latent_features < 1:
            raise ValueError(f"latent_features must be at least 1, got {latent_features}")
        self.latent_features = latent_features or (64 if image else max(2, self.dimensions))
        self.normalization = Normalization() if image else Standardization(self.event_shape)
        self.dequantization = UniformDequantization(bits) if image and bits else None

    def _network(self, widths: Sequence[int], channels: int) -> torch.nn.Module:
        """A generator network."""
        rows = self.num_classes or self.context_features
        return adversarial.generator(
            self.latent_features, self.event_shape, widths, channels, rows
        )

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Takes the mean and standard deviation of the data."""
        self.standardize_context(context)
        self.condition(context, len(x))
        y = self.real(x)
        if not torch.isfinite(y).all():
            raise ValueError("the data hold NaN or infinite values: remove or fill them first")
        self.normalization.initialize(y)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The energy distance between data and as many draws, a scalar, in standard deviations."""
        n = len(x)
        with torch.no_grad():
            drawn = self.draw(n, self.condition(context, n))
            return energy_distance(self.normalized(self.real(x)), self.normalized(drawn))

    def draw(
        self,
        n: int,
        context: Tensor | None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws (n, *event), real-valued, with gradients.

        Args:
            n: how many.
            context: (n, features) as the networks take it, or None.
            temperature: scales the latents.
            generator: the source of randomness.
        """
        raise NotImplementedError

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws n examples (n, *event); a context of one row serves all of them."""
        with torch.no_grad():
            rows = self.condition(context, n)
            return self.to_data(self.draw(n, rows, check_temperature(temperature), generator))

    def real(self, x: Tensor) -> Tensor:
        """Data as real numbers (integers with noise) in the model's arithmetic."""
        if x.shape[1:] != self.event_shape:
            shape = ", ".join(map(str, self.event_shape))
            raise ValueError(f"expected examples of shape (batch, {shape}), got {tuple(x.shape)}")
        own = self.normalization.mean.dtype
        if self.dequantization is not None and not x.is_floating_point():
            return self.dequantization(x)[0].to(own)
        if not x.is_floating_point():
            raise TypeError(f"expected real numbers (a float tensor), got {x.dtype}")
        return x.to(own)

    def normalized(self, y: Tensor) -> Tensor:
        """Real data as the networks see them: with mean 0 and variance 1."""
        return (y - self.normalization.mean) / self.normalization.std

    def to_data(self, y: Tensor) -> Tensor:
        """Real-valued y as the model's kind of data: integers, if it takes them."""
        return y if self.dequantization is None else self.dequantization.inverse(y)

    def latents(
        self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Normal latents of a generator network, (n, latents)."""
        like = self.normalization.mean
        shape = (n, self.latent_features)
        z = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
        return temperature * z

    def from_network(self, u: Tensor) -> Tensor:
        """What a generator network gives, as real-valued data."""
        if self.dequantization is not None:
            return torch.sigmoid(u)
        return u * self.normalization.std + self.normalization.mean


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased squared energy distance of (n, *event) and (m, *event), over sqrt(D)."""
    x, y = x.flatten(1), y.flatten(1)
    across = torch.cdist(x, y).mean()
    within = [torch.cdist(v, v).sum() / max(len(v) * (len(v) - 1), 1) for v in (x, y)]
    return (2 * across - within[0] - within[1]) / math.sqrt(x.shape[1])
