"""Invertible 1x1 convolution: one square matrix that mixes the channels at every pixel.

    z[:, i, j] = W x[:, i, j]              log|det dz/dx| = H W log|det W|

The matrix comes in three forms, by name:

    'plu'         W = P (L + I) (U + diag(sign * exp(s)))      log|det W| = sum s
    'full'        W itself                                     log|det W| by one LU decomposition
    'orthogonal'  W = exp(A - A')                              log|det W| = 0,  W^-1 = W'

P and the signs are drawn once and stay; W starts as a random rotation in every form. Matrices
are small and their errors are those of every pixel, so they are put together, inverted and their
determinants taken in float64 whatever the precision of the images.

Kingma & Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions" (2018), sec. 3.2.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.bijections.bijection import Bijection, Shape, Transformed, same_shape
from steadyflow.bijections.normalization import ActNorm
from steadyflow.errors import unknown
from steadyflow.networks.precision import full_precision


class PLUMatrix(nn.Module):
    """W = P (L + I) (U + diag(sign * exp(s))): its determinant and inverse need no decomposition.

    It can not become singular, since exp(s) > 0. Kingma & Dhariwal (2018), eq. 10-11.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, size: int):
        super().__init__()
        p, lower, upper = torch.linalg.lu(random_rotation(size))
        diagonal = upper.diagonal()
        self.register_buffer("permutation", p.argmax(1))
        self.register_buffer("sign", diagonal.sign())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(diagonal.abs().log())

    def forward(self) -> tuple[Tensor, Tensor]:
        """W: (size, size) and log|det W|, in float64."""
        lower, upper = self._factors()
        return (lower @ upper)[self.permutation], wide(self.log_diagonal).sum()

    def inverse(self) -> Tensor:
        """W^-1: (size, size) by two triangular solves."""
        lower, upper = self._factors()
        rows = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)[self.permutation].t()
        half = torch.linalg.solve_triangular(lower, rows, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, half, upper=True)

    def _factors(self) -> tuple[Tensor, Tensor]:
        lower, upper = wide(self.lower).tril(-1), wide(self.upper).triu(1)
        ones = torch.ones_like(self.log_diagonal, dtype=lower.dtype)
        diagonal = wide(self.sign) * wide(self.log_diagonal).exp()
        return lower + torch.diag(ones), upper + torch.diag(diagonal)


