"""The masked multilayer perceptron: each output sees only the variables before its own.

    h_j of degree m_j sees the variables of rank < m_j, and hidden units of degree <= m_j
    the outputs of the variable of rank r see the hidden units of degree <= r

so that one pass gives the parameters of every variable from those before it.

Germain, Gregor, Murray & Larochelle, "MADE: Masked Autoencoder for Distribution Estimation"
(2015), eq. 8-10. The hidden units of a layer are sorted by their degree: those that a new variable
brings to life are one slice, and `Incremental` uses it to compute each unit once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.errors import unknown
from steadyflow.networks import fused_masked
from steadyflow.networks.mlp import ACTIVATIONS


class MaskedMLP(nn.Module):
    """A masked multilayer perceptron for vectors, of any depth and any order of the variables.

    The output layer starts at zero, so that a flow starts as the identity, and inputs beyond
    `clip` count as `clip`, as in `MLP`. The context is seen by every unit.

    Args:
        features: number of variables, D.
        planes: outputs for each variable.
        hidden_features: width of each hidden layer.
        context_features: length of the context.
        order: order[t] is the variable that comes t-th; None for 0 .. D-1.
        residual: add each hidden layer to the one before it; all must have one width.
        activation: 'relu', 'silu', 'gelu', 'tanh' or 'elu'.
        clip: the bound on |x|; None for none.
        zero_output: start the output layer at zero.

    Attributes:
        order: the order of the variables, a tuple.
        ends: ends[l][r] counts the units of hidden layer l of degree at most r.
    """

    columns: Tensor
    context: nn.Linear | None

    def __init__(
        self,
        features: int,
        planes: int,
        hidden_features: Sequence[int] = (128, 128),
        context_features: int | None = None,
        order: Sequence[int] | None = None,
        residual: bool = False,
        activation: str = "relu",
        clip: float | None = None,
        zero_output: bool = True,
    ):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        self.order = tuple(range(features)) if order is None else tuple(order)
        if sorted(self.order) != list(range(features)):
            raise ValueError(f"not an order of {features} variables: {self.order}")
        if residual and len(set(hidden_features)) > 1:
            raise ValueError(f"residual layers need one width, got {list(hidden_features)}")
        if context_features and not hidden_features:
            raise ValueError("a context needs at least one hidden layer to be seen by")
        self.features, self.planes = features, planes
        self.residual, self.activation, self.clip = residual, activation, clip
        self.context = None
        self._plan: fused_masked.Plan | None = None
        if context_features:
            self.context = nn.Linear(context_features, hidden_features[0], bias=False)
        self.register_buffer("columns", torch.tensor(self.order), persistent=False)
        rank = torch.tensor(self.order).argsort()
        lowest = 0 if context_features else min(1, features - 1)
        degrees = [_degrees(width, lowest, features - 1) for width in hidden_features]
        self.ends = [[int((d <= r).sum()) for r in range(features)] for d in degrees]
        # a variable of rank r has degree r + 1; its outputs may see degrees up to r
        seen = [rank + 1, *degrees]
        sees = [*degrees, rank.repeat(planes)]
        widths = [features, *hidden_features, planes * features]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        for number, (below, above) in enumerate(zip(seen, sees, strict=True)):
            mask = (above[:, None] >= below).to(torch.get_default_dtype())
            self.register_buffer(f"mask{number}", mask, persistent=False)
        if zero_output:
            for parameter in self.layers[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(batch, D) and (batch, context_features) to (batch, planes * D), planes stacked."""
        fast = fused_masked.attempt(self, x, context)
        if fast is not None:
            return fast
        weights = [self.weight(number) for number in range(len(self.layers))]
        if self.context is not None and context is not None:
            weights[0] = torch.cat((self.context.weight, weights[0]), 1)
        biases = [self.bias(number) for number in range(len(self.layers))]
        return self.through(x, context, weights, biases)

    def through(
        self,
        x: Tensor,
        context: Tensor | None,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
    ) -> Tensor:
        """The network with masked weights given from outside, the context's columns first."""
        if self.clip is not None:
            x = F.hardtanh(x, -self.clip, self.clip)
        if self.context is not None and context is not None:
            x = torch.cat((context.to(x.dtype), x), 1)
        activation = _activation(self.activation)
        h = x
        for number in range(len(weights) - 1):
            out = activation(F.linear(h, weights[number], biases[number]))
            h = h + out if self.residual and number else out
        return F.linear(h, weights[-1], biases[-1])

    def everything(self) -> tuple[Tensor, ...]:
        """Weight and bias of each layer in turn, not masked; the context's columns first."""
        parameters = [p for layer in self.layers for p in (layer.weight, layer.bias)]
        if self.context is not None:
            first: Tensor = parameters[0]  # type: ignore[assignment]
            parameters[0] = torch.cat((self.context.weight, first), 1)
        return tuple(parameters)  # type: ignore[arg-type]

    def plan(self) -> fused_masked.Plan:
        """What the kernel knows of the masks; made once."""
        if self._plan is None:
            masks = [getattr(self, f"mask{number}") for number in range(len(self.layers))]
            given = 0
            if self.context is not None:
                given = self.context.in_features
                masks[0] = torch.cat((masks[0].new_ones(len(masks[0]), given), masks[0]), 1)
            self._plan = fused_masked.Plan(masks, given)
        return self._plan

    def __getstate__(self) -> dict:
        """Without the plan, which holds addresses of this process."""
        return {**self.__dict__, "_plan": None}

    def _apply(self, *args: Any, **kwargs: Any) -> MaskedMLP:
        self._plan = None  # the masks move
        return super()._apply(*args, **kwargs)

    def weight(self, number: int) -> Tensor:
        """The masked weight of a layer: (units above, units below)."""
        return self.layers[number].weight * getattr(self, f"mask{number}")  # type: ignore[return-value]

    def bias(self, number: int) -> Tensor:
        """The bias of a layer: (units,)."""
        return self.layers[number].bias  # type: ignore[return-value]

    def ranked(self, with_context: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Masked weights, and biases. The columns of the first: the context, then x by rank."""
        weights = [self.weight(number) for number in range(len(self.layers))]
        weights[0] = weights[0].index_select(1, self.columns)
        if with_context and self.context is not None:
            weights[0] = torch.cat((self.context.weight, weights[0]), 1)
        return weights, [self.bias(number) for number in range(len(self.layers))]

    def extra_repr(self) -> str:
        """Variables and planes, for the printed model."""
        return f"features={self.features}, planes={self.planes}, residual={self.residual}"


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    return ACTIVATIONS[name]  # type: ignore[return-value]


def _degrees(width: int, lowest: int, highest: int) -> Tensor:
    """Degrees from lowest to highest, sorted, each as often as the others."""
    return lowest + torch.arange(width) * (highest - lowest + 1) // max(width, 1)


class Incremental:
    """A `MaskedMLP` evaluated one variable after the other, each hidden unit once.

    The unit of degree r needs the first r variables. `step` takes the newest of them, computes the
    units that have become known (two small matrix products for two hidden layers), and gives the
    parameters of the next variable. All steps together cost about one pass. Not differentiable.

    Args:
        network: the network.
        batch: number of examples.
        context: (batch, features) or None.
    """

    def __init__(self, network: MaskedMLP, batch: int, context: Tensor | None = None):
        self.network = network
        weights, biases = network.ranked(with_context=context is not None)
        columns = [bias[:, None] for bias in biases]
        # the rows of the last layer by rank: (planes, D, units)
        self.last = (
            weights.pop().unflatten(0, (network.planes, -1)).index_select(1, network.columns)
        )
        self.last_bias = columns.pop().unflatten(0, (network.planes, -1))
        self.last_bias = self.last_bias.index_select(1, network.columns)
        self.weights, self.biases = weights, columns
        like = self.last
        given = like.new_zeros(0, batch) if context is None else context.t().to(like.dtype)
        self.given = len(given)
        self.input = torch.cat((given, like.new_zeros(network.features, batch)))
        self.hidden = [like.new_zeros(len(w), batch) for w in weights]
        self.activation = _activation(network.activation)

    def step(self, rank: int, newest: Tensor | None) -> Tensor:
        """The parameters of the variable of a rank, given the value of the one before it.

        Args:
            rank: 0, 1, ..., D-1 in turn.
            newest: (batch,), the variable of rank - 1; None for rank 0.

        Returns:
            (planes, batch).
        """
        network = self.network
        if newest is not None:
            clip = network.clip
            newest = newest if clip is None else F.hardtanh(newest, -clip, clip)
            self.input[self.given + rank - 1] = newest
        below, known = self.input, self.given + rank
        for number, weight in enumerate(self.weights):
            end = network.ends[number][rank]
            start = network.ends[number][rank - 1] if rank else 0
            if end > start:
                bias, rows = self.biases[number][start:end], weight[start:end, :known]
                new = self.activation(torch.addmm(bias, rows, below[:known]))
                if network.residual and number:
                    new = new + below[start:end]
                self.hidden[number][start:end] = new
            below, known = self.hidden[number], end
        return torch.addmm(self.last_bias[:, rank], self.last[:, rank, :known], below[:known])


def variable_order(kind: str, features: int, layer: int) -> list[int]:
    """The order of the variables in a layer of a flow.

    Args:
        kind: 'reverse' turns it round from each layer to the next; 'random' draws each one, the
            same at every construction.
        features: number of variables.
        layer: number of the layer, from 0.
    """
    order = list(range(features))
    if kind == "reverse":
        return order[::-1] if layer % 2 else order
    if kind != "random":
        raise unknown("order", kind, ("reverse", "random"))
    random.Random(layer).shuffle(order)
    return order
