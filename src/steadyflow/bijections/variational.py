"""Variational dequantization: the noise that turns integers into reals is itself a learned flow.

    y = (x + u) / 2^bits,   u = sigmoid(g_x(e)),  e ~ logistic(0, 1)^D,   g_x a flow given x
    log P(x) >= E_u [ log p(y) - log q(u|x) ] - D log 2^bits

The bound is tight when q(u|x) follows p within each bin; uniform noise is the case g_x = identity,
since the sigmoid of a logistic variable is uniform, and it is where training starts.

Ho, Chen, Srinivas, Duan & Abbeel, "Flow++" (2019), sec. 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.bijections.bijection import Transformed, sum_event
from steadyflow.bijections.coupling import Checkerboard, Halves, Split
from steadyflow.bijections.dequantization import UniformDequantization
from steadyflow.bijections.shape import space_to_channels
from steadyflow.bijections.transforms import Affine
from steadyflow.networks.glow import GlowNet

TINY = 1e-6  # noise nearer than that to the edge of a bin counts as so near: |e| stays below 14


class VariationalDequantization(nn.Module):
    """Adds learned noise to integer images and scales them to [0, 1).

    In the place of `UniformDequantization`: its `log_det` is -log q(u|x) - D log 2^bits, a draw by
    which log_prob is a lower bound on log P(x) in the mean.

    Args:
        event_shape: (channels, height, width).
        bits: of each integer; 8 for ordinary pixels.
        couplings: couplings of the noise flow.
        hidden_channels: channels of its networks.
    """

    exact = False

    def __init__(
        self,
        event_shape: Sequence[int],
        bits: int = 8,
        couplings: int = 4,
        hidden_channels: int = 32,
    ):
        super().__init__()
        self.uniform = UniformDequantization(bits)
        self.bits, self.levels = self.uniform.bits, self.uniform.levels
        channels, height, width = event_shape
        even = height % 2 == 0 and width % 2 == 0
        self.splits: list[Split] = [
            Checkerboard(flip=i % 2 == 1) if even else Halves(flip=i % 2 == 1)
            for i in range(couplings)
        ]
        seen = 4 * channels if even else channels
        self.squeeze = even
        self.transform = Affine("tanh")
        self.first = GlowNet(channels, 2 * channels, hidden_channels)
        self.networks = nn.ModuleList()
        for split in self.splits:
            kept, moved = split.shapes(tuple(event_shape))
            self.networks.append(GlowNet(kept[0] + seen, 2 * moved[0], hidden_channels))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Integers x: (batch, channels, height, width) to reals y in [0, 1), with fresh noise.

        Raises:
            TypeError: if x is not of an integer type.
            ValueError: if an integer is out of range.
        """
        y, log_det = self.uniform(x, context)
        dtype = self.first.first.weight.dtype
        pixels = x.to(dtype)
        u = (y.to(dtype) * self.levels - pixels).clamp(TINY, 1 - TINY)
        e = torch.logit(u)
        start = _log_slope(e)
        seen = pixels / self.levels - 0.5
        e, change = self.transform.forward(e, self.first(seen))
        seen = space_to_channels(seen) if self.squeeze else seen
        for split, network in zip(self.splits, self.networks, strict=True):
            kept, moved = split(e)
            moved, more = self.transform.forward(moved, network(torch.cat((kept, seen), 1)))
            e, change = split.merge(kept, moved), change + more
        # -log q(u|x): the slope of u against the uniform noise that it was made of
        change = change + sum_event(_log_slope(e) - start)
        # x + u must round into the bin of x, and come back through a flow into it
        edge = self.levels * torch.finfo(torch.float32).eps / 2
        u = torch.sigmoid(e).clamp(edge, 1 - edge)
        return (pixels + u) / self.levels, log_det + change

    def middle(self, x: Tensor) -> Tensor:
        """Integers to the middle of their bins, without noise."""
        return self.uniform.middle(x)

    def inverse(self, y: Tensor) -> Tensor:
        """Reals y to the integers whose bin they lie in; what lies outside [0, 1) is clipped."""
        return self.uniform.inverse(y)


def _log_slope(e: Tensor) -> Tensor:
    # of the sigmoid: log u (1 - u)
    return F.logsigmoid(e) + F.logsigmoid(-e)
