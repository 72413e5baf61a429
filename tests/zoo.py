"""Every bijection and every model, by name: one line here puts a new one under every test.

A `Case` says how to build a bijection and what it takes; a `Model` the same for a model. Both give
random inputs; `randomize` gives random parameters, since at the identity every log-det bug hides.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from steadyflow.bases import HullNormal
from steadyflow.bijections import (
    ActNorm,
    Additive,
    Affine,
    Alternating,
    Autoregressive,
    AutoregressiveTransformer,
    BernsteinPolynomial,
    Bijection,
    Chain,
    Checkerboard,
    CircularSpline,
    ContinuousFlow,
    Coupling,
    Flatten,
    FullPrecision,
    Gaussianization,
    Halves,
    HouseholderLinear,
    IntegratedNetwork,
    Interval,
    Inverse,
    InvertibleConvolution,
    Leading,
    LearnedOrder,
    LearnedPrior,
    Logit,
    LULinear,
    MatrixExponential,
    MixtureOfLogistics,
    MultiScale,
    NormalizedConvolution,
    Patches,
    Permutation,
    Planar,
    PrincipalAxes,
    Radial,
    RationalQuadraticSpline,
    Residual,
    Reverse,
    Scaling,
    Shift,
    Shuffle,
    Split,
    Squeeze,
    Standardization,
    SumOfSquares,
    Sylvester,
    Transform,
    Unsqueeze,
)
from steadyflow.bijections.convolution import FORMS
from steadyflow.bijections.transforms import LOG_SCALES
from steadyflow.models.diffusion import Diffusion
from steadyflow.models.flow_matching import FlowMatching
from steadyflow.models.flow_model import FlowModel
from steadyflow.models.glow import Glow
from steadyflow.models.iresnet import IResNet
from steadyflow.models.maf import MAF
from steadyflow.models.nice import NICE
from steadyflow.models.realnvp import RealNVP
from steadyflow.models.sentence_flow import SentenceFlow
from steadyflow.models.spline_flow import SplineFlow
from steadyflow.models.tarflow import TarFlow
from steadyflow.models.whitening import Whitening
from steadyflow.networks import (
    MLP,
    ContractiveConvNet,
    ContractiveMLP,
    MaskedMLP,
    ResidualConvNet,
    VectorField,
)

CLIP = 10.0
M = TypeVar("M", bound=nn.Module)


@dataclasses.dataclass(frozen=True)
class Case:
    """A bijection.

    Attributes:
        build: the constructor.
        event_shape: of x.
        context: features of its context, or None.
        domain: the interval that x lies in.
        far: whether inputs of 1e4 come back through it.
        compiles: whether torch.compile takes it whole; False where data decide the steps.
    """

    build: Callable[[], Bijection]
    event_shape: tuple[int, ...]
    context: int | None = None
    domain: tuple[float, float] = (-math.inf, math.inf)
    far: bool = True
    compiles: bool = True

    def x(self, batch: int, generator: torch.Generator, dtype=torch.float64) -> Tensor:
        shape = (batch, *self.event_shape)
        low, high = self.domain
        if math.isfinite(low):
            x = torch.rand(shape, generator=generator, dtype=torch.float64)
            return (low + (high - low) * (0.02 + 0.96 * x)).to(dtype)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def given(self, batch: int, generator: torch.Generator, dtype=torch.float64) -> Tensor | None:
        """A random context, or None."""
        if self.context is None:
            return None
        return torch.randn(batch, self.context, generator=generator, dtype=torch.float64).to(dtype)

    def random(self, generator: torch.Generator, dtype=torch.float64) -> Bijection:
        """The bijection with random parameters."""
        return randomize(self.build().to(dtype), generator)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model; `integer` says that its data are integers of so many bits, 0 that they are real.

    `compiles` is False where data decide the steps: torch.compile does not take it whole, and each
    call takes a hundred evaluations of the network.
    """

    build: Callable[[], FlowModel]
    integer: int = 0
    compiles: bool = True

    def x(self, batch: int, generator: torch.Generator, dtype=torch.float64) -> Tensor:
        shape = (batch, *self.build().event_shape)
        if self.integer:
            return torch.randint(2**self.integer, shape, generator=generator, dtype=torch.uint8)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def given(self, batch: int, generator: torch.Generator, dtype=torch.float64) -> Tensor | None:
        """Random labels or context vectors, or None."""
        model = self.build()
        if model.num_classes is not None:
            return torch.randint(model.num_classes, (batch,), generator=generator)
        if model.context_features is not None:
            shape = (batch, model.context_features)
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        return None

    def random(self, generator: torch.Generator, dtype=torch.float64) -> FlowModel:
        """The model with random parameters."""
        return randomize(self.build().to(dtype), generator)


