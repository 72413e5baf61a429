"""Linear maps and activations of bounded slope, the parts of contractive networks.

    W_c = W min(1, c / sigma(W))             |W_c x - W_c y| <= c |x - y|

sigma is the norm of the operator itself: for a convolution, of the map between whole images with
its padding at their size. (The norm of the reshaped kernel is up to k times too small.) It is
bounded from above by Lanczos steps with a vector that is kept, whenever the weights have changed:
the bound holds by construction, whoever changed them, and needs no step in a training loop.

Miyato et al. (2018) for the constraint, Gouk et al. (2021) for the true operator; Behrmann et al.,
"Invertible Residual Networks" (2019), sec. 3.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.errors import unknown
from steadyflow.networks.precision import exact_arithmetic
from steadyflow.solvers.singular import leading_singular

NORMS = ("2", "1", "inf")
DENSE = 512  # rank up to which a matrix is squared, not iterated
DENSE_IMAGES = {"cpu": 128, "cuda": 1024}  # the same for a convolution, written as a matrix
TINY, FOURTH_POWERS = 16, 5  # rank up to which eigenvalues are computed; squarings, in pairs
SMALL, MANY, FEW = 512, 16, 10  # Lanczos steps: small maps have crowded spectra
TOLERANCE = 2e-3  # between the estimate of a norm and its bound
MARGIN = 4e-3  # by which a bound is raised, for a leading vector that has changed places
SAME = 1e-5  # relative change of a number that is only rounding


class LipschitzLayer(nn.Module):
    """A linear map whose norm stays below a coefficient, whatever its weights become.

    The norm is measured whenever the weights have changed since the last call, whoever changed
    them: in training their sums are compared (fused optimisers leave no other trace), in
    evaluation torch's count of changes. The vectors that a measurement starts from are kept.

    Args:
        weight: the free parameter W, (out, in, *kernel).
        coefficient: c, the largest norm; above 0.
        norm: '2', '1' or 'inf', in which the map is bounded.
        size: (height, width) of the images that a convolution is measured for; () for matrices.

    Attributes:
        bound: an upper bound on the norm of W.
    """

    bound: Tensor
    fingerprint: Tensor
    vectors: Tensor

    def __init__(self, weight: Tensor, coefficient: float, norm: str, size: Sequence[int] = ()):
        super().__init__()
        if not coefficient > 0 or math.isinf(coefficient):
            raise ValueError(f"a Lipschitz coefficient must be above 0, got {coefficient}")
        if norm not in NORMS:
            raise unknown("norm", norm, NORMS)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(weight.new_zeros(len(weight)))
        self.coefficient, self.norm, self.size = coefficient, norm, tuple(size)
        self._transposed = weight.shape[0] < weight.shape[1]  # vectors live on the smaller side
        self.register_buffer("bound", weight.new_zeros(()))
        self.register_buffer("fingerprint", weight.new_zeros(2))
        self.register_buffer("vectors", weight.new_zeros(2, *self._domain()))
        self._seen: tuple[Any, ...] | None = None
        self._sums: tuple[Any, ...] | None = None
        self._factor = 1.0

    def extra_repr(self) -> str:
        """The shape and the bound."""
        out, into, *kernel = self.weight.shape
        return f"{into}, {out}, kernel={kernel}, c={self.coefficient}, norm={self.norm}"

    @property
    def lipschitz(self) -> float:
        """An upper bound on the norm of the map as it acts."""
        self.measure()
        return min(float(self.bound), self.coefficient)

    def constrained(self) -> Tensor:
        """The weight that acts, W min(1, c / bound), differentiable in W."""
        if not torch.compiler.is_compiling():
            self.measure()
        if self._factor == 1.0:
            return self.weight
        if not torch.is_grad_enabled() or not self.weight.requires_grad:
            return self.weight * self._factor
        norm = self._norm_of(self.weight)  # for its gradient alone
        return self.weight * (self._factor * (norm.detach() / norm))

    @torch.no_grad()
    def measure(self) -> None:
        """Brings the bound up to date, if the weights or the size have changed."""
        key = (weakref.ref(self.weight), self.weight._version, self.size)
        if self._seen == key and not self.training:
            return
        sums = self._summed()
        mark = (*sums.tolist(), self.size)
        if self._sums == mark:
            self._seen = key
            return
        if not math.isfinite(mark[0]):
            raise ValueError("the norm of a layer is not finite: its weights hold NaN or infinity")
        with exact_arithmetic(self.weight):
            if self.norm != "2":
                self.bound.copy_(self._norm_of(self.weight))
            elif self._sums is not None or not self._known(sums):
                self._measure_spectral()
            self.fingerprint.copy_(sums)
        bound = float(self.bound)
        self._factor = min(1.0, self.coefficient / bound) if bound > 0 else 1.0
        self._seen, self._sums = key, mark

    @torch.no_grad()
    def true_norm(self, tolerance: float = 1e-6, max_steps: int = 400) -> float:
        """The norm of the map as it acts, in float64, by a long iteration from a random start."""
        weight = self.constrained().double()
        if self.norm != "2":
            return float(self._norm_of(weight))
        start = self._random().double()
        return leading_singular(
            lambda v: self._there(weight, v),
            lambda u: self._back(weight, u),
            start,
            tolerance,
            steps=20,
            max_steps=max_steps,
        ).value

    @torch.no_grad()
    def certified_norm(self) -> float:
        """A number that the norm of the map as it acts is proven not to exceed, in float64."""
        weight = self.constrained().double()
        if self.norm != "2":
            return float(self._norm_of(weight))
        return float(torch.linalg.matrix_norm(self._blocks(weight), 2).max())

    def train(self, mode: bool = True) -> Self:
        """Looks at the weights anew: they may have been changed by then."""
        self._seen = None
        return super().train(mode)

    def _summed(self) -> Tensor:
        """Two numbers that change with the weights."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        weight = self.weight.to(wide)
        return torch.stack((torch.linalg.vector_norm(weight), weight.sum()))

    def _known(self, sums: Tensor) -> bool:
        """Whether the bound is of these weights already: of a copy, or of a file."""
        close = (sums - self.fingerprint).abs() <= SAME * sums[0]
        return bool(self.bound > 0) and bool(self.vectors.any()) and bool(close.all())

    def _measure_spectral(self) -> None:
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        weight = self.weight.to(wide)
        size = weight.abs().amax().clamp_min(torch.finfo(wide).tiny)
        weight = weight / size  # whose square neither overflows nor vanishes
        gram = self._gram(weight)
        if gram is not None:
            bound, vector = _by_squaring(gram)
            self.bound.copy_(size * bound.sqrt())
            self.vectors.copy_(vector.view(self._domain()))
        else:
            start = self.vectors[1] if self.vectors.any() else self._random()
            found = leading_singular(
                lambda v: self._there(weight, v),
                lambda u: self._back(weight, u),
                start.to(wide),
                TOLERANCE,
                steps=MANY if start.numel() <= SMALL else FEW,
            )
            self.vectors[0], self.vectors[1] = found.vector, found.start
            self.bound.copy_(size * (found.bound * (1 + MARGIN)))

    def _norm_of(self, weight: Tensor) -> Tensor:
        """The norm, differentiable in the weight."""
        if self.norm == "2":
            return self._image_norm(weight, self.vectors[0])
        axes = [1, *range(2, weight.dim())] if self.norm == "inf" else [0, *range(2, weight.dim())]
        return weight.abs().sum(axes).amax()

    def _image_norm(self, weight: Tensor, vector: Tensor) -> Tensor:
        wide = torch.promote_types(weight.dtype, torch.float32)
        with exact_arithmetic(weight):
            return torch.linalg.vector_norm(self._there(weight.to(wide), vector.to(wide)))

    def _random(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self._domain(), generator=generator, dtype=torch.float64).to(
            self.weight.device, torch.promote_types(self.weight.dtype, torch.float32)
        )

    def _domain(self) -> tuple[int, ...]:
        return (min(self.weight.shape[:2]), *self.size)

    def _there(self, weight: Tensor, vector: Tensor) -> Tensor:
        """The map or its adjoint, whichever starts from the smaller space."""
        return (self._adjoint if self._transposed else self._map)(weight, vector)

    def _back(self, weight: Tensor, vector: Tensor) -> Tensor:
        return (self._map if self._transposed else self._adjoint)(weight, vector)

    def _gram(self, weight: Tensor) -> Tensor | None:
        """M M^T or M^T M on the smaller side, if that is small enough to be squared."""
        rows = math.prod(self._domain())
        if weight.shape[2:].numel() == 1:
            matrix = weight.flatten(1) if self._transposed else weight.flatten(1).T
            return matrix @ matrix.T if rows <= DENSE else None
        if rows > DENSE_IMAGES.get(weight.device.type, 0):
            return None
        eye = torch.eye(rows, dtype=weight.dtype, device=weight.device)
        images = eye.view(rows, *self._domain())
        if self._transposed:
            return self.linear(self.transposed(images, weight), weight).flatten(1)
        return self.transposed(self.linear(images, weight), weight).flatten(1)

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """The map of x: (batch, in, ...) by a constrained weight, without the bias."""
        raise NotImplementedError

    def transposed(self, y: Tensor, weight: Tensor) -> Tensor:
        """The adjoint map of y: (batch, out, ...)."""
        raise NotImplementedError

    def shift(self, x: Tensor) -> Tensor:
        """The bias, as it is added to (batch, out, ...)."""
        return self.bias.view(-1, *(1,) * (x.dim() - 2))

    # the map of a matrix, or of a kernel of one pixel; a larger kernel overrides these

    def _map(self, weight: Tensor, x: Tensor) -> Tensor:
        return weight.flatten(1) @ x

    def _adjoint(self, weight: Tensor, y: Tensor) -> Tensor:
        return weight.flatten(1).T @ y

    def _blocks(self, weight: Tensor) -> Tensor:
        """Matrices (number, out, in) whose largest norm is not below that of the map."""
        return weight.flatten(1)[None]

    def _save_to_state_dict(self, *args: Any) -> None:
        self.measure()  # what is saved is true of the weights beside it
        super()._save_to_state_dict(*args)

    def _load_from_state_dict(self, state: dict, prefix: str, *rest: Any) -> None:
        saved = state.get(prefix + "vectors")
        if saved is not None and saved.shape != self.vectors.shape and saved.dim() == 4:
            self.size = tuple(saved.shape[2:])  # measured for other images last
            self.vectors = self.vectors.new_zeros(saved.shape)
        self._seen = self._sums = None
        super()._load_from_state_dict(state, prefix, *rest)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_seen": None, "_sums": None}


