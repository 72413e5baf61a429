"""From moments to a whitening: principal axes, and how far each of them is stretched.

    Sigma = S + (1 - beta)^2 mu' mu = U diag(lambda) U'          about beta mu
    z     = (x - beta mu) U diag(lambda)^(-gamma / 2)            the first k columns are shown

    beta = gamma = 1     BERT-whitening            gamma = 0, drop_top = D   all-but-the-top
    beta = gamma = 0     a rotation, cut at k      rotation = 'zca'          z U', back in x's axes

Su et al., "Whitening Sentence Representations for Better Semantics and Faster Retrieval" (2021);
Su's later beta and gamma (2022); Mu & Viswanath, "All-but-the-Top" (2018); Chen et al., "Shrinkage
Algorithms for MMSE Covariance Estimation" (2010) for OAS; Tipping & Bishop, "Probabilistic
Principal Component Analysis" (1999) for the directions that are not shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steadyflow.errors import UsageError, unknown
from steadyflow.whitening.moments import Moments

ROTATIONS = ("pca", "zca")
CHUNK = 2048  # rows that are centred and multiplied at a time


@dataclass(frozen=True, kw_only=True)
class WhiteningOptions:
    """What kind of whitening.

    Args:
        components: directions that are kept: a number of at least 1, or below 1 the share of the
            variance that they must hold (0.9); None keeps all that there are.
        gamma: how far: 1 to unit variance, 0 not at all, 0.5 half-way.
        beta: the share of the mean that is subtracted; 0 leaves it.
        shrinkage: pull of the covariance towards a multiple of the identity: a share from 0 to 1,
            or 'oas', which computes it from the spectrum and the number of rows.
        soft: added to every eigenvalue, in units of their mean (soft-ZCA).
        drop_top: so many of the largest directions are left out (all-but-the-top).
        rotation: 'pca' gives the principal coordinates, 'zca' turns them back to those of x.
        rank_tol: directions with less than this share of the largest eigenvalue count as empty.
    """

    components: float | None = None
    gamma: float = 1.0
    beta: float = 1.0
    shrinkage: str | float = 0.0
    soft: float = 0.0
    drop_top: int = 0
    rotation: str = "pca"
    rank_tol: float = 1e-7

    def __post_init__(self) -> None:
        k = self.components
        if k is not None and not (0 < k < 1 or (k >= 1 and float(k).is_integer())):
            raise UsageError(
                f"components={k} was given: a whole number of at least 1, or a share of the "
                "variance between 0 and 1, such as 0.9"
            )
        for name in ("gamma", "beta"):
            if not np.isfinite(getattr(self, name)):
                raise UsageError(f"{name}={getattr(self, name)} was given: a number is expected")
        if self.rotation not in ROTATIONS:
            raise unknown("rotation", str(self.rotation), ROTATIONS)
        if not (np.isfinite(self.soft) and self.soft >= 0):
            raise UsageError(f"soft={self.soft} was given: it must be a number of at least 0")
        if self.drop_top < 0 or self.drop_top != int(self.drop_top):
            raise UsageError(f"drop_top={self.drop_top} was given: a whole number of at least 0")
        if not 0 <= self.rank_tol < 1:
            raise UsageError(f"rank_tol={self.rank_tol} was given: it must lie in [0, 1)")
        _ = self.pull

    @property
    def pull(self) -> float | None:
        """The shrinkage as a number, or None for 'oas'."""
        if self.shrinkage == "oas":
            return None
        try:
            value = float(self.shrinkage)
        except ValueError:
            value = np.nan
        if not 0 <= value <= 1:
            raise UsageError(
                f"shrinkage={self.shrinkage!r} was given: it is 'oas' or a share from 0 to 1"
            )
        return value


@dataclass(frozen=True)
class WhiteningSolution:
    """A whitening in float64: a linear map, the Gaussian that it standardises, and its words.

    Attributes:
        options: what was asked for.
        n: rows that it was fitted on.
        centre: (d,) what is subtracted.
        axes: (d, d) orthonormal columns, by falling eigenvalue; the largest entry of each is > 0.
        eigenvalues: (d,) of the covariance of the data, falling.
        variances: (d,) of the fitted Gaussian: after shrinkage, and with one value for all
            directions that are not shown. Meaningless beyond `rank`.
        rank: directions in which the data (or what shrinkage makes of them) vary.
        first: the first direction that is shown.
        kept: how many are shown.
        shrinkage: the share that was used.
        notes: what the user should know, one sentence each.
    """

    options: WhiteningOptions
    n: int
    centre: np.ndarray
    axes: np.ndarray
    eigenvalues: np.ndarray
    variances: np.ndarray
    rank: int
    first: int
    kept: int
    shrinkage: float
    notes: tuple[str, ...] = field(default=())

    @property
    def size(self) -> int:
        """The number of columns of x."""
        return len(self.centre)

    @property
    def shown(self) -> slice:
        """The directions that `transform` gives."""
        return slice(self.first, self.first + self.kept)

    @property
    def out_features(self) -> int:
        """The number of columns of z."""
        return self.size if self.options.rotation == "zca" else self.kept

    @property
    def scales(self) -> np.ndarray:
        """(d,) lambda^(-gamma / 2); 1 in the empty directions."""
        filled = np.where(np.arange(self.size) < self.rank, self.variances, 1.0)
        return filled ** (-self.options.gamma / 2)

    @property
    def matrix(self) -> np.ndarray:
        """W of z = (x - centre) W: (d, out_features)."""
        axes = self.axes[:, self.shown]
        whitened = axes * self.scales[self.shown]
        return whitened @ axes.T if self.options.rotation == "zca" else whitened

    @property
    def back(self) -> np.ndarray:
        """V of x = z V + centre, for what is shown: (out_features, d)."""
        axes = self.axes[:, self.shown]
        widened = axes / self.scales[self.shown]
        return axes @ widened.T if self.options.rotation == "zca" else widened.T

    def transform(self, rows: np.ndarray, dtype: Any = None) -> np.ndarray:
        """Whitens rows: (n, d) to (n, out_features).

        Rows are centred before they are multiplied: the other way round costs a float32 all its
        digits where the mean is large.

        Args:
            rows: NumPy rows; the arithmetic is float32 for float32 and narrower, float64 else.
            dtype: of the result; the arithmetic's without it.
        """
        narrow = rows.dtype.kind == "f" and rows.dtype.itemsize <= 4
        wide: Any = np.float32 if narrow else np.float64
        matrix, centre = self.matrix.astype(wide), self.centre.astype(wide)
        out = np.empty((len(rows), matrix.shape[1]), np.dtype(dtype or wide))
        for start in range(0, len(rows), CHUNK):
            block = np.asarray(rows[start : start + CHUNK]).astype(wide, copy=False) - centre
            if out.dtype == wide:
                np.matmul(block, matrix, out=out[start : start + CHUNK])
            else:
                out[start : start + CHUNK] = block @ matrix
        return out

    def inverse_transform(self, z: np.ndarray) -> np.ndarray:
        """Back from (n, out_features) to (n, d); what was not shown is put at the centre."""
        return z @ self.back + self.centre

    def log_prob(self, rows: np.ndarray) -> np.ndarray:
        """The Gaussian's log-density of rows: (n,) in nats.

        With empty directions, the density on the `rank`-dimensional hull of the data, of each
        row's projection onto it.
        """
        variances = self.variances[: self.rank]
        z = (rows - self.centre) @ (self.axes[:, : self.rank] / np.sqrt(variances))
        normalizer = self.rank * np.log(2 * np.pi) + np.log(variances).sum()
        return -0.5 * (np.square(z).sum(1) + normalizer)


def solve(moments: Moments, options: WhiteningOptions | None = None) -> WhiteningSolution:
    """The whitening of moments.

    Raises:
        ValueError: for fewer than two rows, rows that are all equal, or more components than
            there are directions.
    """
    options = options or WhiteningOptions()
    covariance = moments.covariance()
    offset = (1 - options.beta) * moments.mean
    covariance = covariance + np.multiply.outer(offset, offset)
    eigenvalues, axes = spectrum(covariance)
    if not eigenvalues[0] > 0:
        raise ValueError(
            f"all {moments.n} rows are equal: there is nothing to whiten; give other rows"
        )
    floor = options.rank_tol * eigenvalues[0]
    observed = int((eigenvalues > floor).sum())
    share = options.pull
    share = oas(eigenvalues, moments.n) if share is None else share
    mean = eigenvalues.mean()
    variances = (1 - share) * eigenvalues + share * mean + options.soft * mean
    rank = len(eigenvalues) if share > 0 or options.soft > 0 else observed
    first = int(options.drop_top)
    kept = _kept(options, eigenvalues, rank, moments.n)
    hidden = np.r_[first + kept : rank]
    if options.components is not None and len(hidden):
        variances[hidden] = variances[hidden].mean()
    return WhiteningSolution(
        options,
        moments.n,
        options.beta * moments.mean,
        axes,
        eigenvalues,
        variances,
        rank,
        first,
        kept,
        share,
        tuple(_notes(options, moments, eigenvalues, observed, share, kept)),
    )


def spectrum(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, falling, and orthonormal eigenvectors as columns whose largest entry is > 0."""
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    largest = np.abs(vectors).argmax(0)
    sign = np.sign(vectors[largest, np.arange(len(values))])
    return values, np.ascontiguousarray(vectors * sign)


