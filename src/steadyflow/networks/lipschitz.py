"""The parts of contractive networks: matrices and convolutions of bounded norm.

    y = W_c x + b,   |W_c| <= c              the norm of the operator, `networks.lipschitz_layer`
    |phi'| <= 1                              activations, `networks.lipschitz_activations`

A network of such layers contracts by the product of their coefficients. Behrmann et al.,
"Invertible Residual Networks" (2019), sec. 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.networks.lipschitz_activations import (
    ACTIVATIONS,
    CLipSwish,
    LipSwish,
    lipschitz_activation,
)
from steadyflow.networks.lipschitz_layer import MARGIN, NORMS, TOLERANCE, LipschitzLayer

__all__ = [
    "ACTIVATIONS",
    "MARGIN",
    "NORMS",
    "TOLERANCE",
    "CLipSwish",
    "LipSwish",
    "LipschitzConv2d",
    "LipschitzLayer",
    "LipschitzLinear",
    "check_lipschitz",
    "lipschitz_activation",
]


class LipschitzLinear(LipschitzLayer):
    """y = W_c x + b with |W_c| <= c.

    Args:
        in_features: length of x.
        out_features: length of y.
        coefficient: c.
        norm: '2', '1' or 'inf'.

    Example:
        >>> layer = LipschitzLinear(3, 5, coefficient=0.9)
        >>> layer.weight.data *= 100
        >>> layer.lipschitz
        0.9
    """

    def __init__(
        self, in_features: int, out_features: int, coefficient: float = 0.98, norm: str = "2"
    ):
        super().__init__(nn.Linear(in_features, out_features).weight.data, coefficient, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_features) to (batch, out_features)."""
        return F.linear(x, self.constrained(), self.bias)

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """(batch, in_features) to (batch, out_features)."""
        return F.linear(x, weight)

    def transposed(self, y: Tensor, weight: Tensor) -> Tensor:
        """(batch, out_features) to (batch, in_features)."""
        return F.linear(y, weight.T)


class LipschitzConv2d(LipschitzLayer):
    """A convolution of images with zero padding that keeps their size, and with |W_c| <= c.

    Args:
        in_channels: channels of x.
        out_channels: channels of y.
        kernel_size: odd.
        image_size: (height, width); images of another size are measured anew when they come.
        coefficient: c.
        norm: '2', '1' or 'inf'.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        image_size: Sequence[int],
        coefficient: float = 0.98,
        norm: str = "2",
    ):
        if kernel_size % 2 == 0:
            raise ValueError(f"kernels must be of odd size, got {kernel_size}")
        weight = nn.Conv2d(in_channels, out_channels, kernel_size).weight.data
        super().__init__(weight, coefficient, norm, image_size if kernel_size > 1 else ())
        self.padding = kernel_size // 2

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        if self.padding and x.shape[2:] != self.size:
            self.size = tuple(x.shape[2:])
            self.vectors = self.vectors.new_zeros(2, *self._domain())
        return F.conv2d(x, self.constrained(), self.bias, padding=self.padding)

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        return F.conv2d(x, weight, padding=self.padding)

    def transposed(self, y: Tensor, weight: Tensor) -> Tensor:
        """(batch, out_channels, height, width) to (batch, in_channels, height, width)."""
        return F.conv2d(y, turned(weight), padding=self.padding)

    def _map(self, weight: Tensor, x: Tensor) -> Tensor:
        if not self.padding:
            return super()._map(weight, x)
        return F.conv2d(x[None], weight, padding=self.padding)[0]

    def _adjoint(self, weight: Tensor, y: Tensor) -> Tensor:
        if not self.padding:
            return super()._adjoint(weight, y)
        return F.conv2d(y[None], turned(weight), padding=self.padding)[0]

    def _blocks(self, weight: Tensor) -> Tensor:
        if not self.padding:
            return super()._blocks(weight)
        # a zero-padded convolution is a part of the circular one on a torus larger by k - 1, whose
        # frequencies do not mix (Sedghi, Gupta & Long 2019)
        torus = [n + weight.shape[-1] - 1 for n in self.size]
        return torch.fft.rfft2(weight, s=torus).flatten(2).permute(2, 0, 1)


def turned(weight: Tensor) -> Tensor:
    """The kernel (in, out, k, k) of the adjoint of a convolution that keeps the size of images.

    The same map as `conv_transpose2d`, which on a CPU is many times slower for few channels.
    """
    return weight.transpose(0, 1).flip(-1, -2)


def check_lipschitz(
    module: nn.Module, slack: float = 1e-4, max_steps: int = 40
) -> dict[str, tuple[float, float]]:
    """The float64 norm of every layer as it acts, and its coefficient, by the layer's name.

    Args:
        module: with layers of bounded norm.
        slack: by how much of its coefficient a norm may be above it.
        max_steps: of the iteration for each layer; more find a norm to more digits.

    Raises:
        ValueError: if a norm is above its coefficient by more than `slack` of it.
    """
    found = {}
    for name, layer in module.named_modules():
        if isinstance(layer, LipschitzLayer):
            norm = layer.true_norm(1e-4, max_steps)
            if not norm <= layer.coefficient * (1 + slack):
                raise ValueError(
                    f"layer '{name}' has the norm {norm:.6f}, above its bound "
                    f"{layer.coefficient}: its network may not be invertible; its weights were "
                    "changed behind its back, or the file is damaged"
                )
            found[name] = (norm, layer.coefficient)
    return found