class LipschitzLinear(LipschitzLayer):
    """y = W_c x + b with |W_c| <= c.

    Args:
        in_features: length of x.
        out_features: length of y.
        coefficient: c.
        norm: '2', '1' or 'inf'.

    Example:
        >>> layer = LipschitzLinear(3, 5, coefficient=0.9)
        >>> layer.weight.data *= 100
        >>> layer.lipschitz
        0.9
    """

    def __init__(
        self, in_features: int, out_features: int, coefficient: float = 0.98, norm: str = "2"
    ):
        super().__init__(nn.Linear(in_features, out_features).weight.data, coefficient, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_features) to (batch, out_features)."""
        return F.linear(x, self.constrained(), self.bias)

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """(batch, in_features) to (batch, out_features)."""
        return F.linear(x, weight)

    def transposed(self, y: Tensor, weight: Tensor) -> Tensor:
        """(batch, out_features) to (batch, in_features)."""
        return F.linear(y, weight.T)


class LipschitzConv2d(LipschitzLayer):
    """A convolution of images with zero padding that keeps their size, and with |W_c| <= c.

    Args:
        in_channels: channels of x.
        out_channels: channels of y.
        kernel_size: odd.
        image_size: (height, width); images of another size are measured anew when they come.
        coefficient: c.
        norm: '2', '1' or 'inf'.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        image_size: Sequence[int],
        coefficient: float = 0.98,
        norm: str = "2",
    ):
        if kernel_size % 2 == 0:
            raise ValueError(f"kernels must be of odd size, got {kernel_size}")
        weight = nn.Conv2d(in_channels, out_channels, kernel_size).weight.data
        super().__init__(weight, coefficient, norm, image_size if kernel_size > 1 else ())
        self.padding = kernel_size // 2

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        if self.padding and x.shape[2:] != self.size:
            self.size = tuple(x.shape[2:])
            self.vectors = self.vectors.new_zeros(2, *self._domain())
        return F.conv2d(x, self.constrained(), self.bias, padding=self.padding)

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        return F.conv2d(x, weight, padding=self.padding)

    def transposed(self, y: Tensor, weight: Tensor) -> Tensor:
        """(batch, out_channels, height, width) to (batch, in_channels, height, width)."""
        return F.conv_transpose2d(y, weight, padding=self.padding)

    def _map(self, weight: Tensor, x: Tensor) -> Tensor:
        if not self.padding:
            return super()._map(weight, x)
        return F.conv2d(x[None], weight, padding=self.padding)[0]

    def _adjoint(self, weight: Tensor, y: Tensor) -> Tensor:
        if not self.padding:
            return super()._adjoint(weight, y)
        return F.conv_transpose2d(y[None], weight, padding=self.padding)[0]

    def _blocks(self, weight: Tensor) -> Tensor:
        if not self.padding:
            return super()._blocks(weight)
        # a zero-padded convolution is a part of the circular one on a torus larger by k - 1, whose
        # frequencies do not mix (Sedghi, Gupta & Long 2019)
        torus = [n + weight.shape[-1] - 1 for n in self.size]
        return torch.fft.rfft2(weight, s=torus).flatten(2).permute(2, 0, 1)


