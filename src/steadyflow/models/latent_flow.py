"""Flows on the latents of another model, by the name of the flow model that they are taken from.

prior       log p(w) of given w is wanted: the flow as it is
noise       draws and their log q are wanted: an autoregressive flow is turned round, which makes
            both one pass of its networks (inverse autoregressive flow, Kingma et al. 2016)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from steadyflow.bijections import (
    Affine,
    Bijection,
    Chain,
    Coupling,
    Halves,
    Inverse,
    LearnedPrior,
    NormalizedConvolution,
)
from steadyflow.errors import unknown
from steadyflow.flow import Flow
from steadyflow.models.glow import CLIP, Glow
from steadyflow.models.maf import MAF
from steadyflow.models.realnvp import RealNVP
from steadyflow.models.spline_flow import SplineFlow
from steadyflow.networks import GlowNet

WIDEST = 256  # channels of a map: the matrices that mix them grow with their square


@dataclass(frozen=True)
class LatentFlow:
    """How flows on latents are built.

    Attributes:
        name: 'spline-flow', 'maf' or 'realnvp' for vectors, 'glow' or 'realnvp' for maps; 'auto'
            takes the first of these.
        layers: couplings or autoregressive layers for vectors, steps at each level for maps.
        levels: of maps; None for as many as go, up to 3 and 256 channels; 0 for steps on the map
            as it is.
        channels: inside the networks of maps.
        hidden_features: of the networks of vectors.
    """

    name: str
    layers: int
    levels: int | None
    channels: int
    hidden_features: Sequence[int]

    def build(self, shape: tuple[int, ...], context: int | None, draws: bool = False) -> Flow:
        """A flow on latents of this shape, which starts near the identity.

        Args:
            shape: (d,) or (channels, height, width).
            context: length of its context vector; None for none.
            draws: built to be drawn from with log_prob, instead of for log_prob of what is given.
        """
        kinds = VECTORS if len(shape) == 1 else MAPS
        name = next(iter(kinds)) if self.name == "auto" else self.name
        if name not in kinds:
            raise unknown("flow", name, kinds)
        bijection = kinds[name](self, shape, context)
        return Flow(Inverse(bijection) if draws and len(shape) == 1 else bijection, shape)


def _spline(size: LatentFlow, shape: tuple[int, ...], context: int | None) -> Bijection:
    several = shape[0] > 1
    return _of(
        SplineFlow(
            event_shape=shape,
            context_features=context,
            architecture="coupling" if several else "autoregressive",
            transforms=size.layers,
            hidden_features=size.hidden_features,
        )
    )


def _maf(size: LatentFlow, shape: tuple[int, ...], context: int | None) -> Bijection:
    return _of(
        MAF(
            event_shape=shape,
            context_features=context,
            transforms=size.layers,
            hidden_features=size.hidden_features,
        )
    )


def _realnvp(size: LatentFlow, shape: tuple[int, ...], context: int | None) -> Bijection:
    return _of(
        RealNVP(
            event_shape=shape,
            context_features=context,
            couplings=size.layers,
            hidden_features=size.hidden_features,
            scales=size.levels,
            hidden_channels=size.channels,
            bits=0,
        )
    )


def _glow(size: LatentFlow, shape: tuple[int, ...], context: int | None) -> Bijection:
    levels = _levels(shape) if size.levels is None else size.levels
    if not levels:
        return _flat(size, shape, context)
    glow = Glow(
        event_shape=shape,
        context_features=context,
        levels=levels,
        steps=size.layers,
        hidden_channels=size.channels,
        bits=0,
    )
    return _of(glow)[1]  # type: ignore[index]  # without the shift of pixels


def _levels(shape: tuple[int, ...]) -> int:
    """As many as halve the map evenly, up to 3, while it stays within 256 channels."""
    channels, height, width = shape
    levels = 0
    while levels < 3 and height % 2 == width % 2 == 0 and 4 * channels <= WIDEST:
        channels, height, width, levels = 2 * channels, height // 2, width // 2, levels + 1
    return levels


def _flat(size: LatentFlow, shape: tuple[int, ...], context: int | None) -> Bijection:
    """Steps of Glow on a map as it is."""
    kept = shape[0] // 2
    if not kept:
        raise ValueError(
            f"a flow on a map of {shape[1]} x {shape[2]} latents needs at least two channels, "
            "got latent_channels=1"
        )
    steps: list[Bijection] = []
    for _ in range(size.layers):
        network = GlowNet(kept, 2 * (shape[0] - kept), size.channels, context, CLIP)
        steps += [NormalizedConvolution(shape[0]), Coupling(Halves(), Affine("sigmoid"), network)]
    return Chain(*steps, LearnedPrior(shape, context))


def _of(model: Any) -> Bijection:
    return model.flow.bijection


Builder = Callable[[LatentFlow, tuple[int, ...], int | None], Bijection]
VECTORS: dict[str, Builder] = {"spline-flow": _spline, "maf": _maf, "realnvp": _realnvp}
MAPS: dict[str, Builder] = {"glow": _glow, "realnvp": _realnvp}
