"""scikit-learn estimators: densities, outliers and Gaussian latents of tables.

    FlowDensity          score_samples(X) = log p(x)                  as KernelDensity
    FlowOutlierDetector  log p(x) below a quantile of the training's  as IsolationForest
    FlowTransformer      X -> z = f(x), nearly N(0, I), and back      as PowerTransformer, jointly

Each trains one of the vector models by the library's own `fit`, and scores in float64. They follow
scikit-learn's rules: they pass its `check_estimator`, and work in pipelines, grid searches, joblib
and pickles.

A density of repeated values has no largest likelihood: the flow could put an ever narrower spike
on them. Columns with many repeated values (counts, rounded measurements) are therefore spread
over half a step of their grid to either side, as in dequantization (Theis et al. 2016): what is
learned, and what `score_samples` gives, is the density of the spread values.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    DensityMixin,
    OutlierMixin,
    TransformerMixin,
)
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from steadyflow.errors import unknown

TIED = 0.5  # a column with a smaller share of distinct values is spread over its grid
COPIES, ENOUGH = 8, 20_000  # spread anew up to so many times, until there are so many rows
ROWS_FOR_VALIDATION = 100
CHUNK = 8192  # rows scored at a time
SPREADS = ("auto", "none")


class _FlowEstimator(BaseEstimator):
    """What the three have in common: the parameters, `fit`, and the way to the model's columns.

    Constant columns have no density: they are left out of the model, and said in `constant_`.
    """

    def __init__(
        self,
        model="spline-flow",
        *,
        model_options=None,
        steps=2000,
        batch_size=256,
        learning_rate=2e-3,
        patience=None,
        spread="auto",
        random_state=None,
    ):
        self.model = model
        self.model_options = model_options
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.patience = patience
        self.spread = spread
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Trains the flow on X: (rows, columns); y is not used.

        Raises:
            ValueError: for NaN or infinite values, fewer than two rows, or constant columns only.
        """
        del y
        x = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        if self.spread not in SPREADS:
            raise unknown("spread", str(self.spread), SPREADS)
        self.constant_ = np.flatnonzero((x == x[0]).all(0))
        if len(self.constant_) == x.shape[1]:
            raise ValueError(
                f"all of the {x.shape[1]} columns are constant: there is no density to learn"
            )
        self.kept_ = np.setdiff1d(np.arange(x.shape[1]), self.constant_)
        self.values_ = x[0, self.constant_]
        generator = check_random_state(self.random_state)
        self.flow_ = self._train(x[:, self.kept_], generator)
        self.n_iter_ = self.steps
        return self

    def _train(self, x: np.ndarray, generator: np.random.RandomState) -> Any:
        import steadyflow

        widths = grid_widths(x) if self.spread == "auto" else np.zeros(x.shape[1])
        result = steadyflow.fit(
            self.model,
            spread_rows(x, widths, generator),
            model_options=self.model_options or {},
            data_options={
                "validation": 0.1 if len(x) >= ROWS_FOR_VALIDATION else 0,
                "test": 0,
                "kind": "vector",
                "spread": "none",  # done above: scores here must not depend on draws of noise
            },
            steps=self.steps,
            batch_size=min(self.batch_size, len(x)),
            learning_rate=self.learning_rate,
            patience=self.patience,
            seed=int(generator.randint(2**31 - 1)),
            progress=False,
        )
        self.widths_ = widths
        return result.model.double()

    def _rows(self, X: Any, reset: bool = False) -> np.ndarray:
        check_is_fitted(self)
        return validate_data(self, X, dtype=np.float64, reset=reset)

    def _through(self, method: str, x: np.ndarray) -> np.ndarray:
        """One of the flow's maps, in chunks."""
        import torch

        with torch.no_grad():
            chunks = torch.from_numpy(np.ascontiguousarray(x)).split(CHUNK)
            return torch.cat([getattr(self.flow_, method)(chunk) for chunk in chunks]).numpy()

    def score_samples(self, X: Any) -> np.ndarray:
        """Log p of each row of X: (rows, columns), in nats, in the units of X: (rows,).

        Of an energy without a normaliser -U instead, which ranks the rows as log p would.
        """
        return self._scores(self._rows(X)[:, self.kept_])

    def _scores(self, x: np.ndarray) -> np.ndarray:
        if self.flow_.likelihood == "none":
            return -self._through("energy", x)
        return self._through("log_prob", x)

    def _with_constants(self, x: np.ndarray) -> np.ndarray:
        whole = np.empty((len(x), self.n_features_in_))
        whole[:, self.kept_], whole[:, self.constant_] = x, self.values_
        return whole