class FullMatrix(nn.Module):
    """W itself: what the authors' own code trains. Nothing but the likelihood keeps it regular."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(random_rotation(size))

    def forward(self) -> tuple[Tensor, Tensor]:
        """W: (size, size) and log|det W|, in float64."""
        weight = wide(self.weight)
        return weight, torch.linalg.slogdet(weight).logabsdet

    def inverse(self) -> Tensor:
        """W^-1: (size, size)."""
        return torch.linalg.inv(wide(self.weight))


class OrthogonalMatrix(nn.Module):
    """W = exp(A - A'): a rotation for every A, whose inverse is its transpose."""

    def __init__(self, size: int):
        super().__init__()
        # angles wide enough to go all round the circle: W starts like a random rotation
        self.skew = nn.Parameter(torch.randn(size, size) * 2 / math.sqrt(size))

    def forward(self) -> tuple[Tensor, Tensor]:
        """W: (size, size) and log|det W| = 0, in float64."""
        skew = wide(self.skew)
        weight = torch.linalg.matrix_exp(skew - skew.t())
        return weight, weight.new_zeros(())

    def inverse(self) -> Tensor:
        """W^-1 = W': (size, size)."""
        return self()[0].t()


FORMS: dict[str, type[PLUMatrix | FullMatrix | OrthogonalMatrix]] = {
    "plu": PLUMatrix,
    "full": FullMatrix,
    "orthogonal": OrthogonalMatrix,
}


class InvertibleConvolution(Bijection):
    """z = W x at every pixel; for vectors, an invertible linear map.

    Args:
        channels: length of axis 1.
        form: how W is written: 'plu', 'full' or 'orthogonal'.

    Example:
        >>> import torch
        >>> from steadyflow.bijections import InvertibleConvolution
        >>> mix = InvertibleConvolution(4, "orthogonal")
        >>> z, log_det = mix(torch.randn(2, 4, 3, 3))
        >>> z.shape, log_det.tolist()
        (torch.Size([2, 4, 3, 3]), [0.0, 0.0])
    """

    def __init__(self, channels: int, form: str = "plu"):
        super().__init__()
        if form not in FORMS:
            raise unknown("form of a 1x1 convolution", form, FORMS)
        self.channels, self.form = channels, form
        self.matrix = FORMS[form](channels)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Mixes the channels."""
        weight, log_det = self.matrix()
        return mix(x, weight), _everywhere(log_det, x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Unmixes them."""
        return mix(z, self.matrix.inverse()), -_everywhere(self.matrix()[1], z)

    @torch.no_grad()
    def condition_number(self) -> float:
        """The largest over the smallest singular value of W: what may multiply rounding."""
        return float(torch.linalg.cond(self.matrix()[0]))

    def output_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another number of channels."""
        return same_shape(self, (self.channels, *event_shape[1:]), event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another number of channels."""
        return same_shape(self, (self.channels, *event_shape[1:]), event_shape)

    def extra_repr(self) -> str:
        """Channels and form, for the printed model."""
        return f"channels={self.channels}, form='{self.form}'"


class NormalizedConvolution(Bijection):
    """Activation normalisation and a 1x1 convolution, computed as one matrix product.

        z = W exp(s) (x + b)               log|det dz/dx| = H W (sum_c s_c + log|det W|)

    The same map as `Chain(ActNorm(channels), InvertibleConvolution(channels, form))`, at half the
    passes over the image.

    Args:
        channels: length of axis 1.
        form: how W is written: 'plu', 'full' or 'orthogonal'.
    """

    def __init__(self, channels: int, form: str = "plu"):
        super().__init__()
        self.norm = ActNorm(channels)
        self.convolution = InvertibleConvolution(channels, form)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Normalises, then mixes the channels."""
        weight, log_det = self.convolution.matrix()
        scale = wide(self.norm.log_scale)
        weight = weight * scale.exp()
        z = mix(x, weight, weight @ wide(self.norm.shift))
        return z, _everywhere(log_det + scale.sum(), x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Unmixes the channels, then undoes the normalisation."""
        scale = wide(self.norm.log_scale)
        weight = torch.exp(-scale)[:, None] * self.convolution.matrix.inverse()
        log_det = self.convolution.matrix()[1] + scale.sum()
        return mix(z, weight, -wide(self.norm.shift)), -_everywhere(log_det, z)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Sets shift and scale so that the channels of x have mean 0 and variance 1."""
        self.norm.initialize(x, context)

    def output_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another number of channels."""
        return self.convolution.output_shape(event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The same; fails on another number of channels."""
        return self.convolution.input_shape(event_shape)


def mix(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b along axis 1 of x: (batch, channels, *rest), never in less than x's precision.

    A batched product with W as it lies: on a CPU up to thirty times faster than the library's 1x1
    convolution when there are few channels.
    """
    weight = weight.to(x.dtype)
    bias = x.new_zeros(len(weight)) if bias is None else bias.to(x.dtype)
    with full_precision(x):  # a flow's own value rounded to bfloat16 has no way back
        if x.dim() == 2:
            return F.linear(x, weight, bias)
        many = weight.expand(x.shape[0], -1, -1)
        columns = x.flatten(2)
        shift = bias[:, None].expand(x.shape[0], -1, columns.shape[2])
        return torch.baddbmm(shift, many, columns).view(x.shape)


def random_rotation(size: int) -> Tensor:
    """A random orthogonal matrix (size, size), by torch's global seed."""
    return torch.linalg.qr(torch.randn(size, size)).Q.contiguous()


def wide(values: Tensor) -> Tensor:
    """Values in float64, or in float32 on a device that has nothing wider."""
    return values.float() if values.device.type == "mps" else values.double()


def _everywhere(log_det: Tensor, x: Tensor) -> Tensor:
    # log|det W| at each of the H W positions; float32 or wider, (batch,)
    kind = torch.promote_types(x.dtype, torch.float32)
    return (log_det * x.shape[2:].numel()).to(kind).expand(x.shape[0])