def randomize(module: M, generator: torch.Generator, gain: float = 1.0) -> M:
    """Draws every parameter at random, of the size that training leads to.

    Weights have variance gain^2 / fan-in, so that signals keep their size through a network;
    vectors a standard deviation of 0.3 gain. Data-dependent buffers are drawn as well.
    """
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, Standardization):
                part.mean.copy_(_normal(part.mean, generator))
                part.std.copy_(torch.exp(0.3 * _normal(part.std, generator)))
            if isinstance(part, ActNorm):
                part.initialized.fill_(True)
            if isinstance(part, PrincipalAxes):
                part.centre.copy_(_normal(part.centre, generator))
                part.axes.copy_(torch.linalg.qr(_normal(part.axes.double(), generator))[0])
                part.log_scale.copy_(0.3 * _normal(part.log_scale, generator))
            if isinstance(part, HullNormal):
                part.log_width.copy_(0.3 * _normal(part.log_width, generator))
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1 / 0.09
            parameter.copy_(gain * _normal(parameter, generator) / math.sqrt(fan_in))
    return module


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.dtype)


TRANSFORMS: dict[str, Callable[[], Transform]] = {
    "additive": Additive,
    **{f"affine-{scale}": (lambda scale=scale: Affine(scale)) for scale in LOG_SCALES},
    "spline": lambda: RationalQuadraticSpline(4, bound=2.0),
    "spline-free": lambda: RationalQuadraticSpline(3, bound=2.0, tails="free"),
    "mixture": lambda: MixtureOfLogistics(3),
    "bernstein": lambda: BernsteinPolynomial(5, bound=2.0),
    "sum-of-squares": lambda: SumOfSquares(2, bound=2.0),
    "integrated": lambda: IntegratedNetwork(3, bound=2.0),
}

BOXED = ("bernstein", "sum-of-squares", "integrated")

SPLITS: dict[str, tuple[Callable[[bool], Split], tuple[int, ...]]] = {
    "halves-even": (Halves, (4,)),
    "halves-odd": (Halves, (5,)),
    "alternating-even": (Alternating, (4,)),
    "alternating-odd": (Alternating, (5,)),
    "channels": (Halves, (3, 2, 2)),
    "checkerboard": (Checkerboard, (2, 4, 4)),
}


def coupling(
    split: Split, transform: Transform, event_shape: tuple[int, ...], context: int | None = None
) -> Coupling:
    """A coupling with a small network that fits it."""
    kept, moved = split.shapes(event_shape)
    out = transform.planes * moved[0]
    network: nn.Module
    if len(event_shape) == 1:
        network = MLP(kept[0], out, (8, 8), context_features=context, clip=CLIP)
    else:
        network = ResidualConvNet(kept[0], out, 4, 1, context_features=context, clip=CLIP)
    return Coupling(split, transform, network)


def _couplings() -> dict[str, Case]:
    cases = {}
    for i, (where, (split, shape)) in enumerate(SPLITS.items()):
        for j, (how, transform) in enumerate(TRANSFORMS.items()):
            if how in BOXED and where not in ("halves-odd", "checkerboard"):
                continue  # their inverses compile into large graphs: two splits are enough
            context = 3 if (i + j) % 2 else None
            flip = j % 2 == 1
            name = f"coupling-{where}-{how}" + ("-flip" if flip else "")
            cases[name + ("-context" if context else "")] = Case(
                lambda s=split, f=flip, t=transform, e=shape, c=context: coupling(s(f), t(), e, c),
                shape,
                context,
                far=how != "affine-exp",
            )
    return cases


