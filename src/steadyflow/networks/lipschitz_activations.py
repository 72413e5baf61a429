"""Activations whose slope is at most 1, for contractive networks.

    |phi(x) - phi(y)| <= |x - y|,   phi smooth

Smooth because log-determinants hold phi' and their gradients phi'': where phi' jumps, as that of
ReLU does, log-determinants have no gradient through it. Each knows its own slope and by how much
it widens the channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.errors import unknown


class LipSwish(nn.Module):
    """x sigmoid(beta x) / 1.1, with beta > 0 learned: slope at most 1 for every beta.

    Chen et al., "Residual Flows for Invertible Generative Modeling" (2019), sec. 3.3.
    """

    widening = 1

    def __init__(self):
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Like x."""
        return x * torch.sigmoid(F.softplus(self.raw) * x) / 1.1

    def slope(self, x: Tensor) -> Tensor:
        """The derivative, like x."""
        return self._swish_slope(x) / 1.1

    def _swish_slope(self, x: Tensor) -> Tensor:
        bx = F.softplus(self.raw) * x
        gate = torch.sigmoid(bx)
        return gate + bx * gate * (1 - gate)


class CLipSwish(LipSwish):
    """swish(x) and swish(-x) side by side, over the norm of their slopes; doubles the channels.

    With s = swish'(x) the slopes are s and 1 - s, and s <= 1.0999: together at most 1.1045 in the
    2-norm, 1.1999 in the 1-norm. Perugachi-Diaz et al., "Invertible DenseNets" (2021), sec. 4.2.
    """

    widening = 2

    def __init__(self, norm: str = "2"):
        super().__init__()
        self.total = {"2": 1.1045, "1": 1.2, "inf": 1.1}[norm]

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, ...) to (batch, 2 channels, ...)."""
        positive = x * torch.sigmoid(F.softplus(self.raw) * x)
        return torch.cat((positive, positive - x), 1) / self.total  # swish(-x) = swish(x) - x

    def slope(self, x: Tensor) -> Tensor:
        """The derivatives of both halves, (batch, 2 channels, ...)."""
        slope = self._swish_slope(x)
        return torch.cat((slope, slope - 1), 1) / self.total


class _Fixed(nn.Module):
    """An activation without parameters, with its derivative."""

    widening = 1

    def __init__(self, value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]):
        super().__init__()
        self.value, self.slope = value, slope

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x)


def _elu_slope(x: Tensor) -> Tensor:
    return torch.exp(x.clamp_max(0.0))


def _tanh_slope(x: Tensor) -> Tensor:
    return 1 - torch.tanh(x).square()


ACTIVATIONS: dict[str, Callable[[str], nn.Module]] = {
    "lipswish": lambda norm: LipSwish(),
    "clipswish": CLipSwish,
    "elu": lambda norm: _Fixed(F.elu, _elu_slope),
    "tanh": lambda norm: _Fixed(torch.tanh, _tanh_slope),
}
TOO_STEEP = {"silu": 1.1, "swish": 1.1, "gelu": 1.13, "mish": 1.09}
TOO_FLAT = ("relu", "leaky-relu")


def lipschitz_activation(name: str, norm: str = "2") -> Any:
    """An activation of slope at most 1, with `slope` (its derivative) and `widening`.

    Raises:
        ValueError: for one whose slope is larger, or whose derivative jumps.
    """
    if name in TOO_STEEP:
        raise ValueError(
            f"activation '{name}' has slopes up to {TOO_STEEP[name]}, so it does not keep a "
            f"Lipschitz bound: use one of {', '.join(ACTIVATIONS)}"
        )
    if name in TOO_FLAT:
        raise ValueError(
            f"activation '{name}' has a derivative that jumps, so that log-determinants have no "
            f"gradient through it: use one of {', '.join(ACTIVATIONS)}"
        )
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name](norm)
