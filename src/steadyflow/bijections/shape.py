"""Bijections that only move numbers about, and the multi-scale architecture made of them.

    log|det dz/dx| = 0

Dinh, Sohl-Dickstein & Bengio (2017), sec. 3.6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from steadyflow.bijections.bijection import (
    Bijection,
    Chain,
    Shape,
    Transformed,
    same_shape,
    zero_log_det,
)
from steadyflow.networks.patches import check_patch, from_patches, to_patches


class Flatten(Bijection):
    """(batch, *event) to (batch, D) and back.

    Args:
        event_shape: the shape that the inverse restores.
    """

    def __init__(self, event_shape: Sequence[int]):
        super().__init__()
        self.event_shape = tuple(event_shape)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Flattens the event."""
        return x.flatten(1), zero_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Restores its shape."""
        return z.unflatten(1, self.event_shape), zero_log_det(z)

    def output_shape(self, event_shape: Shape) -> Shape:
        """(D,)."""
        return (math.prod(same_shape(self, self.event_shape, event_shape)),)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The shape given to the constructor."""
        same_shape(self, (math.prod(self.event_shape),), event_shape)
        return self.event_shape


class Squeeze(Bijection):
    """Trades space for channels: (batch, c, h, w) to (batch, 4c, h/2, w/2).

    Channel 4c + 2i + j of the result is channel c at the pixels (2y + i, 2x + j): the order of
    `torch.nn.functional.pixel_unshuffle` and of the authors' Glow.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Space to channels; height and width must be even."""
        return space_to_channels(x), zero_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Channels to space."""
        return channels_to_space(z), zero_log_det(z)

    def output_shape(self, event_shape: Shape) -> Shape:
        """(4c, h/2, w/2)."""
        return squeezed(event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """(c/4, 2h, 2w)."""
        return unsqueezed(event_shape)


class Unsqueeze(Bijection):
    """Trades channels for space: the inverse of `Squeeze`."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Channels to space."""
        return channels_to_space(x), zero_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Space to channels."""
        return space_to_channels(z), zero_log_det(z)

    def output_shape(self, event_shape: Shape) -> Shape:
        """(c/4, 2h, 2w)."""
        return unsqueezed(event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """(4c, h/2, w/2)."""
        return squeezed(event_shape)


class Patches(Bijection):
    """Cuts images into patches: (batch, c, h, w) to (batch, h w / p^2, c p^2), row by row.

    Args:
        event_shape: (c, h, w); p must divide h and w.
        patch: p, the side of a patch in pixels.
    """

    def __init__(self, event_shape: Sequence[int], patch: int):
        super().__init__()
        channels, height, width = event_shape
        check_patch((channels, height, width), patch)
        self.event_shape, self.patch = (channels, height, width), patch
        self.token_shape = (height * width // patch**2, channels * patch**2)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Cuts up."""
        return to_patches(x, self.patch), zero_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Puts together."""
        return from_patches(z, self.event_shape, self.patch), zero_log_det(z)

    def output_shape(self, event_shape: Shape) -> Shape:
        """(patches, numbers of a patch)."""
        same_shape(self, self.event_shape, event_shape)
        return self.token_shape

    def input_shape(self, event_shape: Shape) -> Shape:
        """The shape given to the constructor."""
        same_shape(self, self.token_shape, event_shape)
        return self.event_shape


def space_to_channels(x: Tensor) -> Tensor:
    """`pixel_unshuffle(x, 2)`, but right for an empty batch too, and twice as fast on a CPU."""
    channels, height, width = squeezed(x.shape[1:])
    cells = x.reshape(x.shape[0], channels // 4, height, 2, width, 2).permute(0, 1, 3, 5, 2, 4)
    return cells.reshape(x.shape[0], channels, height, width)


def channels_to_space(x: Tensor) -> Tensor:
    """`pixel_shuffle(x, 2)`, the inverse of `space_to_channels`."""
    channels, height, width = unsqueezed(x.shape[1:])
    cells = x.reshape(x.shape[0], channels, 2, 2, height // 2, width // 2).permute(
        0, 1, 4, 2, 5, 3
    )
    return cells.reshape(x.shape[0], channels, height, width)


def squeezed(shape: Shape) -> Shape:
    """The shape after a squeeze: (c, h, w) to (4c, h/2, w/2); fails on an odd size."""
    channels, height, width = shape
    if height % 2 or width % 2:
        raise ValueError(
            f"squeeze needs even height and width, got {height} x {width}: "
            "use fewer scales, or pad the images"
        )
    return (4 * channels, height // 2, width // 2)


def unsqueezed(shape: Shape) -> Shape:
    """The shape before a squeeze: (4c, h, w) to (c, 2h, 2w)."""
    channels, height, width = shape
    if channels % 4:
        raise ValueError(f"unsqueeze needs channels in fours, got {channels}")
    return (channels // 4, 2 * height, 2 * width)


class MultiScale(Bijection):
    """Factoring out: after each scale half of the channels are latent, the rest goes on.

        h_0 = x;   (z_l, h_l) = split(f_l(h_{l-1}));   z = (z_1, ..., z_{L-1}, f_L(h_{L-1}))

    The factored-out half is the second half of the channels. A `prior` may model it given the half
    that goes on: z_l <- whiten(z_l; h_l), so that every latent is standard whatever its scale, and
    one temperature serves all of them.

    Dinh, Sohl-Dickstein & Bengio (2017), eq. 13-16; Kingma & Dhariwal (2018) for the priors.

    Args:
        scales: the bijections f_1 .. f_L of images.
        event_shape: (channels, height, width) of x.
        priors: L-1 couplings (or None each) that act on the whole f_l(h) before it is divided and
            move only its second half.
    """

    scales: Sequence[Bijection]
    priors: Sequence[Bijection]

    def __init__(
        self,
        scales: Sequence[Bijection],
        event_shape: Sequence[int],
        priors: Sequence[Bijection | None] | None = None,
    ):
        super().__init__()
        self.scales = nn.ModuleList(scales)  # type: ignore[assignment]
        given = priors if priors is not None else [None] * (len(scales) - 1)
        if len(given) != len(scales) - 1:
            raise ValueError(
                f"{len(scales)} scales factor out {len(scales) - 1} times: "
                f"give as many priors, not {len(given)}"
            )
        filled = [p if p is not None else Chain() for p in given]
        self.priors = nn.ModuleList(filled)  # type: ignore[assignment]
        parts = [*self.scales, *self.priors]
        self.closed_form_inverse = all(part.closed_form_inverse for part in parts)
        self.exact_log_det = all(part.exact_log_det for part in parts)
        self.event_shape = tuple(event_shape)
        self.latent_shapes = self._latent_shapes()

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Images (batch, c, h, w) to latents (batch, c * h * w), first scale first."""
        log_det = zero_log_det(x)
        latents = []
        for level, scale in enumerate(self.scales):
            x, change = scale(x, context)
            log_det = log_det + change
            if level < len(self.priors):
                x, change = self.priors[level](x, context)
                log_det = log_det + change
                x, latent = x.chunk(2, 1)
                latents.append(latent.flatten(1))
        latents.append(x.flatten(1))
        return torch.cat(latents, 1), log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Latents to images."""
        log_det = zero_log_det(z)
        *factored, last = z.split([math.prod(s) for s in self.latent_shapes], 1)
        x = last.unflatten(1, self.latent_shapes[-1])
        for level in range(len(self.scales) - 1, -1, -1):
            if level < len(self.priors):
                latent = factored[level].unflatten(1, self.latent_shapes[level])
                x, change = self.priors[level].inverse(torch.cat((x, latent), 1), context)
                log_det = log_det + change
            x, change = self.scales[level].inverse(x, context)
            log_det = log_det + change
        return x, log_det

    def to_latent(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Images to latents, without log-determinants."""
        latents = []
        for level, scale in enumerate(self.scales):
            x = scale.to_latent(x, context)
            if level < len(self.priors):
                x, latent = self.priors[level].to_latent(x, context).chunk(2, 1)
                latents.append(latent.flatten(1))
        return torch.cat([*latents, x.flatten(1)], 1)

    def to_data(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Latents to images, without log-determinants."""
        *factored, last = z.split([math.prod(s) for s in self.latent_shapes], 1)
        x = last.unflatten(1, self.latent_shapes[-1])
        for level in range(len(self.scales) - 1, -1, -1):
            if level < len(self.priors):
                latent = factored[level].unflatten(1, self.latent_shapes[level])
                x = self.priors[level].to_data(torch.cat((x, latent), 1), context)
            x = self.scales[level].to_data(x, context)
        return x

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Initialises scale after scale."""
        for level, scale in enumerate(self.scales):
            scale.initialize(x, context)
            if level < len(self.priors):
                x = scale.to_latent(x, context)
                self.priors[level].initialize(x, context)
                x = self.priors[level].to_latent(x, context)
                x = x.chunk(2, 1)[0]

    def output_shape(self, event_shape: Shape) -> Shape:
        """One flat latent."""
        return (math.prod(same_shape(self, self.event_shape, event_shape)),)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The shape given to the constructor."""
        same_shape(self, (math.prod(self.event_shape),), event_shape)
        return self.event_shape

    def _latent_shapes(self) -> list[Shape]:
        shapes, shape = [], self.event_shape
        for level, scale in enumerate(self.scales):
            shape = scale.output_shape(shape)
            if level < len(self.priors):
                channels, *rest = shape
                if channels % 2:
                    raise ValueError(f"scale {level + 1} ends with {channels} channels: not even")
                shape = (channels // 2, *rest)
                shapes.append(shape)
        return [*shapes, shape]
