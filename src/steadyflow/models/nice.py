"""NICE: non-linear independent components estimation.

    h_a = x_a,   h_b = x_b + m(x_a)            four couplings, roles alternating
    z = exp(s) * h                             a diagonal scaling
    log p(x) = sum_i log p_logistic(z_i) + sum_i s_i

Dinh, Krueger & Bengio, "NICE: Non-linear Independent Components Estimation" (2014).
"""

from __future__ import annotations

from collections.abc import Sequence

from steadyflow.bases import named
from steadyflow.bijections import (
    Additive,
    Alternating,
    Bijection,
    Chain,
    Coupling,
    Flatten,
    Scaling,
    Standardization,
    UniformDequantization,
)
from steadyflow.flow import Flow
from steadyflow.models.flow_model import FlowModel
from steadyflow.networks import MLP


class NICE(FlowModel):
    """Additive coupling flow with an exact, volume-preserving body and one diagonal scaling.

    Images are integer pixels, dequantised and scaled to [0, 1] as in the paper; vectors are
    standardised by the training data.

    Args:
        event_shape: (D,) for vectors, (channels, height, width) for images.
        num_classes: number of class labels to condition on; None for none.
        context_features: length of a context vector to condition on; None for none.
        couplings: number of coupling layers; three are the least that mix everything.
        hidden_features: width of the hidden layers of each coupling network.
        hidden_layers: number of hidden layers of each coupling network.
        base: 'logistic' (the paper's for images), 'normal', 'diagonal-normal', 'student-t' or
            'mixture'; see `steadyflow.bases`.
        bits: bits of each pixel, for images; 0 for real-valued images.
    """

    name = "nice"
    replayable = True

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        num_classes: int | None = None,
        context_features: int | None = None,
        couplings: int = 4,
        hidden_features: int = 1000,
        hidden_layers: int = 5,
        base: str = "logistic",
        bits: int = 8,
    ):
        super().__init__(
            event_shape=event_shape, num_classes=num_classes, context_features=context_features
        )
        image = len(self.event_shape) == 3
        size = self.dimensions
        if size < 2:
            raise ValueError("NICE couples variables: it needs at least two of them")
        first: Bijection = (
            Flatten(self.event_shape) if image else Standardization(self.event_shape)
        )
        layers: list[Bijection] = [first]
        for layer in range(couplings):
            split = Alternating(flip=layer % 2 == 1)
            (kept,), (moved,) = split.shapes((size,))
            network = MLP(
                kept,
                moved,
                hidden_features=[hidden_features] * hidden_layers,
                context_features=num_classes or context_features,
            )
            layers.append(Coupling(split, Additive(), network))
        layers.append(Scaling((size,)))
        self.flow = Flow(
            Chain(*layers),
            self.event_shape,
            base=named(base, (size,), num_classes or context_features),
            dequantization=UniformDequantization(bits) if image and bits else None,
        )
