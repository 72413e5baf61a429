"""The multilayer perceptron, the conditioner of flows on vectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.errors import unknown
from steadyflow.networks import fused_masked
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
        self.in_features = in_features
        self._plan: fused_masked.Plan | None = None
        weights = sum(layer.weight.numel() for layer in layers)
        self._small = not context_features and weights <= fused_masked.SMALL

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(batch, in_features) and (batch, context_features) to (batch, out_features)."""
        if self._small and context is None:
            fast = fused_masked.dense(self, x)
            if fast is not None:
                return fast
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

    def through(
        self,
        x: Tensor,
        context: Tensor | None,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
    ) -> Tensor:
        """The network with weights given from outside, without context."""
        if self.clip is not None:
            x = F.hardtanh(x, -self.clip, self.clip)
        activation = ACTIVATIONS[self.activation]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            x = activation(F.linear(x, weight, bias))  # type: ignore[operator]
        return F.linear(x, weights[-1], biases[-1])

    def plan(self) -> fused_masked.Plan | None:
        """What the kernel has to know of the network; None if it does not serve it."""
        if self.activation != "relu" or len(self.layers) > fused_masked.LAYERS:
            return None
        if self._plan is None:
            ones = [torch.ones_like(layer.weight) for layer in self.layers]  # type: ignore[arg-type]
            self._plan = fused_masked.Plan(ones, 0)
        return self._plan

    def __getstate__(self) -> dict:
        """Without the plan, which holds addresses of this process."""
        return {**self.__dict__, "_plan": None}
