"""Invertible maps with log-determinants, one family a file, one interface: `Bijection`."""

from steadyflow.bijections.bijection import Bijection, Chain, Inverse
from steadyflow.bijections.coupling import Alternating, Checkerboard, Coupling, Halves, Split
from steadyflow.bijections.dequantization import UniformDequantization
from steadyflow.bijections.elementwise import Logit, Scaling, Shift, Standardization
from steadyflow.bijections.linear import Permutation, Reverse, Shuffle
from steadyflow.bijections.normalization import ActNorm
from steadyflow.bijections.shape import Flatten, MultiScale, Squeeze, Unsqueeze
from steadyflow.bijections.transforms import Additive, Affine, Transform

__all__ = [
    "ActNorm",
    "Additive",
    "Affine",
    "Alternating",
    "Bijection",
    "Chain",
    "Checkerboard",
    "Coupling",
    "Flatten",
    "Halves",
    "Inverse",
    "Logit",
    "MultiScale",
    "Permutation",
    "Reverse",
    "Scaling",
    "Shift",
    "Shuffle",
    "Split",
    "Squeeze",
    "Standardization",
    "Transform",
    "UniformDequantization",
    "Unsqueeze",
]
