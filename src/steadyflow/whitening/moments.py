"""The mean and the scatter of rows in one pass, which can be merged: all that whitening needs.

    n,   mu = (1/n) sum x_i,   M = sum (x_i - mu)' (x_i - mu)            covariance = M / n

    (n, mu, M) + (m, nu, B):   delta = nu - mu
        mu <- mu + delta m / (n + m)
        M  <- M + B + delta' delta n m / (n + m)

Chan, Golub & LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances"
(1979). Rows are centred before they are squared: sums of squares about zero cancel, and in float32
give negative eigenvalues as soon as the mean is ten times the spread.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from steadyflow.data.content import DataError
from steadyflow.errors import UsageError
from steadyflow.storage import replace_file

BLOCK = 2048  # rows that are centred at a time: they stay in the cache, and memory small
SHIFTED = 16  # blocks that are centred about the same rows
MOST_OFFSET = 1.0  # |mean|^2 / total variance up to which float64 rows need no centring


class Moments:
    """Count, mean and scatter of rows, in float64.

    Two of them add up to what one pass over all rows would have given; the state has
    8 (d^2 + d + 1) bytes, however many rows there were.

    Args:
        size: the number of columns, d.

    Attributes:
        n: rows so far.
        mean: (d,).
        scatter: (d, d), the sum of squares about the mean.

    Example:
        >>> x = np.arange(12.0).reshape(6, 2) ** 2
        >>> parts = Moments.of(x[:4]) + Moments.of(x[4:])
        >>> parts.n, bool(np.allclose(parts.covariance(), np.cov(x.T, bias=True)))
        (6, True)
    """

    def __init__(self, size: int):
        self.n = 0
        self.mean = np.zeros(size)
        self.scatter = np.zeros((size, size))

    @property
    def size(self) -> int:
        """The number of columns."""
        return len(self.mean)

    @classmethod
    def of(cls, rows: Any, precision: str = "float64") -> Moments:
        """The moments of rows: (n, d)."""
        rows = as_rows(rows)
        return cls(rows.shape[1]).update(rows, precision)

    def update(self, rows: Any, precision: str = "float64") -> Moments:
        """Adds rows.

        Args:
            rows: (n, d), a NumPy array, a memory map or a torch tensor, of any real type.
            precision: of the products. 'float32' is half the work and good to about 1e-5 of the
                largest eigenvalue (rows are still centred, and blocks summed in float64).

        Returns:
            itself.

        Raises:
            ValueError: for another number of columns, NaN or infinite values; then nothing of the
                rows has been added.
        """
        if precision not in ("float64", "float32"):
            raise UsageError(f"precision='{precision}' was given: it is 'float64' or 'float32'")
        rows = as_rows(rows)
        if rows.shape[1] != self.size:
            raise ValueError(
                f"expected rows of {self.size} numbers, as before, got {rows.shape[1]}: "
                "vectors of another encoder, perhaps"
            )
        added = functools.reduce(Moments.merge, self._blocks(rows, precision), Moments(self.size))
        return self.merge(added)

    def merge(self, other: Moments) -> Moments:
        """Adds the rows that the other has seen; gives itself.

        Raises:
            ValueError: for another number of columns.
        """
        if other.size != self.size:
            raise ValueError(
                f"moments of {self.size} and of {other.size} columns can not be merged"
            )
        if other.n == 0:
            return self
        total = self.n + other.n
        delta = other.mean - self.mean
        self.scatter += other.scatter
        if self.n:
            step = delta * np.sqrt(self.n * (other.n / total))
            self.scatter += np.multiply.outer(step, step)
        self.mean = self.mean + delta * (other.n / total)
        self.n = total
        return self

    def __add__(self, other: Moments) -> Moments:
        return self.copy().merge(other)

    def copy(self) -> Moments:
        """The same moments, which `update` and `merge` change apart."""
        twin = Moments(self.size)
        twin.n, twin.mean, twin.scatter = self.n, self.mean.copy(), self.scatter.copy()
        return twin

    def covariance(self, ddof: int = 0) -> np.ndarray:
        """The covariance matrix: (d, d), the scatter over n - ddof.

        Raises:
            ValueError: for fewer than two rows.
        """
        if self.n < 2:
            raise ValueError(
                f"{self.n} rows were given: a covariance needs at least two, and a good one some "
                f"{20 * self.size} ({self.size} columns)"
            )
        return self.scatter / (self.n - ddof)

    def save(self, path: str | Path) -> None:
        """Writes the state into a safetensors file, all or nothing."""
        tensors = {"n": np.array([self.n]), "mean": self.mean, "scatter": self.scatter}
        with replace_file(path) as aside:
            safetensors.numpy.save_file(tensors, str(aside))

    @classmethod
    def load(cls, path: str | Path) -> Moments:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            DataError: if it is damaged or something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"there are no moments at {path}")
        try:
            held = safetensors.numpy.load_file(str(path))
            moments = cls(len(held["mean"]))
            moments.n = int(held["n"][0])
            moments.mean, moments.scatter = held["mean"].copy(), held["scatter"].copy()
        except (safetensors.SafetensorError, KeyError, OSError) as error:
            raise DataError(f"{path} holds no moments, or is damaged: {error}") from error
        return moments

    def all_reduce(self, group: Any = None) -> Moments:
        """The moments of all the processes of a torch.distributed group, in every one of them.

        Two sums: of the rows, which gives the common mean, and of the scatters about it.
        """
        import torch

        def total(values: np.ndarray) -> np.ndarray:
            device = "cuda" if torch.distributed.get_backend(group) == "nccl" else "cpu"
            tensor = torch.from_numpy(values).to(device)
            torch.distributed.all_reduce(tensor, group=group)
            return tensor.cpu().numpy()

        first = total(np.append(self.mean * self.n, float(self.n)))
        n, mean = int(first[-1]), first[:-1] / max(first[-1], 1)
        delta = self.mean - mean
        self.scatter = total(self.scatter + self.n * np.multiply.outer(delta, delta))
        self.n, self.mean = n, mean
        return self

    def _blocks(self, rows: Any, precision: str) -> Iterator[Moments]:
        """The moments of block after block."""
        if type(rows).__module__.partition(".")[0] == "torch":
            yield from (self._on_device(block) for block in rows.split(16 * BLOCK))
            return
        start = 0
        if precision == "float64" and rows.dtype == np.float64:
            for block in _parts(rows, 0, 8 * BLOCK):
                part = self._about_zero(block, start)
                if part is None:
                    break
                yield part
                start += len(block)
        yield from self._about_a_shift(rows, start, np.dtype(precision))

    def _about_zero(self, block: np.ndarray, start: int) -> Moments | None:
        """The moments from plain sums, without a copy; None where that would cost digits.

        Sums of squares about zero lose log10(1 + |mean|^2 / total variance) digits of the sixteen:
        less than a third of one is given for the time.
        """
        part = Moments(self.size)
        part.n = len(block)
        part.mean = np.ones(len(block)) @ block / len(block)
        _refuse_non_finite(part.mean, block, start)
        step = part.mean * np.sqrt(len(block))
        part.scatter = block.T @ block - np.multiply.outer(step, step)
        return part if step @ step <= MOST_OFFSET * part.scatter.trace() else None

    def _about_a_shift(self, rows: np.ndarray, start: int, wide: np.dtype) -> Iterator[Moments]:
        """The moments of parts from which the mean of their first rows is subtracted."""
        room, ones = np.empty((BLOCK, self.size), wide), np.ones(BLOCK, wide)
        for chunk in _parts(rows, start, SHIFTED * BLOCK):
            shift = chunk[:BLOCK].mean(0, dtype=np.float64).astype(wide)
            part, sums = Moments(self.size), np.zeros(self.size)
            for block in _parts(chunk, 0, BLOCK):
                centred = room[: len(block)]
                np.subtract(block, shift, out=centred, casting="unsafe", dtype=wide)
                sums += ones[: len(block)] @ centred
                _refuse_non_finite(sums, block, start)
                part.scatter += centred.T @ centred
                start += len(block)
            part.n, part.mean = len(chunk), shift + sums / len(chunk)
            step = sums / np.sqrt(len(chunk))
            part.scatter -= np.multiply.outer(step, step)
            yield part

    def _on_device(self, block: Any) -> Moments:
        """The moments of a tensor, computed where it is."""
        wide = block.detach().double()
        part = Moments(self.size)
        part.n, mean = len(wide), wide.mean(0)
        part.mean = mean.cpu().numpy()
        _refuse_non_finite(part.mean, wide, 0)
        centred = wide - mean
        part.scatter = (centred.T @ centred).cpu().numpy()
        return part


def _parts(rows: np.ndarray, start: int, size: int) -> Iterator[np.ndarray]:
    for first in range(start, len(rows), size):
        yield np.asarray(rows[first : first + size])


def as_rows(rows: Any) -> Any:
    """Rows (n, d) as they are, or as an array; checked for what is no table of numbers.

    A tensor on the CPU comes as a NumPy array on the same memory, one on a GPU stays there.

    Raises:
        ValueError: for another number of axes, a sparse matrix, or values that are no numbers.
    """
    if type(rows).__module__.partition(".")[0] == "torch":
        if rows.device.type == "cpu":
            rows = rows.detach()
            rows = (rows.float() if rows.dtype.itemsize == 2 else rows).numpy()
        elif rows.dim() == 2:
            return rows
    if hasattr(rows, "toarray"):
        raise ValueError("sparse rows were given: embeddings are dense, use rows.toarray()")
    rows = rows if isinstance(rows, np.ndarray) else np.asarray(rows)
    if rows.ndim == 1:
        raise ValueError(
            f"one vector of {len(rows)} numbers was given: pass rows of shape (n, d), (1, d) for "
            "one sentence; statistics need many"
        )
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"expected rows of shape (n, d), got {rows.shape}")
    if rows.dtype.kind not in "fiub":
        raise ValueError(f"expected real numbers, got {rows.dtype}")
    return rows


def _refuse_non_finite(mean: np.ndarray, block: Any, start: int) -> None:
    """Fails if the mean shows that there is a value that is not finite."""
    if np.isfinite(mean).all():
        return
    values = np.asarray(block.cpu() if hasattr(block, "cpu") else block)
    bad = np.flatnonzero(~np.isfinite(values).all(1))
    if not len(bad):
        raise ValueError("the rows are so large that their sum overflows: scale them down")
    raise ValueError(
        f"{len(bad)} of {len(values)} rows hold NaN or infinite values, the first is row "
        f"{start + bad[0]}: remove them, and encode those sentences again"
    )
