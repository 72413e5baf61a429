"""A diffusion transformer: the field on images as attention between patches.

Each block's layer normalisations are scaled and shifted, and its two updates gated, by the time
and the context; the gates start at zero. Peebles & Xie, "Scalable Diffusion Models with
Transformers" (2023), adaLN-Zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.networks.patches import check_patch, from_patches, to_patches
from steadyflow.networks.precision import full_precision
from steadyflow.networks.transformer import attend, heads_apart, heads_together
from steadyflow.networks.vector_field import TimeFeatures


class ModulatedBlock(nn.Module):
    """Attention and a two-layer network, both modulated."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.together = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.inner = nn.Linear(width, 4 * width)
        self.outer = nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, given: Tensor) -> Tensor:
        """(batch, patches, width) and (batch, width) to (batch, patches, width)."""
        a, b, c, d, e, f = self.modulation(given)[:, None].chunk(6, 2)
        x = self.norm(h) * (1 + a) + b
        query, key, value = heads_apart(self.together(x), 3, self.heads)
        h = h + c * self.mixed(heads_together(attend(query, key, value)))
        x = self.norm(h) * (1 + d) + e
        return h + f * self.outer(F.gelu(self.inner(x)))


class DiffusionTransformer(nn.Module):
    """A field on images.

    Args:
        event_shape: (channels, height, width).
        width: of the representation of a patch; a multiple of `heads`.
        blocks: how many.
        heads: of the attention.
        patch: side of a patch in pixels; it must divide height and width.
        context_features: length of the context; None for none.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        width: int = 64,
        blocks: int = 4,
        heads: int = 4,
        patch: int = 2,
        context_features: int | None = None,
    ):
        super().__init__()
        channels, height, side = event_shape
        check_patch((channels, height, side), patch)
        if width % heads:
            raise ValueError(f"width must be a multiple of the {heads} heads, got {width}")
        self.patch = patch
        self.time = TimeFeatures(4)
        self.given = nn.Sequential(
            nn.Linear(self.time.features + (context_features or 0), width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
        )
        inside = channels * patch**2
        self.input = nn.Linear(inside, width)
        self.place = nn.Parameter(0.02 * torch.randn(height * side // patch**2, width))
        self.blocks = nn.ModuleList(ModulatedBlock(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, inside)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(), or (batch,), and (batch, channels, height, width) to the same shape as x."""
        features = self.time(t, len(x), x.dtype)
        if context is not None:
            features = torch.cat((features, context.to(x.dtype)), 1)
        given = self.given(features)
        h = self.input(to_patches(x, self.patch)) + self.place
        for block in self.blocks:
            h = block(h, given)
        h = self.norm(h)
        with full_precision(h):
            flat = self.output(h.to(self.output.weight.dtype))
        return from_patches(flat, x.shape[1:], self.patch)