def autoregressive(
    transform: Transform, size: int, context: int | None = None, **options: Any
) -> Autoregressive:
    """An autoregressive layer with a small network that fits it."""
    inverse = options.pop("inverse", "auto")
    network = MaskedMLP(size, transform.planes, (9, 9), context, clip=CLIP, **options)
    return Autoregressive(transform, network, inverse)


def _autoregressives() -> dict[str, Case]:
    cases = {}
    for i, (how, transform) in enumerate(TRANSFORMS.items()):
        context = 3 if i % 2 else None
        name = f"autoregressive-{how}" + ("-context" if context else "")
        cases[name] = Case(
            lambda t=transform, c=context: autoregressive(t(), 4, c),
            (4,),
            context,
            far=how != "affine-exp",
        )
    return cases


IMAGE = (2, 4, 4)


def continuous(size: int, context: int | None = None, **options: Any) -> ContinuousFlow:
    """A continuous flow along a small field, to the accuracy of the tests."""
    field = VectorField(size, (8, 8), context, frequencies=2)
    return ContinuousFlow(field, rtol=1e-11, atol=1e-11, **options)


def residual(size: int, context: int | None = None, **options: Any) -> Residual:
    """A residual block of matrices."""
    return Residual(ContractiveMLP(size, (8, 6), context, **options))


def residual_image(
    event_shape: tuple[int, ...], context: int | None = None, **options: Any
) -> Residual:
    """A residual block of convolutions, with a dense Jacobian."""
    channels, *size = event_shape
    return Residual(ContractiveConvNet(channels, 5, size, context, **options))


def _multi_scale(priors: bool, context: int | None = None) -> MultiScale:
    squeezed, half = (8, 2, 2), (4, 2, 2)
    first = Chain(
        ActNorm(2), coupling(Checkerboard(), Affine(), IMAGE, context), Squeeze(), ActNorm(8)
    )
    second = Chain(coupling(Halves(True), Affine(), half, context), Squeeze())
    third = coupling(Halves(), Additive(), (8, 1, 1), context)
    prior = [coupling(Halves(), Affine(), squeezed, context), None] if priors else None
    return MultiScale([first, second, third], IMAGE, prior)


def _vector_chain(context: int | None = None) -> Chain:
    return Chain(
        Standardization((5,)),
        coupling(Halves(), Affine(), (5,), context),
        Reverse(),
        coupling(Alternating(True), Affine("softsign"), (5,), context),
        Inverse(ActNorm(5)),
        Permutation([4, 2, 0, 1, 3]),
        coupling(Halves(True), Additive(), (5,), context),
        Scaling((5,)),
    )


def _seen(bijection: Bijection) -> Bijection:
    """The same, initialised on eight examples of two-channel images."""
    bijection.initialize(torch.linspace(0, 0.999, 64).view(8, 2, 2, 2).square())
    return bijection


