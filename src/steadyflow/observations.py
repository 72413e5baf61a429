"""How a decoder's numbers become a distribution of data: the likelihoods p(x|w) of autoencoders.

    Gaussian   log p(x|w) = -sum_i [ (x_i - m_i)^2 / 2 s_i^2 + log s_i + log(2 pi) / 2 ]
    logistic   P(x|w) = prod_i [ sigma((x_i + r - m_i) / s_i) - sigma((x_i - r - m_i) / s_i) ]

Data lie in [-1, 1] (pixels) or have variance 1 (vectors). The logistic is that of integers: x_i is
the middle of a bin of width 2 r, and the first and the last bin reach to infinity, so that the
probabilities of all integers sum to one. A scale is one number for all variables ('scalar'), one
for each ('variable'), or comes from the decoder with the mean ('network'); a floor keeps the
density of data that can be reconstructed exactly from growing without bound.

Kingma & Welling, "Auto-Encoding Variational Bayes" (2014), appendix C.2; Kingma et al., "Improving
Variational Inference with Inverse Autoregressive Flow" (2016), appendix C, for the logistic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.bijections.bijection import sum_event
from steadyflow.errors import unknown

SCALES = ("scalar", "variable", "network")
FIRST_SCALE = 0.1  # before training, where it is learned
GAIN = 3.0  # log-scales learn at three times the pace, as in Glow
BOUND = 8.0  # of |log s|: exp(-8) is far below any floor that one would choose


class LearnedScale(nn.Module):
    """A positive number s = floor + exp(g), learned or fixed.

    Args:
        shape: of s.
        fixed: its value; None to learn it.
        floor: the least that a learned one can be.
    """

    def __init__(self, shape: Sequence[int], fixed: float | None = None, floor: float = 0.0):
        super().__init__()
        if fixed is not None and not fixed > 0:
            raise ValueError(f"a standard deviation must be above 0 (or None), got {fixed}")
        self.fixed, self.floor = fixed, floor
        self.raw = None
        if fixed is None:
            first = BOUND * math.atanh(math.log(FIRST_SCALE) / BOUND) / GAIN
            self.raw = nn.Parameter(torch.full(tuple(shape), first))

    def forward(self, like: Tensor, moved: Tensor | float = 0.0) -> Tensor:
        """The scale, in the arithmetic of `like`; `moved` adds to its logarithm."""
        if self.raw is None:
            assert self.fixed is not None
            return like.new_full((), self.fixed)
        log_scale = GAIN * self.raw + moved
        return self.floor + torch.exp(BOUND * torch.tanh(log_scale / BOUND))


class Observation(nn.Module):
    """A distribution of data given a decoder's output, independent over the variables.

    Args:
        event_shape: of the data.
        scale: 'scalar', 'variable' or 'network'.
        fixed: a scale that is not learned; None to learn it.
        floor: the least that a learned scale can be.

    Attributes:
        planes: numbers that the decoder gives for each variable: the mean, perhaps a log-scale.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        scale: str = "scalar",
        fixed: float | None = None,
        floor: float = 1e-3,
    ):
        super().__init__()
        if scale not in SCALES:
            raise unknown("decoder scale", scale, SCALES)
        if scale == "network" and fixed is not None:
            raise ValueError("a fixed scale is one number: choose 'scalar', not 'network'")
        self.planes = 2 if scale == "network" else 1
        self.scale = LearnedScale(event_shape if scale == "variable" else (), fixed, floor)

    def moments(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale from the decoder's output, (batch, planes * channels, *rest)."""
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        if self.planes == 1:
            return output, self.scale(output)
        mean, moved = output.chunk(2, 1)
        return mean, self.scale(mean, moved)

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """Log-likelihood of x: (batch, *event), (batch,) in nats."""
        raise NotImplementedError

    def sample(
        self, output: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws data (batch, *event), their scale `temperature` times as large."""
        raise NotImplementedError


class GaussianObservation(Observation):
    """x ~ N(m, s^2)."""

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """Log-density of x: (batch, *event), (batch,) in nats."""
        mean, std = self.moments(output)
        error = (x - mean) / std
        constant = 0.5 * x.shape[1:].numel() * math.log(2 * math.pi)
        return -sum_event(0.5 * error * error + std.log()) - constant

    def sample(
        self, output: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws real numbers."""
        mean, std = self.moments(output)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + temperature * std * noise


class LogisticObservation(Observation):
    """The middle of a bin of a logistic distribution of mean m and scale s.

    Args:
        event_shape: of the data.
        bits: of each integer: 2^bits bins fill [-1, 1].
        scale: 'scalar', 'variable' or 'network'.
        fixed: a scale that is not learned; None to learn it.
        floor: the least that a learned scale can be.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        bits: int,
        scale: str = "network",
        fixed: float | None = None,
        floor: float = 1e-3,
    ):
        super().__init__(event_shape, scale, fixed, floor)
        self.radius = 2.0**-bits

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """Log-probability of the integers whose bins have the middles x, (batch,) in nats."""
        mean, scale = self.moments(output)
        above, below = (x + self.radius - mean) / scale, (x - self.radius - mean) / scale
        # sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - e^(b - a)); the outer bins have one edge
        edge = 1 - 2 * self.radius
        first, last = x < -edge, x > edge
        upper = F.logsigmoid(above).masked_fill(last, 0.0)
        lower = F.logsigmoid(-below).masked_fill(first, 0.0)
        inside = torch.log(-torch.expm1(-2 * self.radius / scale)).expand_as(x)
        return sum_event(upper + lower + inside.masked_fill(first | last, 0.0))

    def sample(
        self, output: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws real numbers; those beyond [-1, 1] belong to the outer bins."""
        mean, scale = self.moments(output)
        u = torch.rand(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        tiny = torch.finfo(u.dtype).eps / 4
        return mean + temperature * scale * torch.logit(u.clamp(tiny, 1 - 2 * tiny))
