"""The networks of energies and GANs: an example to a few numbers, and latents to an example.

For vectors both are multilayer perceptrons. For images a critic halves the image until it has four
pixels a side or less, and a generator goes the same way back, like the networks of Radford, Metz &
Chintala, "Unsupervised Representation Learning with Deep Convolutional GANs" (2016), without batch
normalisation: the value of an example must not depend on its batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.networks.mlp import MLP
from steadyflow.networks.precision import full_precision

SMALLEST = 4  # pixels a side


def critic(
    event_shape: Sequence[int],
    out_features: int,
    hidden_features: Sequence[int],
    hidden_channels: int,
    context_features: int | None = None,
    *,
    clip: float | None = None,
    zero_output: bool = False,
    frequencies: int = 0,
) -> nn.Module:
    """A smooth network of (x, context): (batch, *event) and (batch, features) to (batch, out).

    Args:
        event_shape: of x.
        out_features: length of the output.
        hidden_features: widths for vectors; for images of what follows the convolutions.
        hidden_channels: channels at the full resolution, for images; doubled at each halving.
        context_features: length of what is given besides x, or None.
        clip: for vectors, inputs beyond it count as it: the output is bounded.
        zero_output: begin with an output of zero.
        frequencies: for vectors, give the network sines and cosines of x at so many frequencies,
            each twice the one before: for functions that change within a hundredth of x's range.
    """
    if len(event_shape) == 3:
        return ConvCritic(
            event_shape, out_features, hidden_channels, context_features, zero_output
        )
    return VectorCritic(
        MLP(
            event_shape[0] * (1 + 2 * frequencies),
            out_features,
            hidden_features,
            context_features,
            activation="silu",
            zero_output=zero_output,
        ),
        clip,
        frequencies,
    )


def generator(
    latent_features: int,
    event_shape: Sequence[int],
    hidden_features: Sequence[int],
    hidden_channels: int,
    context_features: int | None = None,
) -> nn.Module:
    """A network of (z, context): (batch, latents) and (batch, features) to (batch, *event)."""
    if len(event_shape) == 3:
        return ConvGenerator(latent_features, event_shape, hidden_channels, context_features)
    return MLP(
        latent_features,
        event_shape[0],
        hidden_features,
        context_features,
        activation="silu",
        zero_output=False,
    )


def sides(side: int) -> list[int]:
    """A side of an image halved again and again, down to four pixels or less.

    Example:
        >>> sides(28)
        [28, 14, 7, 4]
    """
    found = [side]
    while found[-1] > SMALLEST:
        found.append((found[-1] + 1) // 2)
    return found


class VectorCritic(nn.Module):
    """A multilayer perceptron on bounded vectors and their sines and cosines; see `critic`.

    Tancik et al., "Fourier Features Let Networks Learn High Frequency Functions" (2020).
    """

    rates: Tensor

    def __init__(self, network: nn.Module, clip: float | None, frequencies: int):
        super().__init__()
        self.network, self.clip = network, clip
        rates = math.pi / 4 * 2.0 ** torch.arange(frequencies)
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(batch, variables) and (batch, features) to (batch, out)."""
        if self.clip is not None:
            x = F.hardtanh(x, -self.clip, self.clip)
        if len(self.rates):
            phase = (x[:, :, None] * self.rates.to(x.dtype)).flatten(1)
            x = torch.cat((x, torch.sin(phase), torch.cos(phase)), 1)
        return self.network(x, context)


class ConvCritic(nn.Module):
    """Convolutions that halve an image, and a linear layer; see `critic`."""

    def __init__(
        self,
        event_shape: Sequence[int],
        out_features: int,
        channels: int,
        context_features: int | None = None,
        zero_output: bool = False,
    ):
        super().__init__()
        c, height, width = event_shape
        halvings = max(len(sides(height)), len(sides(width))) - 1
        layers = [nn.Conv2d(c, channels, 3, padding=1)]
        for i in range(halvings):
            layers.append(nn.Conv2d(channels << i, channels << i + 1, 3, stride=2, padding=1))
        self.convolutions = nn.ModuleList(layers)
        top = channels << halvings
        rows, columns = _shrunk(height, halvings), _shrunk(width, halvings)
        self.mixing = nn.Linear(top * rows * columns + (context_features or 0), 4 * channels)
        self.output = nn.Linear(4 * channels, out_features)
        if zero_output:
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(batch, channels, height, width) and (batch, features) to (batch, out)."""
        for convolution in self.convolutions:
            x = F.silu(convolution(x))
        h = x.flatten(1)
        if context is not None:
            h = torch.cat((h, context.to(h.dtype)), 1)
        h = F.silu(self.mixing(h))
        with full_precision(h):
            return self.output(h.to(self.output.weight.dtype))


class ConvGenerator(nn.Module):
    """A linear layer, and convolutions on an image that doubles; see `generator`."""

    def __init__(
        self,
        latent_features: int,
        event_shape: Sequence[int],
        channels: int,
        context_features: int | None = None,
    ):
        super().__init__()
        c, height, width = event_shape
        doublings = max(len(sides(height)), len(sides(width))) - 1
        self.sizes = [
            (_shrunk(height, i), _shrunk(width, i)) for i in reversed(range(doublings + 1))
        ]
        self.top = channels << doublings
        rows, columns = self.sizes[0]
        self.input = nn.Linear(
            latent_features + (context_features or 0), self.top * rows * columns
        )
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels << i + 1, channels << i, 3, padding=1)
            for i in reversed(range(doublings))
        )
        self.output = nn.Conv2d(channels, c, 3, padding=1)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """(batch, latents) and (batch, features) to (batch, channels, height, width)."""
        if context is not None:
            z = torch.cat((z, context.to(z.dtype)), 1)
        h = F.silu(self.input(z)).unflatten(1, (self.top, *self.sizes[0]))
        for size, convolution in zip(self.sizes[1:], self.convolutions, strict=True):
            h = F.silu(convolution(F.interpolate(h, size=size)))
        with full_precision(h):
            return self.output(h.to(self.output.weight.dtype))


def _shrunk(side: int, times: int) -> int:
    """A side after so many halvings, rounded up as a convolution with stride 2 does."""
    for _ in range(times):
        side = (side + 1) // 2
    return side
