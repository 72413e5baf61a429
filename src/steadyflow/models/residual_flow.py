"""The flow of an invertible residual network: contractive blocks, scale by scale, then matrices.

    vectors   standardise, (block, actnorm) x n                                  -> learned prior
    images    logit, actnorm, (blocks, squeeze) at each scale, flatten, dense blocks     -> prior

The flow is a chain of two parts, the body, whose features a classifier looks at, and the rest of
the way to the latents. Blocks are x + g(x) with g of the coefficient's norm (`Residual`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steadyflow.bijections import (
    ActNorm,
    Bijection,
    Chain,
    Flatten,
    LearnedPrior,
    Logit,
    MultiScale,
    Residual,
    Shift,
    Squeeze,
    Standardization,
    UniformDequantization,
)
from steadyflow.bijections.bijection import Shape, Transformed, zero_log_det
from steadyflow.flow import Flow
from steadyflow.networks import ContractiveConvNet, ContractiveMLP
from steadyflow.networks.contractive import Contractive


@dataclass(frozen=True, kw_only=True)
class ResidualBlocks:
    """How the blocks of a flow are built; what the numbers mean is with `IResNet`.

    Attributes:
        context: length of the context vector of the networks; None for none.
    """

    context: int | None
    hidden_features: Sequence[int]
    hidden_channels: int
    coefficient: float
    activation: str
    norm: str
    log_det: str
    terms: int
    evaluation_terms: int
    tolerance: float | None
    inverse: str

    def dense(self, size: int, name: str) -> Residual:
        """A block of matrices on vectors of a size; its log-determinant is exact."""
        network = ContractiveMLP(size, self.hidden_features, self.context, **self._bounds)
        return self._residual(network, name, log_det="exact")

    def convolutional(self, shape: Shape, name: str, activate_first: bool) -> Residual:
        """A block of convolutions on images of a shape."""
        channels, *size = shape
        network = ContractiveConvNet(
            channels,
            self.hidden_channels,
            size,
            self.context,
            activate_first=activate_first,
            **self._bounds,
        )
        return self._residual(
            network,
            name,
            log_det=self.log_det,
            evaluation="roulette" if self.log_det == "truncated" else self.log_det,
            terms=self.terms,
            evaluation_terms=self.evaluation_terms,
        )

    @property
    def _bounds(self) -> dict[str, Any]:
        return {
            "coefficient": self.coefficient,
            "activation": self.activation,
            "norm": self.norm,
        }

    def _residual(self, network: Contractive, name: str, **options: Any) -> Residual:
        return Residual(
            network,
            name=f"{name} of this iresnet",
            tolerance=self.tolerance,
            method=self.inverse,
            **options,
        )


def vector_flow(event_shape: Shape, make: ResidualBlocks, blocks: int) -> Flow:
    """The flow of vectors (D,)."""
    (size,) = event_shape
    layers: list[Bijection] = [Standardization(event_shape)]
    for i in range(blocks):
        layers += [make.dense(size, f"block {i + 1}"), ActNorm(size)]
    return Flow(Chain(Chain(*layers), LearnedPrior(event_shape, make.context)), event_shape)


def image_flow(
    event_shape: Shape,
    make: ResidualBlocks,
    *,
    blocks: int,
    scales: int | None,
    dense_blocks: int,
    factor_out: bool,
    padding: int,
    alpha: float,
    bits: int,
) -> Flow:
    """The flow of images (channels, height, width); the arguments are those of `IResNet`."""
    start = (event_shape[0] + padding, *event_shape[1:])
    before: list[Bijection] = [Logit(alpha) if alpha and bits else Shift(-0.5)]
    before += [ActNorm(event_shape[0])]
    before += [ZeroPadding(padding)] if padding else []
    scales = _default_scales(start) if scales is None else scales
    body = _body(start, make, blocks, scales, factor_out)
    latent = body.output_shape(start)
    tail: list[Bijection] = [] if factor_out else [Flatten(latent)]
    size = latent[0] if factor_out else latent[0] * latent[1] * latent[2]
    tail += [make.dense(size, f"dense block {i + 1}") for i in range(dense_blocks)]
    tail += [LearnedPrior((size,), make.context)]
    return Flow(
        Chain(Chain(*before, body), Chain(*tail)),
        event_shape,
        dequantization=UniformDequantization(bits) if bits else None,
    )


def _body(
    start: Shape, make: ResidualBlocks, blocks: int, scales: int, factor_out: bool
) -> Bijection:
    """The blocks of all scales; half of the channels leave between them, if they are to."""
    parts, shape = [], start
    for scale in range(scales):
        layers: list[Bijection] = []
        for i in range(blocks):
            name = f"block {i + 1} of scale {scale + 1}"
            layers += [make.convolutional(shape, name, activate_first=scale + i > 0)]
            layers += [ActNorm(shape[0])]
        if scale < scales - 1:
            layers += [Squeeze()]
            shape = (4 * shape[0], shape[1] // 2, shape[2] // 2)
            shape = (shape[0] // 2, *shape[1:]) if factor_out else shape
        parts.append(Chain(*layers))
    return MultiScale(parts, start) if factor_out else Chain(*parts)


def _default_scales(shape: Shape) -> int:
    """As many scales as halve the image evenly down to 8 x 8 pixels or less."""
    _, height, width = shape
    scales = 1
    while min(height, width) > 8 and height % 2 == 0 and width % 2 == 0:
        height, width, scales = height // 2, width // 2, scales + 1
    return scales


class ZeroPadding(Bijection):
    """Channels of zeros after those of the image: invertible on its image, but without a density.

    Args:
        channels: how many.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Appends zeros; there is no determinant: 0."""
        zeros = x.new_zeros(len(x), self.channels, *x.shape[2:])
        return torch.cat((x, zeros), 1), zero_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Leaves them out."""
        return z[:, : -self.channels], zero_log_det(z)

    def output_shape(self, event_shape: Shape) -> Shape:
        """More channels."""
        return (event_shape[0] + self.channels, *event_shape[1:])

    def input_shape(self, event_shape: Shape) -> Shape:
        """Fewer channels."""
        return (event_shape[0] - self.channels, *event_shape[1:])
