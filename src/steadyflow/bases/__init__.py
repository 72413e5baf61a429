"""The distributions that latents are drawn from, one family a file, one interface: `Base`."""

from collections.abc import Sequence

from steadyflow.bases.base import Base
from steadyflow.bases.box import UniformBox
from steadyflow.bases.heavy import StudentT
from steadyflow.bases.mixture import NormalMixture
from steadyflow.bases.standard import (
    DiagonalNormal,
    HullNormal,
    StandardLogistic,
    StandardNormal,
)
from steadyflow.errors import unknown

__all__ = [
    "BASES",
    "Base",
    "DiagonalNormal",
    "HullNormal",
    "NormalMixture",
    "StandardLogistic",
    "StandardNormal",
    "StudentT",
    "UniformBox",
    "named",
]

BASES: dict[str, type[Base]] = {
    "normal": StandardNormal,
    "logistic": StandardLogistic,
    "diagonal-normal": DiagonalNormal,
    "student-t": StudentT,
    "mixture": NormalMixture,
}


def named(name: str, event_shape: Sequence[int], context_features: int | None = None) -> Base:
    """The base of a name, on latents of a shape; a mixture's weights depend on the context.

    Raises:
        ValueError: for another name.
    """
    if name not in BASES:
        raise unknown("base", name, BASES)
    if name == "mixture":
        return NormalMixture(event_shape, context_features=context_features)
    return BASES[name](event_shape)
