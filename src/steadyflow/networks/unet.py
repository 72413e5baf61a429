"""A U-Net that knows the time: the field of diffusion models on images.

Residual blocks at every resolution, the fine ones joined to the coarse by skips; in each block the
time and the context scale and shift the normalised features. Everything is smooth (SiLU), as an
adaptive solver wants it. Ronneberger, Fischer & Brox (2015); Ho, Jain & Abbeel (2020), appendix B;
Dhariwal & Nichol, "Diffusion Models Beat GANs on Image Synthesis" (2021), for the modulation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.networks.layout import channels_innermost
from steadyflow.networks.precision import full_precision
from steadyflow.networks.vector_field import TimeFeatures


class Modulated(nn.Module):
    """h + conv(silu(norm(conv(silu(norm(h)))) (1 + a) + b)), a and b from the time and context."""

    def __init__(self, channels: int, out_channels: int, features: int):
        super().__init__()
        self.first_norm = nn.GroupNorm(_groups(channels), channels)
        self.first = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(features, 2 * out_channels)
        self.second_norm = nn.GroupNorm(_groups(out_channels), out_channels)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]
        same = channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, h: Tensor, given: Tensor) -> Tensor:
        """(batch, channels, height, width) and (batch, features) to (batch, out, ...)."""
        scale, shift = self.modulation(given)[:, :, None, None].chunk(2, 1)
        inner = self.first(F.silu(self.first_norm(h)))
        inner = self.second(F.silu(self.second_norm(inner) * (1 + scale) + shift))
        return self.skip(h) + inner


class Attention(nn.Module):
    """h + self-attention over all positions."""

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        self.heads = heads if channels % heads == 0 else 1
        self.norm = nn.GroupNorm(_groups(channels), channels)
        self.together = nn.Conv1d(channels, 3 * channels, 1)
        self.output = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same."""
        parts = self.together(self.norm(h).flatten(2)).unflatten(1, (3, self.heads, -1))
        query, key, value = parts.transpose(3, 4).unbind(1)
        seen = F.scaled_dot_product_attention(query, key, value)
        return h + self.output(seen.transpose(2, 3).flatten(1, 2)).unflatten(2, h.shape[2:])


class UNet(nn.Module):
    """A field on images.

    Args:
        event_shape: (channels, height, width).
        hidden_channels: at the finest resolution.
        multipliers: of the channels at each resolution, each half the one before; as many are
            taken as halve the image evenly.
        blocks: residual blocks at each resolution.
        context_features: length of the context; None for none.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        hidden_channels: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 1,
        context_features: int | None = None,
    ):
        super().__init__()
        channels, height, width = event_shape
        levels = 1
        while (
            levels < len(multipliers) and height % 2 == width % 2 == 0 and min(height, width) > 4
        ):
            height, width, levels = height // 2, width // 2, levels + 1
        features = 4 * hidden_channels
        self.time = TimeFeatures(4)
        self.given = nn.Sequential(
            nn.Linear(self.time.features + (context_features or 0), features),
            nn.SiLU(),
            nn.Linear(features, features),
            nn.SiLU(),
        )
        self.input = nn.Conv2d(channels, hidden_channels, 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        now, skips = hidden_channels, [hidden_channels]
        for level in range(levels):
            wide = hidden_channels * multipliers[level]
            for _ in range(blocks):
                self.down.append(Modulated(now, wide, features))
                now = wide
                skips.append(now)
            if level < levels - 1:
                self.shrink.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
                skips.append(now)
        self.middle = nn.ModuleList([Modulated(now, now, features), Modulated(now, now, features)])
        self.attention = Attention(now)
        for level in reversed(range(levels)):
            wide = hidden_channels * multipliers[level]
            for _ in range(blocks + 1):
                self.up.append(Modulated(now + skips.pop(), wide, features))
                now = wide
            if level > 0:
                self.grow.append(nn.Conv2d(now, now, 3, padding=1))
        self.norm = nn.GroupNorm(_groups(now), now)
        self.output = nn.Conv2d(now, channels, 3, padding=1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)  # type: ignore[arg-type]
        self.levels, self.blocks = levels, blocks

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(), or (batch,), and (batch, channels, height, width) to the same shape as x."""
        features = self.time(t, len(x), x.dtype)
        if context is not None:
            features = torch.cat((features, context.to(x.dtype)), 1)
        given = self.given(features)
        h = self.input(channels_innermost(x))
        skips = [h]
        for level in range(self.levels):
            for block in self.down[level * self.blocks : (level + 1) * self.blocks]:
                h = block(h, given)
                skips.append(h)
            if level < self.levels - 1:
                h = self.shrink[level](h)
                skips.append(h)
        h = self.middle[1](self.attention(self.middle[0](h, given)), given)
        for step in range(self.levels):
            for block in self.up[step * (self.blocks + 1) : (step + 1) * (self.blocks + 1)]:
                h = block(torch.cat((h, skips.pop()), 1), given)
            if step < self.levels - 1:
                h = self.grow[step](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = F.silu(self.norm(h))
        with full_precision(h):
            return self.output(h.to(self.output.weight.dtype))


def _groups(channels: int) -> int:
    """As many groups of at least four channels as divide them, eight at most."""
    return next(g for g in (8, 4, 2, 1) if channels % g == 0 and (channels // g >= 4 or g == 1))