BIJECTIONS: dict[str, Case] = {
    "permutation-vector": Case(lambda: Permutation([2, 0, 3, 1]), (4,)),
    "permutation-image": Case(lambda: Permutation([2, 0, 1]), (3, 2, 2)),
    "shuffle": Case(lambda: Shuffle(5, seed=1), (5,)),
    "reverse-vector": Case(Reverse, (3,)),
    "reverse-image": Case(Reverse, (3, 2, 2)),
    "scaling-vector": Case(lambda: Scaling((3,)), (3,)),
    "scaling-image": Case(lambda: Scaling((2, 2, 3)), (2, 2, 3)),
    "shift": Case(lambda: Shift(-0.5), (3,)),
    "standardization-vector": Case(lambda: Standardization((3,)), (3,)),
    "standardization-image": Case(lambda: Standardization((2, 2, 3)), (2, 2, 3)),
    "logit": Case(Logit, (2, 2, 2), domain=(0.0, 1.0), far=False),
    "logit-no-margin": Case(lambda: Logit(0.0), (3,), domain=(0.0, 1.0), far=False),
    "interval": Case(
        lambda: Interval([0, -math.inf, -1, -math.inf, -1], [1, 2, math.inf, math.inf, 5]),
        (5,),
        domain=(0.0, 1.0),
        far=False,
    ),
    "inverse-logit": Case(lambda: Inverse(Logit(0.1)), (3,), far=False),
    "actnorm-vector": Case(lambda: ActNorm(3), (3,)),
    "actnorm-image": Case(lambda: ActNorm(3), (3, 2, 4)),
    "inverse-actnorm": Case(lambda: Inverse(ActNorm(3)), (3, 2, 2)),
    "squeeze": Case(Squeeze, (2, 4, 6)),
    "unsqueeze": Case(Unsqueeze, (8, 2, 1)),
    "inverse-squeeze": Case(lambda: Inverse(Squeeze()), (4, 2, 1)),
    "flatten": Case(lambda: Flatten((2, 3, 2)), (2, 3, 2)),
    "inverse-flatten": Case(lambda: Inverse(Flatten((2, 3, 2))), (12,)),
    **_couplings(),
    **_autoregressives(),
    "autoregressive-residual": Case(
        lambda: autoregressive(Affine(), 5, 2, residual=True, order=[2, 0, 4, 1, 3]),
        (5,),
        context=2,
    ),
    "autoregressive-rounds": Case(
        lambda: autoregressive(RationalQuadraticSpline(), 5, inverse="fixed-point"), (5,)
    ),
    "autoregressive-inverse": Case(
        lambda: Inverse(autoregressive(Affine(), 4, 2)), (4,), context=2
    ),
    "coupling-circular": Case(
        lambda: coupling(Halves(), CircularSpline(4), (4,)),
        (4,),
        domain=(-math.pi, math.pi),
        far=False,
    ),
    "lu": Case(lambda: LULinear(4), (4,)),
    "householder": Case(lambda: HouseholderLinear(5), (5,)),
    "householder-few": Case(lambda: HouseholderLinear(5, reflections=2), (5,)),
    "matrix-exponential": Case(lambda: MatrixExponential(4), (4,)),
    "full-precision": Case(lambda: FullPrecision(Chain(LULinear(3), Scaling((3,)))), (3,)),
    "coupling-pair": Case(lambda: coupling(Halves(), Affine(), (2,)), (2,)),
    "inverse-coupling": Case(
        lambda: Inverse(coupling(Halves(), Affine(), (4,), context=2)), (4,), context=2
    ),
    "chain-empty": Case(Chain, (3,)),
    "chain-vector": Case(_vector_chain, (5,)),
    "chain-vector-context": Case(lambda: _vector_chain(3), (5,), context=3),
    **{
        f"convolution-{form}-{where}": Case(lambda f=form: InvertibleConvolution(3, f), shape)
        for form in FORMS
        for where, shape in {"vector": (3,), "image": (3, 2, 4)}.items()
    },
    **{
        f"normalized-convolution-{form}": Case(
            lambda f=form: NormalizedConvolution(4, f), (4, 2, 3)
        )
        for form in FORMS
    },
    "learned-prior-vector": Case(lambda: LearnedPrior((3,)), (3,)),
    "learned-prior-context": Case(lambda: LearnedPrior((2, 2, 3), 3), (2, 2, 3), context=3),
    "gaussianization": Case(
        lambda: _seen(Gaussianization(2, 8)), (2, 2, 2), domain=(0.0, 1.0), far=False
    ),
    "patches": Case(lambda: Patches((2, 4, 6), 2), (2, 4, 6)),
    "transformer": Case(
        lambda: AutoregressiveTransformer(4, 2, width=16, layers=1, heads=2, bound=2.0), (4, 2)
    ),
    "transformer-context": Case(
        lambda: AutoregressiveTransformer(
            3, 2, width=8, layers=2, context_features=3, scale="softsign", checkpoint=True
        ),
        (3, 2),
        context=3,
    ),
    "learned-order": Case(lambda: LearnedOrder(4), (4, 2)),
    "continuous": Case(lambda: continuous(3), (3,), compiles=False),
    "continuous-context": Case(
        lambda: continuous(2, 3, method="tsit5"), (2,), context=3, compiles=False
    ),
    "chain-continuous": Case(
        lambda: Chain(coupling(Halves(), Affine(), (3,)), continuous(3, t1=0.5), Scaling((3,))),
        (3,),
        compiles=False,
    ),
    "planar": Case(lambda: Planar(3), (3,)),
    "planar-context": Case(lambda: Planar(4, 2), (4,), context=2),
    "radial": Case(lambda: Radial(3), (3,)),
    "radial-context": Case(lambda: Radial(2, 3), (2,), context=3),
    "sylvester": Case(lambda: Sylvester(4, 3), (4,)),
    "sylvester-context": Case(lambda: Sylvester(3, 2, 2), (3,), context=2),
    "principal-axes": Case(lambda: PrincipalAxes(4), (4,)),
    "leading-context": Case(
        lambda: Leading(coupling(Halves(), Affine(), (3,), context=2), 3), (5,), context=2
    ),
    "residual": Case(lambda: residual(3), (3,), compiles=False),
    "residual-context": Case(
        lambda: residual(4, 3, coefficient=0.8, activation="clipswish"),
        (4,),
        context=3,
        compiles=False,
    ),
    "residual-1-norm": Case(lambda: residual(3, activation="elu", norm="1"), (3,), compiles=False),
    "residual-image": Case(lambda: residual_image((2, 3, 2)), (2, 3, 2), compiles=False),
    "residual-image-context": Case(
        lambda: residual_image((1, 2, 2), 3, activation="clipswish", norm="inf"),
        (1, 2, 2),
        context=3,
        compiles=False,
    ),
    "chain-residual": Case(
        lambda: Chain(residual(3), ActNorm(3), residual(3, activation="tanh")),
        (3,),
        compiles=False,
    ),
    "chain-image": Case(
        lambda: Chain(
            Shift(-0.5),
            Squeeze(),
            ActNorm(8),
            coupling(Halves(), Affine(), (8, 2, 2)),
            Unsqueeze(),
        ),
        IMAGE,
    ),
    "chain-logit": Case(
        lambda: Chain(Logit(), _vector_chain()), (5,), domain=(0.0, 1.0), far=False
    ),
    "chain-reversible": Case(
        lambda: Chain(*_vector_chain(3).bijections, reversible=True), (5,), context=3
    ),
    "inverse-chain": Case(lambda: Inverse(_vector_chain(3)), (5,), context=3),
    "multi-scale": Case(lambda: _multi_scale(priors=False), IMAGE),
    "multi-scale-priors": Case(lambda: _multi_scale(priors=True), IMAGE),
    "multi-scale-context": Case(lambda: _multi_scale(priors=True, context=3), IMAGE, context=3),
}