def _by_squaring(gram: Tensor) -> tuple[Tensor, Tensor]:
    """A proven upper bound on the largest eigenvalue of a Gram matrix, and its vector.

        lambda^p <= tr G^p <= n lambda^p,      p = 4^5: at most 0.6 % too large for n = 512

    Squaring takes no start, misses nothing and asks no question on the way (Delattre et al. 2023).
    """
    tiny = torch.finfo(gram.dtype).tiny
    if len(gram) <= TINY:
        values, vectors = torch.linalg.eigh(gram.double())
        return values[-1].clamp_min(0).to(gram.dtype) * (1 + 1e-6), vectors[:, -1]
    power, log, share = gram, gram.new_zeros((), dtype=torch.float64), 1.0
    for _ in range(FOURTH_POWERS):
        trace = power.diagonal().sum().clamp_min(tiny)
        log, share = log + share * trace.double().log(), share / 4
        power = power / trace
        power = power @ power
        power = power @ power
    trace = power.diagonal().sum().clamp_min(tiny)
    log = log + share * trace.double().log()
    # the largest column of the power is along the leading eigenvector
    column = power[:, power.diagonal().argmax()] / trace
    norm = torch.linalg.vector_norm(column).clamp_min(tiny)
    return log.exp().to(gram.dtype) * (1 + 1e-6), column / norm