def oas(eigenvalues: np.ndarray, n: int) -> float:
    """The oracle-approximating shrinkage of a covariance with these eigenvalues, from n rows.

        rho = min(1, (a + t^2) / ((n + 1) (a - t^2 / d))),   a = tr(S^2) / d^2,  t = tr(S) / d

    Chen et al. (2010), eq. 23, in the form that scikit-learn uses. It needs no fourth moments, so
    that moments that were merged give it too.
    """
    size = len(eigenvalues)
    square, level = np.square(eigenvalues).sum() / size**2, eigenvalues.mean() ** 2
    spread = (n + 1) * (square - level / size)
    return float(min(1.0, (square + level) / spread)) if spread > 0 else 1.0


def _kept(options: WhiteningOptions, eigenvalues: np.ndarray, rank: int, n: int) -> int:
    left = rank - int(options.drop_top)
    if left < 1:
        raise UsageError(
            f"drop_top={options.drop_top} leaves nothing of the {rank} directions that there are"
        )
    asked = options.components
    if asked is None:
        return left
    if asked < 1:
        held = np.cumsum(eigenvalues) / eigenvalues.sum()
        return min(max(int((held < asked - 1e-12).sum()) + 1 - int(options.drop_top), 1), left)
    if asked > left:
        raise UsageError(
            f"components={int(asked)} was given, but the data vary in {left} directions only: "
            f"{_why(len(eigenvalues), rank, n, options.drop_top)}; give components={left} or "
            "fewer, or shrinkage='oas'"
        )
    return int(asked)


