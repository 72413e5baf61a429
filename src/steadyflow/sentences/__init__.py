"""Sentences: encoding them, and how well the vectors' cosines agree with people."""

from steadyflow.sentences.pooling import Pooling

__all__ = ["Pooling"]