class LipSwish(nn.Module):
    """x sigmoid(beta x) / 1.1, with beta > 0 learned: slope at most 1 for every beta.

    Chen et al., "Residual Flows for Invertible Generative Modeling" (2019), sec. 3.3.
    """

    widening = 1

    def __init__(self):
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Like x."""
        return x * torch.sigmoid(F.softplus(self.raw) * x) / 1.1

    def slope(self, x: Tensor) -> Tensor:
        """The derivative, like x."""
        return self._swish_slope(x) / 1.1

    def _swish_slope(self, x: Tensor) -> Tensor:
        bx = F.softplus(self.raw) * x
        gate = torch.sigmoid(bx)
        return gate + bx * gate * (1 - gate)


class CLipSwish(LipSwish):
    """swish(x) and swish(-x) side by side, over the norm of their slopes; doubles the channels.

    With s = swish'(x) the slopes are s and 1 - s, and s <= 1.0999: together at most 1.1045 in the
    2-norm, 1.1999 in the 1-norm. Perugachi-Diaz et al., "Invertible DenseNets" (2021), sec. 4.2.
    """

    widening = 2

    def __init__(self, norm: str = "2"):
        super().__init__()
        self.total = {"2": 1.1045, "1": 1.2, "inf": 1.1}[norm]

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, ...) to (batch, 2 channels, ...)."""
        positive = x * torch.sigmoid(F.softplus(self.raw) * x)
        return torch.cat((positive, positive - x), 1) / self.total  # swish(-x) = swish(x) - x

    def slope(self, x: Tensor) -> Tensor:
        """The derivatives of both halves, (batch, 2 channels, ...)."""
        slope = self._swish_slope(x)
        return torch.cat((slope, slope - 1), 1) / self.total


