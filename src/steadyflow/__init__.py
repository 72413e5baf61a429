"""steadyflow: flow-based generative models with likelihoods that can be trusted."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from steadyflow.estimators import FlowDensity as FlowDensity
    from steadyflow.estimators import FlowOutlierDetector as FlowOutlierDetector
    from steadyflow.estimators import FlowTransformer as FlowTransformer
    from steadyflow.flow import Flow as Flow
    from steadyflow.inference import fit_log_density as fit_log_density
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
    from steadyflow.training import fit as fit
    from steadyflow.training import load as load
    from steadyflow.whitening.transformer import EmbeddingWhitener as EmbeddingWhitener

_HOMES = {
    "FVAE": "steadyflow.models",
    "Diffusion": "steadyflow.models",
    "EmbeddingWhitener": "steadyflow.whitening.transformer",
    "EnergyModel": "steadyflow.models",
    "Flow": "steadyflow.flow",
    "FlowDensity": "steadyflow.estimators",
    "FlowMatching": "steadyflow.models",
    "FlowOutlierDetector": "steadyflow.estimators",
    "FlowTransformer": "steadyflow.estimators",
    "GAN": "steadyflow.models",
    "GenerativeModel": "steadyflow.models",
    "Glow": "steadyflow.models",
    "IResNet": "steadyflow.models",
    "MAF": "steadyflow.models",
    "NICE": "steadyflow.models",
    "RealNVP": "steadyflow.models",
    "SentenceFlow": "steadyflow.models",
    "SplineFlow": "steadyflow.models",
    "Whitening": "steadyflow.models",
    "TarFlow": "steadyflow.models",
    "fit": "steadyflow.training",
    "fit_log_density": "steadyflow.inference",
    "load": "steadyflow.training",
}

__all__ = [
    "FVAE",
    "GAN",
    "MAF",
    "NICE",
    "Diffusion",
    "EmbeddingWhitener",
    "EnergyModel",
    "Flow",
    "FlowDensity",
    "FlowMatching",
    "FlowOutlierDetector",
    "FlowTransformer",
    "GenerativeModel",
    "Glow",
    "IResNet",
    "RealNVP",
    "SentenceFlow",
    "SplineFlow",
    "TarFlow",
    "Whitening",
    "fit",
    "fit_log_density",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'steadyflow' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
