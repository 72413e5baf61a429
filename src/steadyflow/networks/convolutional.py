"""Convolutional residual networks, the conditioners of flows on images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.networks.layout import channels_innermost
from steadyflow.networks.precision import full_precision


class ResidualBlock(nn.Module):
    """h + conv3x3(act(conv3x3(act(h)))), with the last one starting at zero."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same."""
        return h + self.second(F.relu(self.first(F.relu(h))))


class ResidualConvNet(nn.Module):
    """A residual network that keeps the size of the image.

    The output layer starts at zero, so that a flow starts as the identity, and inputs beyond
    `clip` count as `clip`, as in `MLP`. A context vector is added to the features as a bias for
    each channel. Features are laid out channels last, which convolutions in bfloat16 want, and the
    output layer keeps full precision under autocast: it sets shifts and scales.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        hidden_channels: channels inside.
        blocks: number of residual blocks.
        context_features: length of the context vector.
        clip: the bound on |x|; None for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int = 64,
        blocks: int = 2,
        context_features: int | None = None,
        clip: float | None = None,
    ):
        super().__init__()
        self.clip = clip
        self.input = nn.Conv2d(in_channels, hidden_channels, 3, padding=1)
        self.context = nn.Linear(context_features, hidden_channels) if context_features else None
        self.blocks = nn.ModuleList(ResidualBlock(hidden_channels) for _ in range(blocks))
        self.output = nn.Conv2d(hidden_channels, out_channels, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        if self.clip is not None:
            x = F.hardtanh(x, -self.clip, self.clip)
        h = self.input(channels_innermost(x))
        if self.context is not None and context is not None:
            h = h + self.context(context.to(h.dtype))[:, :, None, None]
        for block in self.blocks:
            h = block(h)
        h = F.relu(h)
        with full_precision(h):
            return self.output(h.to(self.output.weight.dtype))
