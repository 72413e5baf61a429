"""Gated residual convolutions, with self-attention if wanted: the conditioners of Flow++.

    h <- norm(h + a * sigmoid(b)),   (a, b) = conv1x1(elu(conv3x3(elu(h))))
    h <- norm(h + a * sigmoid(b)),   (a, b) = conv1x1(attention over positions of h)

Ho, Chen, Srinivas, Duan & Abbeel, "Flow++: Improving Flow-Based Generative Models with Variational
Dequantization and Architecture Design" (2019), sec. 3.3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.networks.glow import ZeroConv, prepare

HEADS = 4


class GatedConvNet(nn.Module):
    """Residual blocks whose increments pass a gate; keeps the size of the image.

    The output layer starts at zero, so that a flow starts as the identity.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        hidden_channels: channels inside; a multiple of 4 with attention.
        blocks: number of residual blocks.
        context_features: length of a context vector, added to the features; None for none.
        clip: inputs beyond it count as it; None for none.
        attention: follow each block by self-attention over all positions.

    Raises:
        ValueError: if attention can not divide the hidden channels among its heads.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int = 96,
        blocks: int = 2,
        context_features: int | None = None,
        clip: float | None = None,
        attention: bool = False,
    ):
        super().__init__()
        if attention and hidden_channels % HEADS:
            raise ValueError(
                f"attention divides the hidden channels among {HEADS} heads: "
                f"{hidden_channels} is not a multiple of {HEADS}"
            )
        self.clip = clip
        self.first = nn.Conv2d(in_channels + 1, hidden_channels, 3, padding=1)
        self.context = nn.Linear(context_features, hidden_channels) if context_features else None
        self.blocks = nn.ModuleList()
        for _ in range(blocks):
            self.blocks.append(GatedBlock(hidden_channels))
            if attention:
                self.blocks.append(GatedAttention(hidden_channels))
        self.last = ZeroConv(hidden_channels, out_channels)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        h = self.first(prepare(x, self.clip, edges=True))
        if self.context is not None and context is not None:
            h = h + self.context(context.to(h.dtype))[:, :, None, None]
        for block in self.blocks:
            h = block(h)
        return self.last(F.elu(h))


class GatedBlock(nn.Module):
    """One gated residual convolution, normalised over the channels of each position."""

    def __init__(self, channels: int):
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)
        self.gate = nn.Conv2d(channels, 2 * channels, 1)
        self.norm = nn.LayerNorm(channels)

    def forward(self, h: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same."""
        return _over_channels(self.norm, h + F.glu(self.gate(F.elu(self.inner(F.elu(h)))), 1))


class GatedAttention(nn.Module):
    """Self-attention over the positions of an image, through a gate."""

    def __init__(self, channels: int):
        super().__init__()
        self.together = nn.Linear(channels, 3 * channels)
        self.gate = nn.Linear(channels, 2 * channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, h: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same."""
        rows = h.flatten(2).transpose(1, 2)
        heads = self.together(rows).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(*heads.unbind(0)).transpose(1, 2).flatten(2)
        rows = self.norm(rows + F.glu(self.gate(seen), 2))
        return rows.transpose(1, 2).unflatten(2, h.shape[2:])


def _over_channels(norm: nn.LayerNorm, h: Tensor) -> Tensor:
    return torch.movedim(norm(torch.movedim(h, 1, -1)), -1, 1)