def _why(size: int, rank: int, n: int, dropped: int) -> str:
    """Why there are no more directions."""
    if rank == size:
        return f"there are {size} columns" + (f", and {dropped} are dropped" if dropped else "")
    if rank >= n - 1:
        return f"{n} rows span at most {n - 1}"
    return (
        f"{size - rank} of {size} are empty (dead units, constant columns, or the constraint that "
        "a layer norm leaves)"
    )


def _notes(
    options: WhiteningOptions,
    moments: Moments,
    eigenvalues: np.ndarray,
    observed: int,
    share: float,
    kept: int,
) -> list[str]:
    size, n = len(eigenvalues), moments.n
    notes = []
    if observed < size:
        where = _why(size, observed, n, 0)
        done = (
            "shrinkage fills them"
            if share > 0 or options.soft > 0
            else f"they are left out, and densities are those on {observed} dimensions"
        )
        notes.append(f"rank {observed} of {size}: {where}; {done}")
    regular = share > 0 or options.soft > 0 or options.gamma == 0
    if n < 5 * size and not regular and kept > n / 5:
        notes.append(
            f"{n} rows for {kept} directions are few: the smallest eigenvalues are mostly noise, "
            "and whitening blows it up; use shrinkage='oas' or components=0.9"
        )
    if options.shrinkage == "oas":
        notes.append(f"OAS shrinkage {share:.3g}, from {n} rows and the spectrum")
    if options.components is not None and 0 < options.components < 1:
        held = eigenvalues[options.drop_top :][:kept].sum() / eigenvalues.sum()
        notes.append(f"{kept} of {size} directions hold {held:.1%} of the variance")
    return notes
