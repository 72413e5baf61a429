"""Whitening as a scikit-learn transformer, for embeddings that are NumPy arrays, files or streams.

    whitener = EmbeddingWhitener(components=0.9, shrinkage="oas").fit(x)
    z = whitener.transform(x)

It keeps scikit-learn's rules (its `check_estimator` passes), fits batch by batch, and two of them
that were fitted on parts merge into one.
"""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from steadyflow.errors import UsageError, unknown
from steadyflow.whitening.moments import Moments
from steadyflow.whitening.solution import WhiteningOptions, WhiteningSolution, solve

DTYPES = ("float16", "float32", "float64")
READ = [np.float64, np.float32, np.float16]  # as they are; anything else as float64


class EmbeddingWhitener(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Whitens embeddings: uncorrelated coordinates of variance 1, as many as are wanted.

    Args:
        components: directions that are kept: a number of at least 1, or below 1 the share of the
            variance that they must hold, such as 0.9; None keeps all that there are.
        gamma: how far: 1 to unit variance, 0 not at all, 0.5 half-way.
        beta: the share of the mean that is subtracted; 0 leaves it.
        shrinkage: pull of the covariance towards a multiple of the identity: a share from 0 to 1,
            or 'oas', which computes it from the spectrum and the number of rows.
        soft: added to every eigenvalue, in units of their mean (soft-ZCA).
        drop_top: so many of the largest directions are left out (all-but-the-top).
        rotation: 'pca' gives the principal coordinates, 'zca' turns them back to those of X.
        rank_tol: directions with less than this share of the largest eigenvalue count as empty.
        normalize: scale the result to length 1, so that a dot product is a cosine.
        dtype: of the result: 'float16', 'float32' or 'float64'; None for that of X.
        precision: of the products while fitting: 'float64', or 'float32' at half the time.

    Attributes:
        moments_: count, mean and scatter of the rows so far; what `merge` adds up.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(300, 4)) @ np.diag([9, 3, 1, 0.1]) + 5
        >>> z = EmbeddingWhitener(components=2).fit_transform(x)
        >>> np.round(np.cov(z.T, bias=True), 6) + 0.0
        array([[1., 0.],
               [0., 1.]])
    """

    def __init__(
        self,
        components=None,
        *,
        gamma=1.0,
        beta=1.0,
        shrinkage=0.0,
        soft=0.0,
        drop_top=0,
        rotation="pca",
        rank_tol=1e-7,
        normalize=False,
        dtype=None,
        precision="float64",
    ):
        self.components = components
        self.gamma = gamma
        self.beta = beta
        self.shrinkage = shrinkage
        self.soft = soft
        self.drop_top = drop_top
        self.rotation = rotation
        self.rank_tol = rank_tol
        self.normalize = normalize
        self.dtype = dtype
        self.precision = precision

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fits to X: (rows, columns); y is not used.

        Raises:
            ValueError: for NaN or infinite values, fewer than two rows, rows that are all equal,
                or more components than there are directions.
        """
        x = self._validated(X, reset=True, ensure_min_samples=2, ensure_all_finite=False)
        return self._keep(Moments.of(x, self.precision))

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Fits to X and all rows before it; batches of any size, one row too.

        Nothing is solved before it is needed. What can not be read leaves what was fitted before.
        """
        # the moments themselves find what is not finite
        before: Moments | None = getattr(self, "moments_", None)
        x = self._validated(X, reset=before is None, ensure_all_finite=False)
        moments = Moments(x.shape[1]) if before is None else before
        self.moments_ = moments.update(x, self.precision)
        self.__dict__.pop("_solved", None)
        return self

    def merge(self, other: EmbeddingWhitener | Moments) -> Self:
        """Adds the rows that the other was fitted on."""
        added = other if isinstance(other, Moments) else getattr(other, "moments_", None)
        if added is None:
            raise NotFittedError("the other whitener has not been fitted: there is nothing to add")
        if not hasattr(self, "moments_"):
            self.n_features_in_ = added.size
            self.moments_ = Moments(added.size)
        self.moments_ = self.moments_ + added
        self.__dict__.pop("_solved", None)
        return self

    @property
    def solution_(self) -> WhiteningSolution:
        """The map, its eigenvalues and its notes; solved when it is first asked for."""
        if "moments_" not in self.__dict__:
            raise AttributeError("solution_ is there after fit")
        asked = self._options()
        solved = self.__dict__.get("_solved")
        if solved is None or solved.options != asked:
            solved = self._solved = solve(self.moments_, asked)
        return solved

    def transform(self, X: Any) -> np.ndarray:
        """The whitened rows of X: (rows, components)."""
        check_is_fitted(self, "moments_")
        if self.dtype is not None and str(np.dtype(self.dtype)) not in DTYPES:
            raise unknown("dtype", str(self.dtype), DTYPES)
        x = self._validated(X)
        dtype = self.dtype or (x.dtype if x.dtype.kind == "f" else None)
        if not self.normalize:
            return self.solution_.transform(x, dtype)
        return unit_rows(self.solution_.transform(x)).astype(dtype or np.float64, copy=False)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Rows of the original columns; what the components leave out is at the centre.

        Raises:
            ValueError: with `normalize`, which has no way back, or for a wrong number of columns.
        """
        check_is_fitted(self, "moments_")
        if self.normalize:
            raise UsageError("normalize=True forgets the lengths: there is no way back")
        z = check_array(X, dtype=np.float64)
        if z.shape[1] != self.solution_.out_features:
            raise ValueError(
                f"expected rows of {self.solution_.out_features} numbers, got {z.shape[1]}"
            )
        return self.solution_.inverse_transform(z)

    def score_samples(self, X: Any) -> np.ndarray:
        """Log p of each row of X under the fitted Gaussian: (rows,) in nats."""
        check_is_fitted(self, "moments_")
        return self.solution_.log_prob(self._validated(X).astype(np.float64, copy=False))

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log-likelihood of the rows of X, in nats a row."""
        return float(np.mean(self.score_samples(X)))

    def model(self) -> Any:
        """The same map as a `steadyflow.Whitening`, in float64."""
        from steadyflow.models.whitening import Whitening

        check_is_fitted(self, "moments_")
        parameters = {name: getattr(self, name) for name in WhiteningOptions.__annotations__}
        model = Whitening(event_shape=[self.moments_.size], **parameters)
        return model.double().fit(self.moments_)

    @property
    def _n_features_out(self) -> int:
        return self.solution_.out_features

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "moments_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _options(self) -> WhiteningOptions:
        return WhiteningOptions(
            **{name: getattr(self, name) for name in WhiteningOptions.__annotations__}
        )

    def _validated(self, X: Any, reset: bool = False, **checks: Any) -> np.ndarray:
        return validate_data(self, X, dtype=READ, reset=reset, **checks)

    def _keep(self, moments: Moments) -> Self:
        solution = solve(moments, self._options())
        self.moments_, self._solved = moments, solution
        for note in solution.notes:
            if "few" in note:
                warnings.warn(note, stacklevel=3)
        return self


def unit_rows(z: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; a row of zeros stays, with a warning."""
    length = np.linalg.norm(z, axis=1, keepdims=True)
    if (length == 0).any():
        warnings.warn(
            f"{int((length == 0).sum())} rows lie exactly at the centre: they have no direction, "
            "and a cosine of 0 to everything",
            stacklevel=2,
        )
    return z / np.where(length == 0, 1, length)