_nice = {"hidden_features": 16, "hidden_layers": 2}
_small = {"hidden_features": [16, 16], "couplings": 4}
_image = {"hidden_channels": 4, "blocks": 1}
_glow = {"hidden_channels": 4, "steps": 1, "bound": 1.0}

MODELS: dict[str, Model] = {
    "nice-2": Model(lambda: NICE(event_shape=[2], **_nice)),
    "nice-2-normal": Model(lambda: NICE(event_shape=[2], base="normal", **_nice)),
    "nice-2-diagonal-normal": Model(
        lambda: NICE(event_shape=[2], base="diagonal-normal", **_nice)
    ),
    "nice-5": Model(lambda: NICE(event_shape=[5], couplings=3, **_nice)),
    "nice-image": Model(lambda: NICE(event_shape=[1, 4, 4], **_nice), integer=8),
    "nice-image-classes": Model(
        lambda: NICE(event_shape=[3, 3, 3], num_classes=4, bits=5, **_nice), integer=5
    ),
    "nice-image-real": Model(lambda: NICE(event_shape=[1, 3, 2], bits=0, **_nice)),
    "nice-5-context": Model(lambda: NICE(event_shape=[5], context_features=3, **_nice)),
    "realnvp-2": Model(lambda: RealNVP(event_shape=[2], **_small)),
    "realnvp-2-classes": Model(lambda: RealNVP(event_shape=[2], num_classes=3, **_small)),
    "realnvp-2-context": Model(lambda: RealNVP(event_shape=[2], context_features=2, **_small)),
    "realnvp-5": Model(lambda: RealNVP(event_shape=[5], scale="softsign", **_small)),
    "realnvp-5-classes": Model(
        lambda: RealNVP(event_shape=[5], num_classes=4, scale="sigmoid", **_small)
    ),
    "realnvp-5-context": Model(lambda: RealNVP(event_shape=[5], context_features=3, **_small)),
    "realnvp-image": Model(lambda: RealNVP(event_shape=[1, 8, 8], **_image), integer=8),
    "realnvp-image-classes": Model(
        lambda: RealNVP(event_shape=[1, 8, 4], num_classes=4, bits=3, scales=2, **_image),
        integer=3,
    ),
    "realnvp-image-context": Model(
        lambda: RealNVP(event_shape=[2, 4, 4], context_features=3, **_image), integer=8
    ),
    "realnvp-image-reversible": Model(
        lambda: RealNVP(event_shape=[1, 4, 4], reversible=True, **_image), integer=8
    ),
    "realnvp-5-reversible": Model(
        lambda: RealNVP(event_shape=[5], reversible=True, num_classes=2, **_small)
    ),
    "realnvp-image-real": Model(lambda: RealNVP(event_shape=[3, 4, 4], bits=0, **_image)),
    "glow": Model(lambda: Glow(event_shape=[1, 4, 4], **_glow), integer=8),
    "glow-reversible": Model(
        lambda: Glow(event_shape=[2, 2, 2], reversible=True, **_glow | {"steps": 3}), integer=8
    ),
    "glow-classes": Model(
        lambda: Glow(event_shape=[1, 8, 4], num_classes=4, bits=5, permutation="full", **_glow),
        integer=5,
    ),
    "glow-context": Model(
        lambda: Glow(event_shape=[2, 4, 4], context_features=3, coupling="additive", **_glow),
        integer=8,
    ),
    "glow-real": Model(
        lambda: Glow(
            event_shape=[3, 4, 4], bits=0, permutation="orthogonal", scale="softsign", **_glow
        )
    ),
    "glow-shuffle-spline": Model(
        lambda: Glow(event_shape=[1, 4, 4], permutation="shuffle", coupling="spline", **_glow),
        integer=8,
    ),
    "glow-reverse-mixture": Model(
        lambda: Glow(event_shape=[1, 4, 4], permutation="reverse", coupling="mixture", **_glow),
        integer=8,
    ),
    "glow-gated": Model(
        lambda: Glow(event_shape=[1, 4, 4], network="gated", scale="tanh", **_glow), integer=8
    ),
    "glow-attention-classes": Model(
        lambda: Glow(event_shape=[1, 4, 4], network="attention", num_classes=2, **_glow),
        integer=8,
    ),
    "glow-variational": Model(
        lambda: Glow(event_shape=[1, 4, 4], dequantization="variational", **_glow), integer=8
    ),
}

