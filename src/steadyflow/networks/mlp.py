"""The multilayer perceptron, the conditioner of flows on vectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.errors import unknown
from steadyflow.networks.precision import full_precision

ACTIVATIONS = {"relu": F.relu, "silu": F.silu, "gelu": F.gelu, "tanh": torch.tanh, "elu": F.elu}


class MLP(nn.Module):
    """Linear layers with an activation between them, for vectors.

    The output layer starts at zero, so that a flow starts as the identity. Inputs beyond `clip`
    count as `clip`: outside the region where data lies the network is constant, the flow affine,
    and its tails and its inverse exact, instead of an extrapolation that nothing has trained.
    Under autocast the output layer keeps full precision: it sets shifts and scales.

    Args:
        in_features: length of x.
        out_features: length of the output.
        hidden_features: width of each hidden layer.
        context_features: length of the context, which is concatenated to x.
        activation: 'relu', 'silu', 'gelu', 'tanh' or 'elu'.
        clip: the bound on |x|; None for none.
        zero_output: start the output layer at zero.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: Sequence[int] = (128, 128),
        context_features: int | None = None,
        activation: str = "relu",
        clip: float | None = None,
        zero_output: bool = True,
    ):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        widths = [in_features + (context_features or 0), *hidden_features, out_features]
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        if zero_output:
            nn.init.zeros_(layers[-1].weight)
            nn.init.zeros_(layers[-1].bias)
        self.layers = nn.ModuleList(layers)
        self.activation, self.clip = activation, clip

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(batch, in_features) and (batch, context_features) to (batch, out_features)."""
        if self.clip is not None:
            x = F.hardtanh(x, -self.clip, self.clip)
        if context is not None:
            x = torch.cat((x, context.to(x.dtype)), 1)
        activation = ACTIVATIONS[self.activation]
        for layer in self.layers[:-1]:
            x = activation(layer(x))  # type: ignore[operator]
        last: nn.Linear = self.layers[-1]  # type: ignore[assignment]
        with full_precision(x):
            return last(x.to(last.weight.dtype))
