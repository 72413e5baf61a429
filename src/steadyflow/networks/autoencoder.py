"""The two networks of an autoencoder, which start as near to the identity as they can.

    vectors   y = P x + MLP(x)                            P the identity, or orthonormal rows
    images    encoder: squeeze, then blocks h + conv1x1(relu(conv3x3(h))), several times
              decoder: the same backwards

Squeezes trade space for channels without loss, and every residual branch starts at zero: if the
latents are as many as the variables, decoding undoes encoding before the first step of training;
with fewer it is a projection.

Su & Wu, "f-VAEs: Improve VAEs with Conditional Flows" (2018), sec. 5, for the images' networks;
they have batch normalisation, which would make the density of an example depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.bijections.shape import channels_to_space, space_to_channels
from steadyflow.networks.glow import ZeroConv
from steadyflow.networks.layout import channels_innermost
from steadyflow.networks.mlp import MLP
from steadyflow.networks.precision import full_precision

SQUEEZES = 2  # of images, where they can be halved so often


class ResidualMLP(nn.Module):
    """P x + MLP(x), and further planes of outputs that come from the MLP alone.

    Args:
        in_features: length of x.
        out_features: length of one plane of the output.
        planes: how many planes; the first has P x.
        hidden_features: widths of the hidden layers; none for a linear network.
        context_features: length of a context vector; None for none.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        planes: int = 1,
        hidden_features: Sequence[int] = (128, 128),
        context_features: int | None = None,
    ):
        super().__init__()
        self.planes = planes
        self.mlp = MLP(in_features, planes * out_features, hidden_features, context_features)
        self.projection = None
        if in_features != out_features:
            self.projection = nn.Linear(in_features, out_features, bias=False)
            nn.init.orthogonal_(self.projection.weight)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(batch, in_features) to (batch, planes * out_features)."""
        with full_precision(x):
            straight = x if self.projection is None else self.projection(x)
        first, *rest = self.mlp(x, context).chunk(self.planes, 1)
        return torch.cat((straight + first, *rest), 1) if rest else straight + first


class LightBlock(nn.Module):
    """h + conv1x1(relu(conv3x3(h))), the last convolution starting at zero."""

    def __init__(self, channels: int, hidden_channels: int, context_features: int | None):
        super().__init__()
        self.first = nn.Conv2d(channels, hidden_channels, 3, padding=1)
        self.last = nn.Conv2d(hidden_channels, channels, 1)
        self.context = nn.Linear(context_features, hidden_channels) if context_features else None
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        """(batch, channels, height, width) to the same; the sum is kept in h's precision."""
        inner = self.first(channels_innermost(h))
        if self.context is not None and context is not None:
            inner = inner + self.context(context.to(inner.dtype))[:, :, None, None]
        return h + self.last(F.relu(inner)).to(h.dtype)


class SqueezingEncoder(nn.Module):
    """Images to a map of latents.

    Args:
        event_shape: (channels, height, width).
        latent_channels: of each plane of the output.
        planes: how many planes; all but the first start at zero.
        squeezes: how often height and width are halved.
        blocks: residual blocks after each squeeze.
        hidden_channels: inside the blocks.
        context_features: length of a context vector; None for none.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_channels: int,
        planes: int = 1,
        squeezes: int = 2,
        blocks: int = 4,
        hidden_channels: int = 64,
        context_features: int | None = None,
    ):
        super().__init__()
        channels = event_shape[0]
        self.stages = nn.ModuleList()
        for _ in range(squeezes):
            channels *= 4
            self.stages.append(_stage(channels, blocks, hidden_channels, context_features))
        self.projection = _projection(channels, latent_channels)
        self.more = ZeroConv(channels, (planes - 1) * latent_channels) if planes > 1 else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(batch, *event) to (batch, planes * latent channels, height, width)."""
        h = x
        for stage in self.stages:
            h = space_to_channels(h)
            for block in stage:  # type: ignore[attr-defined]
                h = block(h, context)
        with full_precision(h):
            first = h if self.projection is None else self.projection(h)
        return first if self.more is None else torch.cat((first, self.more(h)), 1)


