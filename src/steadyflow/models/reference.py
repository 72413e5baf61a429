"""What an energy corrects, U(x) = f(x) - log r(x): a distribution that makes exp(-U) integrable.

normal    r = N(mean, diag std^2) with the moments of the data
cube      r = 1 on [0, 1]^D, for dequantised integers
flow      a trained flow: the energy then tilts it
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steadyflow.bases import StandardNormal
from steadyflow.bijections import Bijection
from steadyflow.models.flow_model import FlowModel
from steadyflow.models.model import GenerativeModel

if TYPE_CHECKING:
    from steadyflow.models.adversarial import AdversarialModel
    from steadyflow.models.energy import EnergyModel


class NormalReference(nn.Module):
    """The normal with the moments that a normalisation has taken from the data.

    Args:
        normalization: sends such a normal to the standard one.
        event_shape: of the data.
    """

    def __init__(self, normalization: Bijection, event_shape: Sequence[int]):
        super().__init__()
        self._normalization = (normalization,)  # not a part: its buffers are saved once
        self.base = StandardNormal(event_shape)

    def forward(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Log r(y), (batch,)."""
        u, log_det = self._normalization[0](y)
        return self.base.log_prob(u) + log_det


class CubeReference(nn.Module):
    """One inside the unit cube, zero outside."""

    def forward(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Log r(y): 0 or -inf, (batch,)."""
        inside = ((y >= 0) & (y <= 1)).flatten(1).all(1)
        return torch.where(inside, 0.0, -math.inf).to(y.dtype)


class TiltedFlow(nn.Module):
    """A trained flow that stands still.

    Args:
        source: the folder of a saved flow, or what its config.json says: then the weights are
            expected from somewhere else.

    Attributes:
        recorded: name and config of the flow, plain values.
    """

    def __init__(self, source: str | Mapping[str, Any]):
        super().__init__()
        self.folder = source if isinstance(source, str) else None
        if self.folder is not None:
            self.model = _flow_model(GenerativeModel.from_pretrained(self.folder))
        else:
            self.model = build_flow(source)  # type: ignore[arg-type]
        self.model.requires_grad_(False)
        self.recorded = {"model": self.model.name, "config": self.model.config}

    def forward(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Log r(y), (batch,)."""
        return density(self.model, y, context)


def make_reference(model: AdversarialModel, tilt: str | Mapping[str, Any] | None) -> nn.Module:
    """The reference of a model's energy: a trained flow, if there is one to tilt."""
    if tilt is None:
        if model.dequantization is not None:
            return CubeReference()
        return NormalReference(model.normalization, model.event_shape)
    tilted = TiltedFlow(tilt)
    theirs = tilted.model.event_shape, tilted.model.num_classes
    own = model.event_shape, model.num_classes
    if theirs != own:
        raise ValueError(
            f"the flow to tilt is for examples of shape {theirs[0]} and {theirs[1]} classes, this "
            f"energy for {own[0]} and {own[1]}"
        )
    if tilted.model.config.get("columns"):
        raise ValueError(
            "the flow to tilt knows kinds of columns, which an energy does not: train it on data "
            "with spread='none'"
        )
    return tilted


def make_flow(
    model: EnergyModel, name: str | Mapping[str, Any], layers: int, widths: Sequence[int]
) -> FlowModel | None:
    """The flow that generates for an energy, by name; None for 'network'."""
    if name == "network":
        return None
    image = len(model.event_shape) == 3
    if name == "auto":
        if isinstance(model.reference, TiltedFlow):
            return build_flow(model.reference.recorded)
        name = "realnvp" if image else "spline-flow"
    if not isinstance(name, str):
        return build_flow(name)
    shared = {"event_shape": model.event_shape, "num_classes": model.num_classes}
    own: dict[str, Any] = {}
    if image:
        # next to no margin: what a flow draws must lie in the cube
        own = {"bits": model.dequantization.bits if model.dequantization else 0, "alpha": 1e-6}
    elif name == "spline-flow":
        kind = "coupling" if model.dimensions > 1 else "autoregressive"
        own = {"architecture": kind, "transforms": layers, "hidden_features": widths, "bins": 16}
    elif name == "realnvp":
        own = {"couplings": layers, "hidden_features": widths}
    return build_flow({"model": name, "config": {**shared, **own}})


def density(model: FlowModel, y: Tensor, context: Tensor | None) -> Tensor:
    """The log-density of a flow at real-valued y: (batch, *event), (batch,)."""
    z, log_det = model.flow.bijection(y, context)
    return model.flow.base.log_prob(z, context) + log_det


def build_flow(recorded: Mapping[str, Any]) -> FlowModel:
    """A flow of that name and config, {"model": name, "config": {...}}, not trained."""
    from steadyflow.models import model_class

    if set(recorded) != {"model", "config"}:
        raise ValueError(
            'a flow is given as {"model": name, "config": {...}}, as in its config.json, '
            f"got {dict(recorded)}"
        )
    return _flow_model(model_class(recorded["model"])(**recorded["config"]))


def _flow_model(model: GenerativeModel) -> FlowModel:
    if not isinstance(model, FlowModel) or model.likelihood == "estimate":
        raise ValueError(
            f"a {type(model).__name__} has no exact density: give a flow that has, such as "
            "spline-flow or realnvp"
        )
    return model
