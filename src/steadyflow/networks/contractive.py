"""Networks g that contract: |g(x) - g(y)| <= L |x - y| with L < 1, for residual flows.

    g = W_n a(... W_2 a(W_1 x + b_1 + C context) ...) + b_n,  L = prod_i |W_i|   (slopes <= 1)

The context shifts the first features: that costs no contraction, so C is free. For matrices the
log-determinant of I + J_g is exact at the price of the narrowest place on the way, as
det(I + P Q) = det(I + Q P) (Sylvester): J is a product around a circle that may be cut anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.networks import fused_contractive
from steadyflow.networks.lipschitz import (
    LipschitzConv2d,
    LipschitzLayer,
    LipschitzLinear,
    lipschitz_activation,
)


class Contractive(nn.Module):
    """Layers of bounded norm with activations of slope at most 1 between them.

    Args:
        layers: the linear maps; the first takes what the last gives.
        activations: one before each layer but the first, and one before the first if
            `activate_first`.
        context: what turns a context vector into a shift of the first features; None for none.

    Raises:
        ValueError: if the coefficients of the layers do not make a contraction.
    """

    layers: Sequence[LipschitzLayer]
    activations: Sequence[nn.Module]

    def __init__(
        self,
        layers: Sequence[LipschitzLayer],
        activations: Sequence[nn.Module],
        context: nn.Linear | None,
    ):
        super().__init__()
        self.layers = nn.ModuleList(layers)  # type: ignore[assignment]
        self.activations = nn.ModuleList(activations)  # type: ignore[assignment]
        self.context = context
        self.activate_first = len(activations) == len(layers)
        largest = math.prod(layer.coefficient for layer in layers)
        if largest >= 1:
            raise ValueError(
                "x + g(x) is invertible if g contracts, but the coefficients "
                f"{[layer.coefficient for layer in layers]} allow a Lipschitz constant of "
                f"{largest:.3g}: choose coefficients below 1, such as 0.9"
            )

    @property
    def lipschitz(self) -> float:
        """An upper bound on L for the present weights."""
        return math.prod(layer.lipschitz for layer in self.layers)

    @property
    def norm(self) -> str:
        """The norm in which the network contracts."""
        return self.layers[0].norm

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x: (batch, *event) and context: (batch, features) or None to g(x), like x."""
        for i, layer in enumerate(self.layers):
            act = self._activation(i)
            x = layer(x if act is None else act(x))
            x = self._shifted(x, context) if i == 0 else x
        return x

    def linearized(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """g(x), and the map u -> J^T u of the first len(u) examples; without gradients."""
        with torch.no_grad():
            weights = [layer.constrained() for layer in self.layers]
            slopes: list[Tensor | None] = []
            for i, layer in enumerate(self.layers):
                act = self._activation(i)
                slopes.append(None if act is None else act.slope(x))
                x = layer(x if act is None else act(x))
                x = self._shifted(x, context) if i == 0 else x

        widening = self._activation(1).widening

        def pull(u: Tensor) -> Tensor:
            with torch.no_grad():
                for layer, weight, slope in reversed(
                    list(zip(self.layers, weights, slopes, strict=True))
                ):
                    u = layer.transposed(u, weight)
                    if slope is not None:
                        u = _pulled(slope[: len(u)], u, widening)
                return u

        return x, pull

    def jvp(
        self, x: Tensor, tangent: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """g(x) and J tangent, both differentiable: x and tangents share their convolutions."""
        n = len(x)
        for i, layer in enumerate(self.layers):
            act = self._activation(i)
            if act is not None:
                tangent, x = _pushed(act.slope(x), tangent), act(x)
            x, tangent = layer.linear(torch.cat((x, tangent)), layer.constrained()).split(n)
            x = x + layer.shift(x)
            x = self._shifted(x, context) if i == 0 else x
        return x, tangent

    def _activation(self, i: int) -> Any:
        """What stands before layer i, or None."""
        i += self.activate_first - 1
        return None if i < 0 else self.activations[i]

    def _shifted(self, h: Tensor, context: Tensor | None) -> Tensor:
        if self.context is None or context is None:
            return h
        shift = self.context(context.to(h.dtype))
        return h + shift.view(*shift.shape, *(1,) * (h.dim() - 2))


class ContractiveMLP(Contractive):
    """The contraction for vectors.

    Args:
        features: length of x and of g(x).
        hidden_features: width of each hidden layer.
        context_features: length of the context; None for none.
        coefficient: the largest norm of each layer.
        activation: 'lipswish', 'clipswish', 'elu' or 'tanh'.
        norm: '2', '1' or 'inf', in which g contracts.

    Example:
        >>> import torch
        >>> g = ContractiveMLP(3, (16, 16), coefficient=0.9)
        >>> value, log_det = g.log_det(torch.randn(5, 3))
        >>> value.shape, log_det.shape, g.lipschitz < 0.9**3 + 1e-6
        (torch.Size([5, 3]), torch.Size([5]), True)
    """

    def __init__(
        self,
        features: int,
        hidden_features: Sequence[int] = (128, 128),
        context_features: int | None = None,
        coefficient: float = 0.98,
        activation: str = "lipswish",
        norm: str = "2",
    ):
        acts = [lipschitz_activation(activation, norm) for _ in hidden_features]
        if not acts:
            raise ValueError("a contraction needs at least one hidden layer")
        widening = acts[0].widening
        sizes = [(features, 1), *((w, widening) for w in hidden_features), (features, 1)]
        layers = [
            LipschitzLinear(a * k, b, coefficient, norm) for (a, k), (b, _) in pairwise(sizes)
        ]
        context = (
            nn.Linear(context_features, hidden_features[0], False) if context_features else None
        )
        super().__init__(layers, acts, context)
        widths = [features, *hidden_features]
        self._cut = widths.index(min(widths))

    def log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """g(x): (batch, features) and log|det(I + dg/dx)|: (batch,), exactly."""
        weights = [layer.constrained() for layer in self.layers]
        slopes = []
        h = F.linear(x, weights[0], self.layers[0].bias)
        h = self._shifted(h, context)
        for act, weight, layer in zip(self.activations, weights[1:], self.layers[1:], strict=True):
            slopes.append(act.slope(h))  # type: ignore[operator]
            h = F.linear(act(h), weight, layer.bias)
        circle = self._circle(weights, slopes)
        small = torch.eye(circle.shape[-1], dtype=circle.dtype, device=x.device) + circle
        wide = torch.promote_types(small.dtype, torch.float32)
        return h, torch.linalg.slogdet(small.to(wide)).logabsdet

    def _circle(self, weights: list[Tensor], slopes: list[Tensor]) -> Tensor:
        """The product of all Jacobians around the circle from the cut to the cut, transposed.

        Rows (batch, width of the cut, features) are tangents, which go through the layers as
        examples do: one matrix product for all.
        """
        cut = self._cut
        if cut == 0:
            tangents, steps, turned = weights[0].T, weights[1:], slopes
        else:
            joined = weights[0] @ weights[-1]  # the narrow way from the last features to the first
            steps = [*weights[cut:-1], joined, *weights[1:cut]]
            turned = [*slopes[cut - 1 :], *slopes[: cut - 1]]
            size = weights[cut - 1].shape[0]
            tangents = torch.eye(size, dtype=joined.dtype, device=joined.device)
        tangents = tangents.expand(len(slopes[0]), -1, -1)
        for slope, weight in zip(turned, steps, strict=True):
            tangents = F.linear(_slanted(slope, tangents), weight)
        return tangents


class ContractiveConvNet(Contractive):
    """The contraction for images: convolutions of size 3, 1 and 3.

    Args:
        channels: of x and of g(x).
        hidden_channels: inside.
        image_size: (height, width).
        context_features: length of the context; None for none.
        coefficient: the largest norm of each layer.
        activation: 'lipswish', 'clipswish', 'elu' or 'tanh'.
        norm: '2', '1' or 'inf', in which g contracts.
        activate_first: begin with an activation, as all blocks but the first do.
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        image_size: Sequence[int],
        context_features: int | None = None,
        coefficient: float = 0.98,
        activation: str = "lipswish",
        norm: str = "2",
        activate_first: bool = True,
    ):
        acts = [lipschitz_activation(activation, norm) for _ in range(2 + activate_first)]
        widening = acts[0].widening
        shapes = [
            (channels * (widening if activate_first else 1), hidden_channels, 3),
            (hidden_channels * widening, hidden_channels, 1),
            (hidden_channels * widening, channels, 3),
        ]
        layers = [LipschitzConv2d(a, b, k, image_size, coefficient, norm) for a, b, k in shapes]
        context = nn.Linear(context_features, hidden_channels, False) if context_features else None
        super().__init__(layers, acts, context)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x: (batch, channels, height, width) and a context to g(x), like x."""
        found = fused_contractive.value(self, x, context)
        return super().forward(x, context) if found is None else found

    def linearized(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """g(x), and the map u -> J^T u of the first len(u) examples; without gradients."""
        return fused_contractive.linearized(self, x, context) or super().linearized(x, context)

    def jvp(
        self, x: Tensor, tangent: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """g(x) and J tangent, both differentiable."""
        found = fused_contractive.jvp(self, x, tangent, context)
        return found or super().jvp(x, tangent, context)


def _pushed(slope: Tensor, tangent: Tensor) -> Tensor:
    """Tangents (batch, channels, ...) after an activation, which may double the channels."""
    parts = slope.split(tangent.shape[1], 1)
    return torch.cat([part * tangent for part in parts], 1) if len(parts) > 1 else slope * tangent


def _pulled(slope: Tensor, cotangent: Tensor, widening: int) -> Tensor:
    """Cotangents before an activation, given those after it: the transpose of `_pushed`."""
    product = slope * cotangent
    return product if widening == 1 else sum(product.chunk(widening, 1))  # type: ignore[return-value]


def _slanted(slope: Tensor, tangents: Tensor) -> Tensor:
    """Tangents (batch, number, features) after an activation."""
    size = tangents.shape[-1]
    if slope.shape[1] == size:
        return slope[:, None] * tangents
    return torch.cat([part[:, None] * tangents for part in slope.split(size, 1)], -1)
