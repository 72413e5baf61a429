"""Invertible maps with log-determinants, one family a file, one interface: `Bijection`."""

from steadyflow.bijections.autoregressive import Autoregressive
from steadyflow.bijections.bijection import Bijection, Chain, Inverse
from steadyflow.bijections.columns import Columns, Interval
from steadyflow.bijections.convolution import InvertibleConvolution, NormalizedConvolution
from steadyflow.bijections.coupling import Alternating, Checkerboard, Coupling, Halves, Split
from steadyflow.bijections.dequantization import GaussianNoise, UniformDequantization
from steadyflow.bijections.elementwise import Logit, Scaling, Shift, Standardization
from steadyflow.bijections.gaussianization import Gaussianization
from steadyflow.bijections.integrated import IntegratedNetwork
from steadyflow.bijections.linear import (
    HouseholderLinear,
    LULinear,
    MatrixExponential,
    Permutation,
    Reverse,
    Shuffle,
)
from steadyflow.bijections.mixtures import MixtureOfLogistics
from steadyflow.bijections.normalization import ActNorm
from steadyflow.bijections.ode import ContinuousFlow
from steadyflow.bijections.planar import Planar, Radial
from steadyflow.bijections.polynomials import BernsteinPolynomial, SumOfSquares
from steadyflow.bijections.precision import FullPrecision
from steadyflow.bijections.priors import LearnedPrior
from steadyflow.bijections.residual import Residual
from steadyflow.bijections.shape import Flatten, MultiScale, Patches, Squeeze, Unsqueeze
from steadyflow.bijections.splines import CircularSpline, RationalQuadraticSpline
from steadyflow.bijections.sylvester import Sylvester
from steadyflow.bijections.transformer import AutoregressiveTransformer, LearnedOrder
from steadyflow.bijections.transforms import Additive, Affine, Transform
from steadyflow.bijections.variational import VariationalDequantization
from steadyflow.bijections.whitening import Leading, PrincipalAxes

__all__ = [
    "ActNorm",
    "Additive",
    "Affine",
    "Alternating",
    "Autoregressive",
    "AutoregressiveTransformer",
    "BernsteinPolynomial",
    "Bijection",
    "Chain",
    "Checkerboard",
    "CircularSpline",
    "Columns",
    "ContinuousFlow",
    "Coupling",
    "Flatten",
    "FullPrecision",
    "GaussianNoise",
    "Gaussianization",
    "Halves",
    "HouseholderLinear",
    "IntegratedNetwork",
    "Interval",
    "Inverse",
    "InvertibleConvolution",
    "LULinear",
    "Leading",
    "LearnedOrder",
    "LearnedPrior",
    "Logit",
    "MatrixExponential",
    "MixtureOfLogistics",
    "MultiScale",
    "NormalizedConvolution",
    "Patches",
    "Permutation",
    "Planar",
    "PrincipalAxes",
    "Radial",
    "RationalQuadraticSpline",
    "Residual",
    "Reverse",
    "Scaling",
    "Shift",
    "Shuffle",
    "Split",
    "Squeeze",
    "Standardization",
    "SumOfSquares",
    "Sylvester",
    "Transform",
    "UniformDequantization",
    "Unsqueeze",
    "VariationalDequantization",
]