_table: Any = {"hidden_features": [16, 16]}

MODELS |= {
    "maf-2": Model(lambda: MAF(event_shape=[2], **_table)),
    "maf-5-classes": Model(
        lambda: MAF(event_shape=[5], num_classes=3, residual=True, transforms=3, **_table)
    ),
    "maf-5-context": Model(
        lambda: MAF(event_shape=[5], context_features=2, order="random", **_table)
    ),
    "maf-4-sampling": Model(
        lambda: MAF(event_shape=[4], orientation="sampling", transforms=2, **_table),
        compiles=False,  # the gradient of its log_prob solves in rounds until nothing changes
    ),
    "spline-flow-2": Model(lambda: SplineFlow(event_shape=[2], transforms=3, **_table)),
    "spline-flow-5-context": Model(
        lambda: SplineFlow(event_shape=[5], context_features=2, linear="lu", **_table)
    ),
    "spline-flow-5-classes": Model(
        lambda: SplineFlow(event_shape=[5], num_classes=3, linear="none", **_table)
    ),
    "spline-flow-coupling-2": Model(
        lambda: SplineFlow(event_shape=[2], architecture="coupling", transforms=3, **_table)
    ),
    "spline-flow-coupling-5-context": Model(
        lambda: SplineFlow(
            event_shape=[5],
            context_features=2,
            architecture="coupling",
            linear="matrix-exponential",
            transforms=2,
            **_table,
        )
    ),
    "nice-5-mixture": Model(lambda: NICE(event_shape=[5], base="mixture", **_nice)),
    "maf-3-mixture-classes": Model(
        lambda: MAF(event_shape=[3], num_classes=3, base="mixture", transforms=2, **_table)
    ),
    "spline-flow-3-student-t": Model(
        lambda: SplineFlow(event_shape=[3], base="student-t", transforms=2, **_table)
    ),
    "spline-flow-bernstein": Model(
        lambda: SplineFlow(event_shape=[3], transform="bernstein", transforms=2, bins=5, **_table)
    ),
    "spline-flow-sum-of-squares": Model(
        lambda: SplineFlow(
            event_shape=[3],
            transform="sum-of-squares",
            architecture="coupling",
            transforms=2,
            bins=4,
            **_table,
        )
    ),
    "spline-flow-mixture": Model(
        lambda: SplineFlow(event_shape=[3], transform="mixture", transforms=2, bins=3, **_table)
    ),
}