class UnsqueezingDecoder(nn.Module):
    """A map of latents to images: the mirror of `SqueezingEncoder`, with the same arguments."""

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_channels: int,
        planes: int = 1,
        squeezes: int = 2,
        blocks: int = 4,
        hidden_channels: int = 64,
        context_features: int | None = None,
    ):
        super().__init__()
        channels = event_shape[0] * 4**squeezes
        self.projection = _projection(latent_channels, channels)
        self.stages = nn.ModuleList()
        for left in reversed(range(squeezes)):
            here = event_shape[0] * 4 ** (left + 1)
            self.stages.append(_stage(here, blocks, hidden_channels, context_features))
        self.more = None
        if planes > 1:
            self.more = nn.Sequential(
                nn.Conv2d(here, hidden_channels, 3, padding=1),
                nn.ReLU(),
                ZeroConv(hidden_channels, (planes - 1) * here),
            )

    def forward(self, w: Tensor, context: Tensor | None = None) -> Tensor:
        """(batch, latent channels, height, width) to (batch, planes * channels, *size)."""
        with full_precision(w):
            h = w if self.projection is None else self.projection(w)
        for i, stage in enumerate(self.stages):
            h = h if i == 0 else channels_to_space(h)
            for block in stage:  # type: ignore[attr-defined]
                h = block(h, context)
        first = channels_to_space(h)
        if self.more is None:
            return first
        return torch.cat((first, channels_to_space(self.more(h).to(first.dtype))), 1)


class Identity(nn.Module):
    """An encoder or decoder that is none: the latents are the data."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The input."""
        return x


def perceptrons(
    event_shape: tuple[int, ...],
    latents: int | None,
    planes: tuple[int, int],
    hidden_features: Sequence[int],
    context_features: int | None,
) -> tuple[ResidualMLP, ResidualMLP, tuple[int, ...]]:
    """Encoder, decoder and the shape of the latents, for vectors.

    Args:
        event_shape: (D,).
        latents: how many; None for D.
        planes: of the encoder's output and of the decoder's.
        hidden_features: widths of the hidden layers.
        context_features: length of a context vector; None for none.
    """
    (size,) = event_shape
    latents = size if latents is None else latents
    if not 1 <= latents <= size:
        raise ValueError(
            f"latent_features must be from 1 to {size}, as many as there are variables, "
            f"got {latents}"
        )
    encoder = ResidualMLP(size, latents, planes[0], hidden_features, context_features)
    decoder = ResidualMLP(latents, size, planes[1], hidden_features, context_features)
    _mirror(encoder.projection, decoder.projection)
    return encoder, decoder, (latents,)


def convolutions(
    event_shape: tuple[int, ...],
    channels: int | None,
    planes: tuple[int, int],
    squeezes: int | None,
    blocks: int,
    hidden_channels: int,
    context_features: int | None,
) -> tuple[SqueezingEncoder, UnsqueezingDecoder, tuple[int, ...]]:
    """Encoder, decoder and the shape of the map of latents, for images.

    Args:
        event_shape: (channels, height, width).
        channels: of the latents; None for as many as lose nothing.
        planes: of the encoder's output and of the decoder's.
        squeezes: how often height and width are halved; None for up to 2.
        blocks: residual blocks after each squeeze.
        hidden_channels: inside the blocks.
        context_features: length of a context vector; None for none.
    """
    own, height, width = event_shape
    most = 0
    while (height >> most) % 2 == (width >> most) % 2 == 0:
        most += 1
    squeezes = min(most, SQUEEZES) if squeezes is None else squeezes
    if not 1 <= squeezes <= most:
        raise ValueError(
            f"images of {height} x {width} pixels can be halved {most} times, so squeezes must be "
            f"1 to {most}, got {squeezes}: pad odd images by a row or a column"
        )
    full = own * 4**squeezes
    channels = full if channels is None else channels
    if not 1 <= channels <= full:
        raise ValueError(
            f"latent_channels must be from 1 to {full}, which loses nothing, got {channels}"
        )
    size = (squeezes, blocks, hidden_channels, context_features)
    encoder = SqueezingEncoder(event_shape, channels, planes[0], *size)
    decoder = UnsqueezingDecoder(event_shape, channels, planes[1], *size)
    _mirror(encoder.projection, decoder.projection)
    return encoder, decoder, (channels, height >> squeezes, width >> squeezes)


@torch.no_grad()
def _mirror(there: nn.Module | None, back: nn.Module | None) -> None:
    """Fewer latents than variables: decoding starts as the transpose of encoding."""
    if there is not None and back is not None:
        back.weight.copy_(there.weight.transpose(0, 1))  # type: ignore[operator, union-attr]


def _stage(channels: int, blocks: int, hidden: int, context: int | None) -> nn.ModuleList:
    return nn.ModuleList(LightBlock(channels, hidden, context) for _ in range(blocks))


def _projection(channels: int, out_channels: int) -> nn.Conv2d | None:
    """Orthonormal; none where nothing is lost."""
    if channels == out_channels:
        return None
    layer = nn.Conv2d(channels, out_channels, 1, bias=False)
    nn.init.orthogonal_(layer.weight)
    return layer