class _Fixed(nn.Module):
    """An activation without parameters, with its derivative."""

    widening = 1

    def __init__(self, value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]):
        super().__init__()
        self.value, self.slope = value, slope

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x)


def _elu_slope(x: Tensor) -> Tensor:
    return torch.exp(x.clamp_max(0.0))


def _tanh_slope(x: Tensor) -> Tensor:
    return 1 - torch.tanh(x).square()


ACTIVATIONS: dict[str, Callable[[str], nn.Module]] = {
    "lipswish": lambda norm: LipSwish(),
    "clipswish": CLipSwish,
    "elu": lambda norm: _Fixed(F.elu, _elu_slope),
    "tanh": lambda norm: _Fixed(torch.tanh, _tanh_slope),
}
TOO_STEEP = {"silu": 1.1, "swish": 1.1, "gelu": 1.13, "mish": 1.09}
TOO_FLAT = ("relu", "leaky-relu")


def lipschitz_activation(name: str, norm: str = "2") -> Any:
    """An activation of slope at most 1, with `slope` (its derivative) and `widening`.

    Raises:
        ValueError: for one whose slope is larger, or whose derivative jumps.
    """
    if name in TOO_STEEP:
        raise ValueError(
            f"activation '{name}' has slopes up to {TOO_STEEP[name]}, so it does not keep a "
            f"Lipschitz bound: use one of {', '.join(ACTIVATIONS)}"
        )
    if name in TOO_FLAT:
        raise ValueError(
            f"activation '{name}' has a derivative that jumps, so that log-determinants have no "
            f"gradient through it: use one of {', '.join(ACTIVATIONS)}"
        )
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name](norm)


def check_lipschitz(
    module: nn.Module, slack: float = 1e-4, max_steps: int = 40
) -> dict[str, tuple[float, float]]:
    """The float64 norm of every layer as it acts, and its coefficient, by the layer's name.

    Args:
        module: with layers of bounded norm.
        slack: by how much of its coefficient a norm may be above it.
        max_steps: of the iteration for each layer; more find a norm to more digits.

    Raises:
        ValueError: if a norm is above its coefficient by more than `slack` of it.
    """
    found = {}
    for name, layer in module.named_modules():
        if isinstance(layer, LipschitzLayer):
            norm = layer.true_norm(1e-4, max_steps)
            if not norm <= layer.coefficient * (1 + slack):
                raise ValueError(
                    f"layer '{name}' has the norm {norm:.6f}, above its bound "
                    f"{layer.coefficient}: its network may not be invertible; its weights were "
                    "changed behind its back, or the file is damaged"
                )
            found[name] = (norm, layer.coefficient)
    return found
