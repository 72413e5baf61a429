"""One file a model, each a `GenerativeModel` that reads like its paper.

Models are imported when they are first asked for, so that `steadyflow --help` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from steadyflow.errors import unknown

if TYPE_CHECKING:
    from steadyflow.models.diffusion import Diffusion as Diffusion
    from steadyflow.models.energy import EnergyModel as EnergyModel
    from steadyflow.models.flow_matching import FlowMatching as FlowMatching
    from steadyflow.models.fvae import FVAE as FVAE
    from steadyflow.models.gan import GAN as GAN
    from steadyflow.models.glow import Glow as Glow
    from steadyflow.models.iresnet import IResNet as IResNet
    from steadyflow.models.maf import MAF as MAF
    from steadyflow.models.model import GenerativeModel as GenerativeModel
    from steadyflow.models.nice import NICE as NICE
    from steadyflow.models.realnvp import RealNVP as RealNVP
    from steadyflow.models.sentence_flow import SentenceFlow as SentenceFlow
    from steadyflow.models.spline_flow import SplineFlow as SplineFlow
    from steadyflow.models.tarflow import TarFlow as TarFlow
    from steadyflow.models.whitening import Whitening as Whitening


class Entry(NamedTuple):
    """What is known of a model before it is imported.

    Attributes:
        module: its file.
        attribute: its class.
        about: one line for the list of models.
        likelihood: what its log_prob is, for each kind of data that it takes.
    """

    module: str
    attribute: str
    about: str
    likelihood: dict[str, str]


FLOW = {"vector": "exact", "image": "bound"}  # a bound, since the pixels are dequantised
BOUND = {"vector": "bound", "image": "bound"}  # the evidence lower bound
TABLE = {"vector": "exact", "integer columns": "bound"}  # which are dequantised
ODE = {"vector": "estimate", "image": "estimate"}  # solved to a tolerance

# by their names on the command line
MODELS: dict[str, Entry] = {
    "nice": Entry(
        "nice", "NICE", "additive coupling and a diagonal scaling (Dinh et al. 2014)", FLOW
    ),
    "realnvp": Entry(
        "realnvp", "RealNVP", "affine coupling, multi-scale for images (Dinh et al. 2016)", FLOW
    ),
    "glow": Entry(
        "glow",
        "Glow",
        "invertible 1x1 convolutions, for images (Kingma & Dhariwal 2018)",
        {"image": "bound"},
    ),
    "fvae": Entry(
        "fvae",
        "FVAE",
        "variational autoencoder and flow in one, the plain VAE too (Su & Wu 2018)",
        BOUND,
    ),
    "iresnet": Entry(
        "iresnet",
        "IResNet",
        "invertible residual network, density or classifier (Behrmann, Chen et al. 2019)",
        {"vector": "exact", "image": "estimate"},
    ),
    "maf": Entry(
        "maf",
        "MAF",
        "masked autoregressive flow, for tables (Papamakarios et al. 2017)",
        TABLE,
    ),
    "spline-flow": Entry(
        "spline_flow",
        "SplineFlow",
        "neural spline flow, for tables (Durkan et al. 2019)",
        TABLE,
    ),
    "tarflow": Entry(
        "tarflow",
        "TarFlow",
        "transformer autoregressive flow on patches of images (Zhai et al. 2024)",
        {"image": "bound"},
    ),
    "diffusion": Entry(
        "diffusion",
        "Diffusion",
        "diffusion on any path, with the likelihood of its ODE (Ho et al. 2020, Song et al. 2021)",
        ODE,
    ),
    "energy": Entry(
        "energy",
        "EnergyModel",
        "an energy and a generator of maximum entropy (Kumar et al. 2019), normalised",
        {"vector": "estimate", "image": "estimate"},
    ),
    "gan": Entry(
        "gan",
        "GAN",
        "a plain GAN, to compare energies with (Goodfellow et al. 2014)",
        {"vector": "none", "image": "none"},
    ),
    "flow-matching": Entry(
        "flow_matching",
        "FlowMatching",
        "straight lines from data to noise, optimal pairing, few steps (Lipman et al. 2023)",
        ODE,
    ),
    "whitening": Entry(
        "whitening",
        "Whitening",
        "one linear map to uncorrelated coordinates, in closed form (Su et al. 2021)",
        {"vector": "exact"},
    ),
    "sentence-flow": Entry(
        "sentence_flow",
        "SentenceFlow",
        "whitening and a flow behind it, for sentence embeddings (Li et al. 2020)",
        {"vector": "exact"},
    ),
}


def model_class(name: str) -> type[GenerativeModel]:
    """The class of a model by its command-line name; an unknown one suggests the nearest."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    entry = MODELS[name]
    return getattr(importlib.import_module(f"steadyflow.models.{entry.module}"), entry.attribute)


def __getattr__(attribute: str) -> Any:
    if attribute == "GenerativeModel":
        return importlib.import_module("steadyflow.models.model").GenerativeModel
    for name, entry in MODELS.items():
        if attribute == entry.attribute:
            return model_class(name)
    raise AttributeError(f"module 'steadyflow.models' has no attribute '{attribute}'")


def __dir__() -> list[str]:
    return [
        "MODELS",
        "GenerativeModel",
        "model_class",
        *(entry.attribute for entry in MODELS.values()),
    ]
