"""The conditioner networks of Glow: three convolutions, and what stands at a factored-out half.

    theta = exp(3 g) * conv3x3(relu(conv1x1(relu(conv3x3(x)))))

The last convolution starts at zero, so that a flow starts as the identity, and the learned gain g
lets each of its outputs grow quickly. Convolutions run with the channels innermost in memory
(channels_last), the order that CPU and half-precision GPU kernels are fast in.

Kingma & Dhariwal, "Glow" (2018), sec. 3.3; the gain and the edge channel are from their code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.networks import fused_glow
from steadyflow.networks.layout import channels_innermost, clipped

CACHE = 2**21  # bytes of one activation that stay near a core (measured: 1 to 4 MiB are alike)
GAIN = 3.0  # the authors' logscale_factor: g learns at three times the pace


class ZeroConv(nn.Module):
    """A 3x3 convolution that starts at zero, with a learned gain exp(3 g) for each output.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        size: (height, width) to learn a bias for each position as well; None for one bias.
        context_features: length of a context vector, added linearly; None for none.
        clip: inputs beyond it count as it; None for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: tuple[int, int] | None = None,
        context_features: int | None = None,
        clip: float | None = None,
    ):
        super().__init__()
        self.clip = clip
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels, *(size or (1, 1))))
        self.gain = nn.Parameter(torch.zeros(out_channels))
        self.context = None
        if context_features:
            self.context = nn.Linear(context_features, out_channels, bias=False)
            nn.init.zeros_(self.context.weight)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        weight, bias = self.affine()
        if self.clip is not None:
            x = F.hardtanh(x, -self.clip, self.clip)
        if self.bias[0].numel() == 1:
            y = F.conv2d(x, weight, bias.flatten(), padding=1)
        else:
            y = F.conv2d(x, weight, padding=1) + bias
        if self.context is not None and context is not None:
            gain = torch.exp(GAIN * self.gain)
            y = y + (gain * self.context(context.to(y.dtype)))[:, :, None, None]
        return y.contiguous()

    def affine(self) -> tuple[Tensor, Tensor]:
        """Weight and bias with the gain in them: products of a few numbers, not of every pixel."""
        gain = torch.exp(GAIN * self.gain)[:, None, None]
        return self.weight * gain[..., None], self.bias * gain


class GlowNet(nn.Module):
    """Glow's three-layer conditioner.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        hidden_channels: channels between.
        context_features: length of a context vector, added to the features; None for none.
        clip: inputs beyond it count as it; None for none.
        edges: let the network see where the image ends, by one more input channel of ones, which
            zero padding borders.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int = 128,
        context_features: int | None = None,
        clip: float | None = None,
        edges: bool = True,
    ):
        super().__init__()
        self.clip, self.edges = clip, edges
        # torch's own small first weights: with He's, 2.4 times as large, training was less steady
        self.first = nn.Conv2d(in_channels + edges, hidden_channels, 3, padding=1)
        self.second = nn.Conv2d(hidden_channels, hidden_channels, 1)
        self.last = ZeroConv(hidden_channels, out_channels)
        self.context = nn.Linear(context_features, hidden_channels) if context_features else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        shift = None
        if self.context is not None and context is not None:
            shift = self.context(context.to(x.dtype))
        if not torch.compiler.is_compiling():
            y = fused_glow.attempt(self, x, shift)
            if y is not None:
                return y
        rows = rows_in_cache(x, self.second.out_channels)
        if rows is None or rows >= len(x):
            return self._evaluate(x, shift)
        # as many examples at a time as a core's cache holds: up to a third faster
        parts = x.split(rows)
        given = [None] * len(parts) if shift is None else shift.split(rows)
        pairs = zip(parts, given, strict=True)
        return torch.cat([self._evaluate(part, its_own) for part, its_own in pairs])

    def _evaluate(self, x: Tensor, shift: Tensor | None) -> Tensor:
        h = self.first(prepare(x, self.clip, self.edges))
        if shift is not None:
            h = h + shift.to(h.dtype)[:, :, None, None]
        h = F.relu(self.second(F.relu(h, inplace=True)), inplace=True)
        return self.last(h)


def rows_in_cache(x: Tensor, channels: int) -> int | None:
    """How many examples, at x's size and so many channels, fit the caches of the CPU's cores.

    None, for all of them, on other devices and in compiled code.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    example = channels * x.shape[2] * x.shape[3] * x.element_size()
    return max(1, CACHE * torch.get_num_threads() // example)


def prepare(x: Tensor, clip: float | None, edges: bool) -> Tensor:
    """Clips x, adds the channel of ones and puts the channels innermost in memory."""
    return channels_innermost(clipped(x, clip, edges))