class FlowDensity(DensityMixin, _FlowEstimator):
    """Density estimation with a flow.

    Args:
        model: 'spline-flow', 'maf', 'realnvp' or 'nice'.
        model_options: arguments of the model's constructor, a dict.
        steps: updates of the weights.
        batch_size: rows of one update.
        learning_rate: the highest one.
        patience: stop after that many validations without a better one; None for never.
        spread: 'auto' spreads columns of repeated values over their grid; 'none' does not.
        random_state: an int for the same result every time.

    Attributes:
        flow_: the trained model, float64.
        constant_: the columns that are constant, which are not modelled.
        widths_: how far each modelled column was spread; 0 for columns of real numbers.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 2))
        >>> density = FlowDensity(steps=50, random_state=0).fit(x)
        >>> density.score_samples(x).shape, density.sample(5).shape
        ((300,), (5, 2))
    """

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log-likelihood of the rows of X, in nats a row."""
        return float(np.mean(self.score_samples(X)))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draws rows: (n_samples, columns); columns that were spread are put back on their grid.

        Raises:
            ValueError: if n_samples is not a positive integer.
        """
        import torch

        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(f"n_samples must be a whole number of at least 1, got {n_samples}")
        source = self.random_state if random_state is None else random_state
        seed = int(check_random_state(source).randint(2**31 - 1))
        generator = torch.Generator().manual_seed(seed)
        drawn = self.flow_.sample(int(n_samples), generator=generator).numpy()
        spread = self.widths_ > 0
        drawn[:, spread] = np.round(drawn[:, spread] / self.widths_[spread])
        drawn[:, spread] *= self.widths_[spread]
        return self._with_constants(drawn)


class FlowOutlierDetector(OutlierMixin, _FlowEstimator):
    """Outliers as the rows of lowest density.

    Args:
        model: 'spline-flow', 'maf', 'realnvp', 'nice' or 'energy'.
        contamination: the share of outliers in the training data, in (0, 0.5]; decides the
            threshold, not the scores.
        model_options: arguments of the model's constructor, a dict.
        steps: updates of the weights.
        batch_size: rows of one update.
        learning_rate: the highest one.
        patience: stop after that many validations without a better one; None for never.
        spread: 'auto' spreads columns of repeated values over their grid; 'none' does not.
        random_state: an int for the same result every time.

    Attributes:
        offset_: the log-density below which a row is an outlier.
    """

    def __init__(
        self,
        model="spline-flow",
        *,
        contamination=0.1,
        model_options=None,
        steps=2000,
        batch_size=256,
        learning_rate=2e-3,
        patience=None,
        spread="auto",
        random_state=None,
    ):
        super().__init__(
            model,
            model_options=model_options,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            patience=patience,
            spread=spread,
            random_state=random_state,
        )
        self.contamination = contamination

    def fit(self, X: Any, y: Any = None) -> Self:
        """Trains the flow, and sets the threshold by the contamination."""
        share = self.contamination
        if not isinstance(share, Real) or not 0 < float(share) <= 0.5:
            raise ValueError(f"contamination must lie in (0, 0.5], got {self.contamination}")
        super().fit(X, y)
        x = validate_data(self, X, dtype=np.float64, reset=False)
        scores = self._scores(x[:, self.kept_])
        self.offset_ = float(np.percentile(scores, 100 * float(share)))
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Log p(x) minus the threshold: negative for outliers, (rows,) in nats."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """-1 for outliers and 1 for the others: (rows,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)


class FlowTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _FlowEstimator):
    """A learned invertible map of a table to independent standard normals.

    Args:
        model: 'spline-flow', 'maf', 'realnvp' or 'nice'.
        model_options: arguments of the model's constructor, a dict.
        steps: updates of the weights.
        batch_size: rows of one update.
        learning_rate: the highest one.
        patience: stop after that many validations without a better one; None for never.
        spread: 'auto' spreads columns of repeated values over their grid; 'none' does not.
        random_state: an int for the same result every time.
    """

    @property
    def _n_features_out(self) -> int:
        return len(self.kept_)

    def transform(self, X: Any) -> np.ndarray:
        """The latents of the rows: (rows, columns that are not constant)."""
        return self._through("encode", self._rows(X)[:, self.kept_])

    def inverse_transform(self, X: Any) -> np.ndarray:
        """The rows of latents, constant columns put back.

        Raises:
            ValueError: if the latents have another number of columns than `transform` gives.
        """
        from sklearn.utils import check_array

        check_is_fitted(self)
        z = check_array(X, dtype=np.float64)
        if z.shape[1] != len(self.kept_):
            raise ValueError(f"expected latents with {len(self.kept_)} columns, got {z.shape[1]}")
        return self._with_constants(self._through("decode", z))


def grid_widths(x: np.ndarray) -> np.ndarray:
    """The grid step of each column with many repeated values, 0 for the others.

    The step is the smallest gap between different values; (columns,).
    """
    widths = np.zeros(x.shape[1])
    for j, column in enumerate(x.T):
        values = np.unique(column)
        if 1 < len(values) < TIED * len(column):
            widths[j] = np.diff(values).min()
    return widths


def spread_rows(x: np.ndarray, widths: np.ndarray, generator: np.random.RandomState) -> np.ndarray:
    """The rows with uniform noise of those widths; several copies of them if there are few."""
    if not widths.any():
        return x
    copies = int(np.clip(ENOUGH // len(x), 1, COPIES))
    noise = generator.uniform(-0.5, 0.5, size=(copies * len(x), x.shape[1]))
    return np.tile(x, (copies, 1)) + noise * widths
