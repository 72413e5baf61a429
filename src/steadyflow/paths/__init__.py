"""Probability paths from data to noise: what they share, and those of the literature by name."""

from steadyflow.paths.path import (
    KINDS,
    LOSSES,
    Path,
    Prediction,
    Turn,
    canonical_field,
    rows,
)
from steadyflow.paths.schedules import (
    DDPM,
    EDM,
    PATHS,
    Cosine,
    Heat,
    Straight,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
    make_path,
)

__all__ = [
    "DDPM",
    "EDM",
    "KINDS",
    "LOSSES",
    "PATHS",
    "Cosine",
    "Heat",
    "Path",
    "Prediction",
    "Straight",
    "SubVariancePreserving",
    "Turn",
    "VarianceExploding",
    "VariancePreserving",
    "canonical_field",
    "make_path",
    "rows",
]
