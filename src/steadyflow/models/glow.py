"""Glow: generative flow with invertible 1x1 convolutions.

    level     squeeze,  then `steps` steps of flow,  then half of the channels become latent
    step      activation normalisation, 1x1 convolution, coupling
    latents   eps = (z - mean) / std, with mean and std learned: of each factored-out half given
              the half that goes on, and of the last one for each position and class

Kingma & Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions" (2018). What differs:
the log-scale of a coupling has a bound below as well, conditioners need no normalisation of their
own, and every latent is a standard normal, so that encoding keeps all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from steadyflow.bijections import (
    ActNorm,
    Additive,
    Affine,
    Bijection,
    Chain,
    Coupling,
    Halves,
    LearnedPrior,
    Logit,
    MixtureOfLogistics,
    MultiScale,
    NormalizedConvolution,
    RationalQuadraticSpline,
    Reverse,
    Shift,
    Shuffle,
    Squeeze,
    Transform,
    UniformDequantization,
    VariationalDequantization,
)
from steadyflow.bijections.convolution import FORMS
from steadyflow.bijections.reversible import chosen
from steadyflow.errors import unknown
from steadyflow.flow import Flow
from steadyflow.models.model import FlowModel
from steadyflow.networks import GatedConvNet, GlowNet, ZeroConv

CLIP = 10.0  # standard deviations beyond which the conditioners see no further
PRIOR_BOUND = 5.0  # of the log-scales of the learned priors

PERMUTATIONS: dict[str, Callable[[int], Bijection]] = {
    "shuffle": Shuffle,
    "reverse": lambda channels: Reverse(),
}
COUPLINGS = ("affine", "additive", "spline", "mixture")
NETWORKS = ("convolution", "gated", "attention")
DEQUANTIZATIONS = ("uniform", "variational")


class Glow(FlowModel):
    """Multi-scale flow for images, of couplings and 1x1 convolutions.

    Images are integer pixels, dequantised and sent to [-0.5, 0.5). With `reversible`, the memory
    of training does not grow with the number of steps.

    Args:
        event_shape: (channels, height, width).
        num_classes: number of class labels to condition on; None for none.
        context_features: length of a context vector to condition on; None for none.
        levels: number of levels, each halving height and width; None for as many as go, up to 3.
        steps: steps of flow in each level.
        hidden_channels: channels inside each coupling network.
        coupling: 'affine', 'additive', 'spline' (rational-quadratic) or 'mixture' (of logistics).
        permutation: what mixes the channels: 'plu', 'full' or 'orthogonal' for a 1x1 convolution
            in that form, 'shuffle' or 'reverse' for a fixed permutation.
        scale: how an affine coupling's log-scale is bounded: 'sigmoid' (the paper's), 'tanh',
            'softsign' or 'exp' (not at all).
        bound: the bound on each layer's log-scale.
        network: 'convolution' (the paper's three layers), 'gated' (residual blocks with gates) or
            'attention' (the same with self-attention over positions).
        blocks: residual blocks of a 'gated' or 'attention' network.
        dequantization: 'uniform' noise, or 'variational' (learned, which tightens the bound).
        alpha: margin of a logit before the flow, which suits images that are mostly black or white
            (1e-6 for MNIST); 0 for none, as in the paper.
        bits: bits of each pixel; 0 for real-valued images.
        reversible: True to compute activations again in the backward pass, False to store them,
            'auto' to compute them again when there are many steps.
    """

    name = "glow"
    replayable = True

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        num_classes: int | None = None,
        context_features: int | None = None,
        levels: int | None = None,
        steps: int = 8,
        hidden_channels: int = 128,
        coupling: str = "affine",
        permutation: str = "plu",
        scale: str = "sigmoid",
        bound: float = 4.0,
        network: str = "convolution",
        blocks: int = 2,
        dequantization: str = "uniform",
        alpha: float = 0.0,
        bits: int = 8,
        reversible: bool | str = "auto",
    ):
        super().__init__(
            event_shape=event_shape, num_classes=num_classes, context_features=context_features
        )
        levels = _levels(self.event_shape, levels)
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if permutation not in {*FORMS, *PERMUTATIONS}:
            raise unknown("permutation", permutation, [*FORMS, *PERMUTATIONS])
        if network not in NETWORKS:
            raise unknown("network", network, NETWORKS)
        if dequantization not in DEQUANTIZATIONS:
            raise unknown("dequantization", dequantization, DEQUANTIZATIONS)
        self._context = num_classes or context_features
        self._transform = _transform(coupling, scale, bound)
        self._network, self._width, self._blocks = network, hidden_channels, blocks
        self._permutation = permutation
        self.reversible = chosen(reversible, levels * steps)
        before = Logit(alpha) if alpha and bits else Shift(-0.5)
        self.flow = Flow(
            Chain(before, self._multi_scale(levels, steps)),
            self.event_shape,
            dequantization=self._dequantization(dequantization, bits),
        )

    def _multi_scale(self, levels: int, steps: int) -> MultiScale:
        channels, height, width = self.event_shape
        scales: list[Bijection] = []
        priors: list[Bijection] = []
        for level in range(levels):
            channels, height, width = 4 * channels, height // 2, width // 2
            layers = [layer for _ in range(steps) for layer in self._step(channels)]
            body = Chain(Squeeze(), *layers, reversible=self.reversible)
            if level < levels - 1:
                channels //= 2
                scales.append(body)
                priors.append(self._split_prior(channels, height, width))
            else:
                top = LearnedPrior((channels, height, width), self._context, PRIOR_BOUND)
                scales.append(Chain(body, top))
        return MultiScale(scales, self.event_shape, priors)

    def _step(self, channels: int) -> list[Bijection]:
        if self._permutation in FORMS:
            layers: list[Bijection] = [NormalizedConvolution(channels, self._permutation)]
        else:
            layers = [ActNorm(channels), PERMUTATIONS[self._permutation](channels)]
        kept = channels // 2
        out = self._transform.planes * (channels - kept)
        return [*layers, Coupling(Halves(), self._transform, self._conditioner(kept, out))]

    def _conditioner(self, kept: int, out: int) -> GlowNet | GatedConvNet:
        if self._network == "convolution":
            return GlowNet(kept, out, self._width, self._context, CLIP)
        attention = self._network == "attention"
        return GatedConvNet(kept, out, self._width, self._blocks, self._context, CLIP, attention)

    def _split_prior(self, channels: int, height: int, width: int) -> Coupling:
        moments = ZeroConv(channels, 2 * channels, (height, width), self._context, CLIP)
        return Coupling(Halves(), Affine("tanh", PRIOR_BOUND), moments)

    def _dequantization(
        self, name: str, bits: int
    ) -> UniformDequantization | VariationalDequantization | None:
        if not bits:
            return None
        if name == "uniform":
            return UniformDequantization(bits)
        return VariationalDequantization(self.event_shape, bits)


def _levels(event_shape: tuple[int, ...], levels: int | None) -> int:
    """The number of levels, if the image can be halved so often; by default up to 3."""
    if len(event_shape) != 3:
        raise ValueError(
            "Glow acts on images (channels, height, width), not on events of shape "
            f"{event_shape}: use realnvp or spline-flow for vectors"
        )
    _, height, width = event_shape
    most = 0
    while height % 2 == 0 and width % 2 == 0:
        height, width, most = height // 2, width // 2, most + 1
    if not most:
        raise ValueError(
            f"Glow halves height and width, but the images are {height} x {width}: pad them by a "
            "row or a column to even sizes"
        )
    if levels is not None and not 1 <= levels <= most:
        raise ValueError(
            f"images of {event_shape[1]} x {event_shape[2]} pixels can be halved {most} times, "
            f"so levels must be 1 to {most}, got {levels}"
        )
    return min(most, 3) if levels is None else levels


def _transform(coupling: str, scale: str, bound: float) -> Transform:
    if coupling == "affine":
        return Affine(scale, bound)
    if coupling == "additive":
        return Additive()
    if coupling == "spline":
        return RationalQuadraticSpline()
    if coupling == "mixture":
        return MixtureOfLogistics()
    raise unknown("coupling", coupling, COUPLINGS)
