"""Neural spline flow: monotone rational-quadratic splines, autoregressive or in couplings.

    z_i = spline(x_i; theta_i),   theta_i = network(the variables before it, or the other half)

Durkan, Bekasov, Murray & Papamakarios, "Neural Spline Flows" (2019): RQ-NSF (AR) and RQ-NSF (C).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from steadyflow.bases import named
from steadyflow.bijections import (
    Alternating,
    Autoregressive,
    BernsteinPolynomial,
    Bijection,
    Chain,
    Columns,
    Coupling,
    FullPrecision,
    Halves,
    HouseholderLinear,
    IntegratedNetwork,
    LULinear,
    MatrixExponential,
    MixtureOfLogistics,
    RationalQuadraticSpline,
    Standardization,
    SumOfSquares,
    Transform,
)
from steadyflow.errors import unknown
from steadyflow.flow import Flow
from steadyflow.models.flow_model import FlowModel
from steadyflow.models.maf import oriented
from steadyflow.networks import MLP, MaskedMLP
from steadyflow.networks.masked import variable_order

LINEAR: dict[str, Callable[[int], Bijection] | None] = {
    "none": None,
    "lu": LULinear,
    "householder": HouseholderLinear,
    "matrix-exponential": MatrixExponential,
}

TRANSFORMS = ("spline", "mixture", "bernstein", "sum-of-squares", "integrated")


class SplineFlow(FlowModel):
    """Spline flow on vectors, standardised by the training data.

    Outside [-bound, bound] each spline is the identity, so that the tails are those of the base;
    inside no slope is below 'min_slope', so that the inverse is stable.

    Args:
        event_shape: (D,).
        num_classes: number of class labels to condition on; None for none.
        context_features: length of a context vector to condition on; None for none.
        columns: what kind of numbers each column of a table holds (see `Columns`); None takes all
            of them as plain numbers. `fit` finds it out where it builds the model itself.
        architecture: 'autoregressive' or 'coupling'; the first fits better, the second draws
            samples of wide vectors faster.
        transforms: number of layers.
        hidden_features: widths of the hidden layers of each network.
        bins: bins of each spline, components of each mixture, degree of each polynomial (one more
            for a sum of squares, whose degree is odd), or hidden units of each integrated network.
        bound: half the width of the box of each spline or polynomial, in standard deviations.
        transform: 'spline', 'mixture' (of logistics), a polynomial with straight tails
            ('bernstein' or 'sum-of-squares'), or an 'integrated' network.
        linear: what mixes the variables between the layers: 'none' (only their order changes),
            'lu', 'householder' or 'matrix-exponential'.
        residual: add each hidden layer to the one before it (autoregressive only).
        order: 'reverse' or 'random' (autoregressive only); see `MAF`.
        activation: 'relu', 'silu', 'gelu', 'tanh' or 'elu'.
        min_slope: the smallest slope of each transform.
        inverse: 'incremental', 'fixed-point' or 'auto'; see `Autoregressive`.
        orientation: 'density' or 'sampling' (autoregressive only); see `MAF`.
        base: of the latents: 'normal', 'student-t', 'mixture', ...; see `MAF`.
    """

    name = "spline-flow"
    replayable = True

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        num_classes: int | None = None,
        context_features: int | None = None,
        columns: Sequence[Mapping[str, Any]] | None = None,
        architecture: str = "autoregressive",
        transforms: int = 5,
        hidden_features: Sequence[int] = (128, 128),
        bins: int = 8,
        bound: float = 5.0,
        transform: str = "spline",
        linear: str = "householder",
        residual: bool = False,
        order: str = "reverse",
        activation: str = "relu",
        min_slope: float = 0.05,
        inverse: str = "auto",
        orientation: str = "density",
        base: str = "normal",
    ):
        super().__init__(
            event_shape=event_shape, num_classes=num_classes, context_features=context_features
        )
        if len(self.event_shape) != 1:
            raise ValueError(
                f"SplineFlow acts on vectors, not on events of shape {self.event_shape}"
            )
        if architecture not in ("autoregressive", "coupling"):
            raise unknown("architecture", architecture, ("autoregressive", "coupling"))
        if linear not in LINEAR:
            raise unknown("linear layer", linear, LINEAR)
        made = Columns(columns) if columns else None
        size = self.dimensions if made is None else made.size
        if architecture == "coupling" and size < 2:
            raise ValueError(
                "a coupling needs at least two variables: use architecture='autoregressive'"
            )
        self._network: dict[str, Any] = {
            "hidden_features": hidden_features,
            "context_features": num_classes or context_features,
            "activation": activation,
            "clip": bound,  # beyond it every spline is the identity anyway
        }
        elementwise = _transform(transform, bins, bound, min_slope)
        mixing = LINEAR[linear]
        before = [] if made is None else made.bijections()
        layers: list[Bijection] = [*before, Standardization((size,))]
        for layer in range(transforms):
            if mixing is not None and size > 1:
                layers.append(mixing(size))
            if architecture == "coupling":
                layers.append(self._coupling(elementwise, layer, size, mixing is not None))
            else:
                ordered = variable_order(order, size, layer)
                autoregressive = self._autoregressive(elementwise, ordered, residual, inverse)
                layers.append(oriented(autoregressive, orientation))
        self.flow = Flow(
            FullPrecision(Chain(*layers)),
            self.event_shape,
            base=named(base, (size,), num_classes or context_features),
            dequantization=made,
        )

    def _autoregressive(
        self, transform: Transform, order: list[int], residual: bool, inverse: str
    ) -> Autoregressive:
        network = MaskedMLP(
            len(order), transform.planes, order=order, residual=residual, **self._network
        )
        return Autoregressive(transform, network, inverse)

    def _coupling(self, transform: Transform, layer: int, size: int, mixed: bool) -> Coupling:
        # after a rotation any halves will do, and those in one piece are the fastest
        kind = Halves if mixed else (Alternating, Halves)[layer // 2 % 2]
        split = kind(flip=layer % 2 == 1)
        (kept,), (moved,) = split.shapes((size,))
        network = MLP(
            kept,
            transform.planes * moved,
            **self._network,
        )
        return Coupling(split, transform, network)


def _transform(name: str, bins: int, bound: float, min_slope: float) -> Transform:
    if name == "spline":
        return RationalQuadraticSpline(bins, bound, min_slope=min_slope)
    if name == "mixture":
        return MixtureOfLogistics(bins, bound=2.0, min_slope=min_slope)
    if name == "bernstein":
        return BernsteinPolynomial(bins, bound, min_slope)
    if name == "sum-of-squares":
        return SumOfSquares(max(1, bins // 2), bound=bound, min_slope=min_slope)
    if name == "integrated":
        return IntegratedNetwork(bins, bound, min_slope)
    raise unknown("transform", name, TRANSFORMS)
