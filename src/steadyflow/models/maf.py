"""MAF: masked autoregressive flow.

    z_i = x_i * exp(s_i) + t_i,   (s_i, t_i) = network(x_1 .. x_{i-1})       log_det = sum_i s_i

several times, each time in another order of the variables.

Papamakarios, Pavlakou & Murray, "Masked Autoregressive Flow for Density Estimation" (2017). The
other way round it is the inverse autoregressive flow of Kingma et al. (2016).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steadyflow.bases import named
from steadyflow.bijections import (
    Affine,
    Autoregressive,
    Bijection,
    Chain,
    Columns,
    FullPrecision,
    Inverse,
    Standardization,
)
from steadyflow.errors import unknown
from steadyflow.flow import Flow
from steadyflow.models.flow_model import FlowModel
from steadyflow.networks import MaskedMLP
from steadyflow.networks.masked import variable_order

ORIENTATIONS = ("density", "sampling")
CLIP = 10.0  # standard deviations beyond which the networks see no further


class MAF(FlowModel):
    """Affine autoregressive flow on vectors, standardised by the training data.

    A likelihood costs one pass of each network; a draw the arithmetic of one pass, variable after
    variable. The log-scales are bounded, so that the inverse is stable far from the data.

    Args:
        event_shape: (D,).
        num_classes: number of class labels to condition on; None for none.
        context_features: length of a context vector to condition on; None for none.
        columns: what kind of numbers each column of a table holds (see `Columns`); None takes all
            of them as plain numbers. `fit` finds it out where it builds the model itself.
        transforms: number of autoregressive layers.
        hidden_features: widths of the hidden layers of each network.
        residual: add each hidden layer to the one before it.
        order: 'reverse' turns the order of the variables round from layer to layer, 'random' draws
            each one.
        scale: how the log-scale is bounded: 'tanh', 'softsign', 'sigmoid' or 'exp'.
        bound: the bound on each layer's log-scale.
        activation: 'relu', 'silu', 'gelu', 'tanh' or 'elu'.
        inverse: 'incremental', 'fixed-point' or 'auto'; see `Autoregressive`.
        orientation: 'density' gives log_prob in one pass of each network (MAF), 'sampling' gives
            draws and their log_prob in one (inverse autoregressive flow), for `fit_log_density`.
        base: of the latents: 'normal'; 'student-t' for heavy tails; 'mixture' of normals for parts
            that lie apart, its weights depending on the class or context; 'diagonal-normal' or
            'logistic'.
    """

    name = "maf"
    replayable = True

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        num_classes: int | None = None,
        context_features: int | None = None,
        columns: Sequence[Mapping[str, Any]] | None = None,
        transforms: int = 5,
        hidden_features: Sequence[int] = (128, 128),
        residual: bool = False,
        order: str = "reverse",
        scale: str = "tanh",
        bound: float = 3.0,
        activation: str = "relu",
        inverse: str = "auto",
        orientation: str = "density",
        base: str = "normal",
    ):
        super().__init__(
            event_shape=event_shape, num_classes=num_classes, context_features=context_features
        )
        if len(self.event_shape) != 1:
            raise ValueError(f"MAF acts on vectors, not on events of shape {self.event_shape}")
        transform = Affine(scale, bound)
        made = Columns(columns) if columns else None
        size = self.dimensions if made is None else made.size
        before = [] if made is None else made.bijections()
        layers: list[Bijection] = [*before, Standardization((size,))]
        for layer in range(transforms):
            network = MaskedMLP(
                size,
                transform.planes,
                hidden_features=hidden_features,
                context_features=num_classes or context_features,
                order=variable_order(order, size, layer),
                residual=residual,
                activation=activation,
                clip=CLIP,
            )
            layers.append(oriented(Autoregressive(transform, network, inverse), orientation))
        self.flow = Flow(
            FullPrecision(Chain(*layers)),
            self.event_shape,
            base=named(base, (size,), num_classes or context_features),
            dequantization=made,
        )


def oriented(layer: Autoregressive, orientation: str) -> Bijection:
    """The layer, or its inverse for draws in one pass."""
    if orientation not in ORIENTATIONS:
        raise unknown("orientation", orientation, ORIENTATIONS)
    return layer if orientation == "density" else Inverse(layer)
