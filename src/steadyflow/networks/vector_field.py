"""A vector field on vectors: a smooth multilayer perceptron that knows the time.

    f(t, x, c) = W_n silu(... silu(W_1 [x, features of t, c]))

Smooth activations matter: with the kinks of SELU or ReLU an adaptive solver takes ten times the
steps (measured).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.networks.precision import full_precision


class TimeFeatures(nn.Module):
    """Cosines and sines of t at frequencies 1, 2, 4, ... times pi / 4, and t itself.

    Args:
        frequencies: how many.
    """

    rates: Tensor

    def __init__(self, frequencies: int = 4):
        super().__init__()
        rates = math.pi / 4 * 2.0 ** torch.arange(frequencies)
        self.register_buffer("rates", rates, persistent=False)
        self.features = 2 * frequencies + 1

    def forward(self, t: Tensor, batch: int, dtype: torch.dtype) -> Tensor:
        """() or (batch,) to (batch, features)."""
        t = t.to(self.rates.device, dtype).reshape(-1, 1)
        phase = t * self.rates.to(dtype)
        features = torch.cat((t, torch.cos(phase), torch.sin(phase)), 1)
        return features.expand(batch, -1)


class VectorField(nn.Module):
    """A field on vectors, smooth in everything.

    Inputs are softly bounded, x / sqrt(1 + (x / clip)^2), so that far from the data the field is
    constant and its ODE as easy as near it. The output layer starts at zero.

    Args:
        features: length of x.
        hidden_features: width of each hidden layer.
        context_features: length of the context, which is concatenated; None for none.
        clip: the soft bound on |x|; None for none.
        frequencies: of the features of t.
    """

    def __init__(
        self,
        features: int,
        hidden_features: Sequence[int] = (128, 128, 128),
        context_features: int | None = None,
        clip: float | None = 10.0,
        frequencies: int = 4,
    ):
        super().__init__()
        self.time = TimeFeatures(frequencies)
        widths = [features + self.time.features + (context_features or 0), *hidden_features]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.output = nn.Linear(widths[-1], features)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.clip = clip

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(), or (batch,), and (batch, features) to (batch, features)."""
        h = x if self.clip is None else x * torch.rsqrt(1 + (x / self.clip) ** 2)
        parts = [h, self.time(t, len(x), x.dtype)]
        if context is not None:
            parts.append(context.to(x.dtype))
        h = torch.cat(parts, 1)
        for layer in self.layers:
            h = F.silu(layer(h))
        with full_precision(h):
            return self.output(h.to(self.output.weight.dtype))
