"""Whitening of embeddings: moments that stream and merge, and the linear maps made of them.

    Moments              count, mean and scatter in one pass; parts add up
    solve                moments -> a whitening, with its Gaussian and its words
    EmbeddingWhitener    the same as a scikit-learn transformer
    Isotropy             is whitening called for at all?

`steadyflow.Whitening` is the same map as a model with exact likelihoods.
"""

import importlib
from typing import TYPE_CHECKING, Any

from steadyflow.whitening.export import to_faiss, to_linear
from steadyflow.whitening.isotropy import Isotropy, drift
from steadyflow.whitening.moments import Moments
from steadyflow.whitening.rows import batches, fit_files, stream_moments
from steadyflow.whitening.solution import WhiteningOptions, WhiteningSolution, solve

if TYPE_CHECKING:
    from steadyflow.whitening.transformer import EmbeddingWhitener

__all__ = [
    "EmbeddingWhitener",
    "Isotropy",
    "Moments",
    "WhiteningOptions",
    "WhiteningSolution",
    "batches",
    "drift",
    "fit_files",
    "solve",
    "stream_moments",
    "to_faiss",
    "to_linear",
]


def __getattr__(name: str) -> Any:
    if name == "EmbeddingWhitener":  # it brings scikit-learn
        return importlib.import_module("steadyflow.whitening.transformer").EmbeddingWhitener
    raise AttributeError(f"module 'steadyflow.whitening' has no attribute '{name}'")