_sentence: Any = {"hidden_features": [8, 8], "levels": 2}

MODELS |= {
    "whitening": Model(lambda: Whitening(event_shape=[4])),
    "whitening-half": Model(lambda: Whitening(event_shape=[5], components=2, gamma=0.5)),
    "sentence-flow-6": Model(lambda: SentenceFlow(event_shape=[6], components=4, **_sentence)),
    "sentence-flow-5-context": Model(
        lambda: SentenceFlow(
            event_shape=[5], context_features=2, coupling="affine", mixing="lu", **_sentence
        )
    ),
    "sentence-flow-raw-classes": Model(
        lambda: SentenceFlow(event_shape=[4], num_classes=3, whiten=False, **_sentence)
    ),
}

_tar: Any = {"channels": 8, "blocks": 2, "bound": 1.0}

MODELS |= {
    "tarflow-image": Model(
        lambda: TarFlow(event_shape=[1, 4, 4], patch_size=2, layers_per_block=[1, 2], **_tar),
        integer=8,
    ),
    "tarflow-image-classes": Model(
        lambda: TarFlow(
            event_shape=[3, 2, 4],
            num_classes=3,
            layers_per_block=1,
            gaussianize=False,
            bits=5,
            **_tar,
        ),
        integer=5,
    ),
    "tarflow-image-real": Model(
        lambda: TarFlow(
            event_shape=[2, 3, 2],
            context_features=2,
            orders="learned",
            layers_per_block=1,
            drop_context=0.0,
            bits=0,
            **_tar,
        )
    ),
    "tarflow-image-noise": Model(
        lambda: TarFlow(event_shape=[1, 4, 2], sigma=0.005, layers_per_block=1, bits=4, **_tar),
        integer=4,
    ),
}

_ode: Any = {"hidden_features": [8, 8], "tolerance": 1e-10}

MODELS |= {
    "diffusion-2-context": Model(
        lambda: Diffusion(event_shape=[2], context_features=2, path="vp", **_ode), compiles=False
    ),
    "flow-matching-3-classes": Model(
        lambda: FlowMatching(event_shape=[3], num_classes=3, guidance=2.0, **_ode), compiles=False
    ),
}

_residual: Any = {"hidden_features": [8, 8], "blocks": 2}
_blocks: Any = {"hidden_channels": 4, "log_det": "exact", **_residual, "blocks": 1}

MODELS |= {
    "iresnet-2": Model(lambda: IResNet(event_shape=[2], **_residual), compiles=False),
    "iresnet-3-classes": Model(
        lambda: IResNet(event_shape=[3], num_classes=3, activation="clipswish", **_residual),
        compiles=False,
    ),
    "iresnet-3-hybrid": Model(
        lambda: IResNet(event_shape=[3], num_classes=3, task="hybrid", **_residual),
        compiles=False,
    ),
    "iresnet-image": Model(
        lambda: IResNet(event_shape=[1, 4, 4], scales=2, **_blocks), integer=8, compiles=False
    ),
    "iresnet-image-context": Model(
        lambda: IResNet(
            event_shape=[2, 4, 2], context_features=3, scales=2, factor_out=True, **_blocks
        ),
        integer=8,
        compiles=False,
    ),
}

PLANE = [
    name for name, case in MODELS.items() if case.compiles and case.build().event_shape == (2,)
]
