"""Whitening: the flow made of one linear map, fitted in closed form.

    z = (x - beta mu) U diag(lambda)^(-gamma / 2)     log|det dz/dx| = -(gamma / 2) sum log lambda
    log p(x) = log N(x; beta mu, U diag(lambda) U')       for every gamma

Of all affine flows it has the largest likelihood, and it costs one pass over the data and one
eigendecomposition: what a trained flow of embeddings has to beat. With k components the first k
latents are the embedding, and all others share one variance (probabilistic PCA).

Su et al., "Whitening Sentence Representations for Better Semantics and Faster Retrieval" (2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from steadyflow.bases import HullNormal
from steadyflow.bijections import PrincipalAxes
from steadyflow.flow import Flow
from steadyflow.models.flow_model import FlowModel
from steadyflow.whitening import Moments, WhiteningOptions, WhiteningSolution, solve

MOMENTS = "moments.safetensors"


class Whitening(FlowModel):
    """A linear map of vectors to uncorrelated coordinates of variance 1: an exact Gaussian.

    Args:
        event_shape: (d,).
        components: directions that are kept: a number of at least 1, or below 1 the share of the
            variance that they must hold, such as 0.9; all without it.
        gamma: how far: 1 to unit variance, 0 not at all, 0.5 half-way.
        beta: the share of the mean that is subtracted; 0 leaves it.
        shrinkage: pull of the covariance towards a multiple of the identity: a share from 0 to 1,
            or 'oas', which computes it from the spectrum and the number of rows.
        soft: added to every eigenvalue, in units of their mean (soft-ZCA).
        drop_top: so many of the largest directions are left out (all-but-the-top).
        rotation: 'pca' gives the principal coordinates, 'zca' turns them back to those of x.
        rank_tol: directions with less than this share of the largest eigenvalue count as empty.

    Attributes:
        moments: what it was fitted on; None before, and for a model that was loaded.
        solution: the same map in float64, with its notes; None likewise.

    Example:
        >>> x = torch.randn(500, 4) @ torch.randn(4, 4) + 3
        >>> model = Whitening(event_shape=[4], components=2).fit(x)
        >>> model.transform(x).shape, model.log_prob(x).shape
        (torch.Size([500, 2]), torch.Size([500]))
    """

    name = "whitening"
    closed_form = True
    initializes_on_all = True
    shown: Tensor

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        num_classes: int | None = None,
        context_features: int | None = None,
        components: float | None = None,
        gamma: float = 1.0,
        beta: float = 1.0,
        shrinkage: str | float = 0.0,
        soft: float = 0.0,
        drop_top: int = 0,
        rotation: str = "pca",
        rank_tol: float = 1e-7,
    ):
        super().__init__(event_shape=event_shape)
        if len(self.event_shape) != 1:
            raise ValueError(
                f"Whitening is for vectors, but event_shape={list(self.event_shape)} was given: "
                "flatten the examples"
            )
        if num_classes is not None or context_features is not None:
            raise ValueError("Whitening is unconditional: fit one for each class instead")
        self.options = WhiteningOptions(
            components=components,
            gamma=gamma,
            beta=beta,
            shrinkage=shrinkage,
            soft=soft,
            drop_top=drop_top,
            rotation=rotation,
            rank_tol=rank_tol,
        )
        (size,) = self.event_shape
        self.flow = Flow(PrincipalAxes(size), self.event_shape, HullNormal((size,)))
        # the first direction that `transform` shows, and how many
        self.register_buffer("shown", torch.tensor([0, size]))
        self.moments: Moments | None = None
        self.solution: WhiteningSolution | None = None

    @property
    def axes(self) -> PrincipalAxes:
        """The linear map."""
        return self.flow.bijection  # type: ignore[return-value]

    @property
    def hull(self) -> HullNormal:
        """The distribution of its latents."""
        return self.flow.base  # type: ignore[return-value]

    @property
    def support_rank(self) -> int:
        """The dimensions of the hull that the density is on; d unless the data are degenerate."""
        return int(self.hull.support.sum())

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Fits the model to x: (n, d); the same as `fit`."""
        self.condition(context, len(x))
        self.fit(x)

    def fit(self, rows: Any) -> Self:
        """Fits the model to rows in closed form, in float64.

        Args:
            rows: (n, d), or `Moments` that were gathered elsewhere.

        Raises:
            ValueError: for rows that can not be whitened as asked; the model is as it was then.
        """
        moments = rows.copy() if isinstance(rows, Moments) else self._none().update(rows)
        return self._take(moments)

    def partial_fit(self, rows: Any) -> Self:
        """Fits the model to these rows and all that came before.

        Each call costs an eigendecomposition: for many small batches `Moments` is the cheaper one
        to update, and `fit` takes it in the end.
        """
        return self._take((self.moments or self._none()).copy().update(rows))

    def merge(self, other: Whitening | Moments) -> Self:
        """Fits the model to its rows and the other's, as if it had seen both."""
        added = other if isinstance(other, Moments) else other.moments
        if added is None:
            raise ValueError("the other has not been fitted, or was loaded without its moments")
        return self._take((self.moments or self._none()).copy().merge(added))

    def transform(self, x: Tensor) -> Tensor:
        """The whitened vectors of x: (n, d), shape (n, k), or (n, d) with rotation 'zca'."""
        first, kept = self.shown.tolist()
        z = self.encode(x)[:, first : first + kept]
        if self.options.rotation == "zca":
            z = z @ self.axes.axes[:, first : first + kept].t()
        return z

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """The cosine of the whitened a and b: (n, d) each, shape (n,)."""
        return F.cosine_similarity(self.transform(a), self.transform(b))

    def save_pretrained(
        self, folder: str | Path, state: Mapping[str, Tensor] | None = None
    ) -> None:
        """Writes the model, and beside it the moments, so that it can be merged later."""
        super().save_pretrained(folder, state)
        if self.moments is not None:
            self.moments.save(Path(folder) / MOMENTS)

    def _read(self, folder: Path) -> None:
        """Takes the moments, if they are there."""
        if (folder / MOMENTS).is_file():
            self.moments = Moments.load(folder / MOMENTS)
            self.solution = solve(self.moments, self.options)

    def _none(self) -> Moments:
        return Moments(*self.event_shape)

    @torch.no_grad()
    def _take(self, moments: Moments) -> Self:
        """Solves for the moments and sets the buffers."""
        solution = solve(moments, self.options)
        self.axes.centre.copy_(torch.from_numpy(solution.centre))
        self.axes.axes.copy_(torch.from_numpy(solution.axes))
        self.axes.log_scale.copy_(torch.from_numpy(np.log(solution.scales)))
        inside = np.arange(solution.size) < solution.rank
        variances = np.where(inside, solution.variances, 1.0)
        width = np.log(variances) * (1 - self.options.gamma) / 2
        self.hull.log_width.copy_(torch.from_numpy(width))
        self.hull.support.copy_(torch.from_numpy(inside))
        self.shown.copy_(torch.tensor([solution.first, solution.kept]))
        self.moments, self.solution = moments, solution
        return self
