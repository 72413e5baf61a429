"""Sentence flow: whitening, and a flow behind it that learns what is not Gaussian.

    y = (x - mu) U diag(lambda)^(-1/2)              all d coordinates; the first k go on
    z = (f(y_1 .. y_k), y_{k+1} .. y_d)             f: actnorm, reversal, coupling, at each step
    log p(x) = log N(z; 0, I) + log|det df/dy| - (1/2) sum log lambda

The embedding is z_1 .. z_k, compared by cosine. `whiten=False` with all components is BERT-flow:
the released configuration has 3 levels of 3 steps, additive couplings of width 32, a fixed
reversal where Glow has a 1x1 convolution, and half of the variables factored out at each level.

Li et al., "On the Sentence Embeddings from Pre-trained Language Models" (2020); Kingma & Dhariwal,
"Glow" (2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from steadyflow.bases import HullNormal
from steadyflow.bijections import (
    ActNorm,
    Additive,
    Affine,
    Bijection,
    Chain,
    Coupling,
    Halves,
    Leading,
    LULinear,
    MultiScale,
    PrincipalAxes,
    Reverse,
    Standardization,
    Transform,
)
from steadyflow.errors import unknown
from steadyflow.flow import Flow
from steadyflow.models.flow_model import FlowModel
from steadyflow.networks import MLP
from steadyflow.whitening import Moments, WhiteningOptions, solve

CLIP = 5.0  # standard deviations beyond which the conditioners see no further
COUPLINGS: dict[str, type[Transform]] = {"additive": Additive, "affine": Affine}
MIXINGS = ("reverse", "lu")


class SentenceFlow(FlowModel):
    """A flow of sentence embeddings, trained by maximum likelihood; cosines are taken of latents.

    Whether it is worth its training is answered by `Whitening` with the same components, which is
    what it starts from.

    Args:
        event_shape: (d,).
        num_classes: number of class labels to condition on; None for none.
        context_features: length of a context vector to condition on; None for none.
        components: principal directions that the flow acts on and the embedding has; all without
            it, and at most d.
        whiten: start from whitening; without it from variables of mean 0 and variance 1, as
            BERT-flow does.
        shrinkage: of the whitening: a share from 0 to 1, or 'oas'.
        levels: half of the variables are factored out after each but the last; fewer where the
            number of variables is not even.
        steps: of each level.
        hidden_features: widths of the hidden layers of each coupling network.
        coupling: 'additive' (BERT-flow's) or 'affine'.
        mixing: 'reverse' (BERT-flow's) or 'lu', a learned linear map.
    """

    name = "sentence-flow"
    initializes_on_all = True

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        num_classes: int | None = None,
        context_features: int | None = None,
        components: int | None = 128,
        whiten: bool = True,
        shrinkage: str | float = 0.0,
        levels: int = 3,
        steps: int = 3,
        hidden_features: Sequence[int] = (32, 32),
        coupling: str = "additive",
        mixing: str = "reverse",
    ):
        super().__init__(
            event_shape=event_shape, num_classes=num_classes, context_features=context_features
        )
        if len(self.event_shape) != 1 or self.dimensions < 2:
            raise ValueError(
                "SentenceFlow is for vectors of at least two numbers, but event_shape="
                f"{list(self.event_shape)} was given"
            )
        if coupling not in COUPLINGS:
            raise unknown("coupling", coupling, COUPLINGS)
        if mixing not in MIXINGS:
            raise unknown("mixing", mixing, MIXINGS)
        size = self.dimensions
        self.components = size if components is None else min(components, size)
        if self.components < 2:
            raise ValueError(
                f"components={components} was given: a coupling needs at least two variables"
            )
        if not whiten and self.components < size:
            raise ValueError(
                f"components={components} of {size} was given with whiten=False: only principal "
                "directions can be chosen; give components=None, or leave whiten on"
            )
        self.options = WhiteningOptions(components=self.components, shrinkage=shrinkage)
        self._coupling, self._mixing = COUPLINGS[coupling](), mixing
        self._hidden, self._context = hidden_features, num_classes or context_features
        first: Bijection = PrincipalAxes(size) if whiten else Standardization((size,))
        body = Leading(self._levels(levels, steps), self.components)
        self.flow = Flow(Chain(first, body), self.event_shape, HullNormal((size,)))

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Whitens by all of x: (n, d), and normalises the activations of the flow behind it.

        Raises:
            ValueError: if the data vary in fewer directions than there are components.
        """
        chain: Any = self.flow.bijection
        first, body = chain.bijections
        if isinstance(first, PrincipalAxes):
            self._whiten(first, x)
        else:
            first.initialize(x)
        self.standardize_context(context)
        y = first(x.to(self.flow.base.dtype))[0]
        body.initialize(y, self.condition(context, len(x)))

    def transform(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The embeddings of x: (n, d), shape (n, components)."""
        return self.encode(x, context)[:, : self.components]

    def similarity(self, a: Tensor, b: Tensor, context: Tensor | None = None) -> Tensor:
        """The cosine of the embeddings of a and b: (n, d) each, shape (n,)."""
        return F.cosine_similarity(self.transform(a, context), self.transform(b, context))

    def _whiten(self, axes: PrincipalAxes, x: Any) -> None:
        solution = solve(Moments.of(x), self.options)
        inside = np.arange(solution.size) < solution.rank
        axes.centre.copy_(torch.from_numpy(solution.centre))
        axes.axes.copy_(torch.from_numpy(solution.axes))
        axes.log_scale.copy_(torch.from_numpy(np.log(solution.scales)))
        hull: Any = self.flow.base
        hull.support.copy_(torch.from_numpy(inside))

    def _levels(self, levels: int, steps: int) -> Bijection:
        size, made = self.components, []
        while True:
            made.append(Chain(*(part for _ in range(steps) for part in self._step(size))))
            if len(made) >= levels or size % 2 or size < 4:
                return MultiScale(made, (self.components,))
            size //= 2

    def _step(self, size: int) -> list[Bijection]:
        split = Halves()
        (kept,), (moved,) = split.shapes((size,))
        network = MLP(
            kept,
            self._coupling.planes * moved,
            hidden_features=self._hidden,
            context_features=self._context,
            clip=CLIP,
        )
        mixing = Reverse() if self._mixing == "reverse" else LULinear(size)
        return [ActNorm(size), mixing, Coupling(split, self._coupling, network)]
