"""RealNVP: real-valued non-volume-preserving transformations.

    z_a = x_a,   z_b = x_b * exp(s(x_a)) + t(x_a)          log|det dz/dx| = sum_b s

Vectors: alternating halves. Images, at each scale: three checkerboard couplings, a squeeze, three
channel couplings, and half of the channels become latent; the last scale has four checkerboard
couplings.

Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP" (2017).
"""

from __future__ import annotations

from collections.abc import Sequence

from steadyflow.bases import StandardNormal
from steadyflow.bijections import (
    ActNorm,
    Affine,
    Alternating,
    Bijection,
    Chain,
    Checkerboard,
    Coupling,
    Halves,
    Logit,
    MultiScale,
    Scaling,
    Split,
    Squeeze,
    Standardization,
    UniformDequantization,
)
from steadyflow.bijections.reversible import chosen
from steadyflow.flow import Flow
from steadyflow.models.flow_model import FlowModel
from steadyflow.networks import MLP, ResidualConvNet

# standard deviations beyond which the conditioners see no further; nearer costs no likelihood, and
# brings inputs of N(0, 10^2) back ten times as exactly (docs/benchmarks.md)
CLIP, IMAGE_CLIP = 5.0, 10.0


class RealNVP(FlowModel):
    """Affine coupling flow; multi-scale for images.

    Vectors are standardised by the training data; images are integer pixels, dequantised and sent
    through a logit. Activation normalisation stands where the paper has batch normalisation, so
    that the density of an example does not depend on its batch.

    Args:
        event_shape: (D,) for vectors, (channels, height, width) for images.
        num_classes: number of class labels to condition on; None for none.
        context_features: length of a context vector to condition on; None for none.
        couplings: number of coupling layers, for vectors.
        hidden_features: widths of the hidden layers of each coupling network, for vectors.
        scales: number of scales, for images; None for as many as lead to 4 x 4 pixels or less.
        hidden_channels: channels of the coupling networks at the first scale, for images; doubled
            at each further scale.
        blocks: residual blocks of each coupling network, for images.
        scale: how the log-scale is bounded: 'tanh', 'softsign', 'sigmoid' or 'exp'.
        bound: the bound on each layer's log-scale.
        alpha: margin of the logit, for images of integer pixels.
        bits: bits of each pixel, for images; 0 for real-valued images.
        reversible: True to compute activations again in the backward pass, whose memory then does
            not grow with the couplings; False to store them; 'auto' to decide by their number.
    """

    name = "realnvp"
    replayable = True

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        num_classes: int | None = None,
        context_features: int | None = None,
        couplings: int = 8,
        hidden_features: Sequence[int] = (128, 128),
        scales: int | None = None,
        hidden_channels: int = 32,
        blocks: int = 2,
        scale: str = "tanh",
        bound: float = 2.0,
        alpha: float = 0.05,
        bits: int = 8,
        reversible: bool | str = "auto",
    ):
        super().__init__(
            event_shape=event_shape, num_classes=num_classes, context_features=context_features
        )
        self._transform = Affine(scale, bound)
        self._context = num_classes or context_features
        if len(self.event_shape) == 1:
            self.reversible = chosen(reversible, couplings)
            self.flow = self._vector_flow(couplings, hidden_features)
        else:
            scales = _default_scales(self.event_shape) if scales is None else scales
            self.reversible = chosen(reversible, 6 * scales - 2)
            self.flow = self._image_flow(scales, hidden_channels, blocks, alpha, bits)

    def _vector_flow(self, couplings: int, hidden_features: Sequence[int]) -> Flow:
        if self.dimensions < 2:
            raise ValueError("RealNVP couples variables: it needs at least two of them")
        layers: list[Bijection] = [Standardization(self.event_shape)]
        for layer in range(couplings):
            split = (Halves, Alternating)[layer // 2 % 2](flip=layer % 2 == 1)
            (kept,), (moved,) = split.shapes(self.event_shape)
            network = MLP(
                kept,
                2 * moved,
                hidden_features=hidden_features,
                context_features=self._context,
                clip=CLIP,
            )
            layers.append(Coupling(split, self._transform, network))
        layers.append(Scaling(self.event_shape))
        return Flow(Chain(*layers, reversible=self.reversible), self.event_shape)

    def _image_flow(self, scales: int, width: int, blocks: int, alpha: float, bits: int) -> Flow:
        channels, height, side = self.event_shape
        levels: list[Bijection] = []
        for level in range(scales):
            last = level == scales - 1
            shape = (channels, height, side)
            layers: list[Bijection] = []
            for i in range(4 if last else 3):
                layers += self._step(Checkerboard(flip=i % 2 == 1), shape, width, blocks)
            if not last:
                layers.append(Squeeze())
                shape = (4 * channels, height // 2, side // 2)
                for i in range(3):
                    layers += self._step(Halves(flip=i % 2 == 1), shape, width, blocks)
                channels, height, side = 2 * channels, height // 2, side // 2
            levels.append(Chain(*layers, reversible=self.reversible))
            width *= 2
        body = MultiScale(levels, self.event_shape)
        before = [Logit(alpha)] if bits else []
        latent = body.output_shape(self.event_shape)
        return Flow(
            Chain(*before, body, Scaling(latent)),
            self.event_shape,
            base=StandardNormal(latent),
            dequantization=UniformDequantization(bits) if bits else None,
        )

    def _step(
        self, split: Split, shape: tuple[int, ...], width: int, blocks: int
    ) -> list[Bijection]:
        kept, moved = split.shapes(shape)
        network = ResidualConvNet(
            kept[0], 2 * moved[0], width, blocks, self._context, clip=IMAGE_CLIP
        )
        return [ActNorm(shape[0]), Coupling(split, self._transform, network)]


def _default_scales(event_shape: tuple[int, ...]) -> int:
    """As many scales as halve the image evenly down to 4 x 4 pixels (or 7 x 7 for 28 x 28)."""
    _, height, width = event_shape
    scales = 1
    while min(height, width) > 4 and height % 4 == 0 and width % 4 == 0:
        height, width, scales = height // 2, width // 2, scales + 1
    return scales
