"""Whitening of embeddings: moments that stream and merge, and the linear maps made of them.

    Moments              count, mean and scatter in one pass; parts add up
    solve                moments -> a whitening, with its Gaussian and its words
    EmbeddingWhitener    the same as a scikit-learn transformer
    isotropy             is whitening called for at all?

`steadyflow.Whitening` is the same map as a model with exact likelihoods.
"""

from steadyflow.whitening.moments import Moments
from steadyflow.whitening.solution import WhiteningOptions, WhiteningSolution, solve

__all__ = ["Moments", "WhiteningOptions", "WhiteningSolution", "solve"]
