"""The ways to calibrate sentence vectors that are compared, by name.

    raw              as they are
    center           the mean is subtracted
    zscore           every variable to mean 0 and variance 1 (a flow's first layer alone)
    whiten[:K]       BERT-whitening, all directions or the first K; whiten:0.9 by share of variance
    zca[:K]          the same turned back to the original axes: the same cosines
    oas[:K]          whitening with OAS shrinkage
    soft[:E]         eigenvalues + E times their mean (soft-ZCA); E is 1 without it
    half[:K]         eigenvalues to the power -1/4 instead of -1/2 (gamma = 0.5)
    rotate:K         the first K directions, not centred, not stretched (beta = gamma = 0)
    abtt[:D]         all-but-the-top: centred, without the D largest directions (d / 100)
    flow[:K]         whitening to K directions (128), and a flow behind it
    bert-flow        the flow of Li et al. (2020) on all variables

A method is fitted on vectors without labels, and then applied to others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steadyflow.errors import UsageError, unknown
from steadyflow.whitening import Moments, WhiteningOptions, solve

NAMES = (
    "raw",
    "center",
    "zscore",
    "whiten",
    "zca",
    "oas",
    "soft",
    "half",
    "rotate",
    "abtt",
    "flow",
    "bert-flow",
)
DEFAULT = ("raw", "center", "whiten", "whiten:256", "whiten:128", "soft", "half:128", "abtt")
TRAINED = ("flow", "bert-flow")
Map = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Fitted:
    """A method that has seen its vectors.

    Attributes:
        apply: vectors (n, d) to calibrated ones (n, k).
        size: k.
        notes: what should be known of the fit.
    """

    apply: Map
    size: int
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Method:
    """A method with its number, if it has one.

    Attributes:
        name: as it was asked for.
        kind: one of `NAMES`.
        number: what stands after the colon, or None.
    """

    name: str
    kind: str
    number: float | None = None

    @classmethod
    def named(cls, name: str) -> Method:
        """The method of a name such as 'whiten:128'.

        Raises:
            UsageError: for an unknown name or a number that makes no sense.

        Example:
            >>> Method.named("whiten:128").number
            128.0
        """
        kind, colon, number = name.partition(":")
        if kind not in NAMES:
            raise unknown("method", name, NAMES)
        if not colon:
            if kind == "rotate":
                raise UsageError("rotate needs the number of directions, such as rotate:128")
            return cls(name, kind)
        try:
            method = cls(name, kind, float(number))
        except ValueError:
            raise UsageError(f"method '{name}': a number is expected after the colon") from None
        if kind in ("raw", "center", "zscore", "bert-flow"):
            raise UsageError(f"method '{kind}' takes no number, but '{name}' was given")
        _ = method.options(1000)
        return method

    @property
    def trained(self) -> bool:
        """Whether it is trained with random numbers, so that seeds matter."""
        return self.kind in TRAINED

    def options(self, size: int) -> WhiteningOptions | None:
        """The whitening that it is, for vectors of this length; None if it is none."""
        k, asked = self.number, self.number
        table: dict[str, Callable[[], WhiteningOptions]] = {
            "whiten": lambda: WhiteningOptions(components=k),
            "zca": lambda: WhiteningOptions(components=k, rotation="zca"),
            "oas": lambda: WhiteningOptions(components=k, shrinkage="oas"),
            "soft": lambda: WhiteningOptions(soft=1.0 if asked is None else asked),
            "half": lambda: WhiteningOptions(components=k, gamma=0.5),
            "rotate": lambda: WhiteningOptions(components=k, beta=0, gamma=0),
            "abtt": lambda: WhiteningOptions(gamma=0, drop_top=int(asked or max(size // 100, 1))),
        }
        return table[self.kind]() if self.kind in table else None

    def fit(self, x: np.ndarray, seed: int = 0, **training: Any) -> Fitted:
        """Fits the method to vectors x: (n, d).

        Args:
            x: without labels.
            seed: of a flow.
            **training: values of `TrainingOptions`, of a flow.
        """
        if self.kind == "raw":
            return Fitted(lambda rows: rows, x.shape[1])
        if self.kind in ("center", "zscore"):
            return _standardised(x, self.kind == "zscore")
        if self.trained:
            return self._fit_flow(x, seed, training)
        solution = solve(Moments.of(x), self.options(x.shape[1]))
        return Fitted(solution.transform, solution.kept, solution.notes)

    def _fit_flow(self, x: np.ndarray, seed: int, training: dict[str, Any]) -> Fitted:
        import torch

        import steadyflow
        from steadyflow.models.sentence_flow import SentenceFlow

        raw = self.kind == "bert-flow"
        varying = np.flatnonzero(np.ptp(x, axis=0) > 0)  # dead units have no density
        x = x[:, varying] if raw else x
        k = None if raw else int(self.number or 128)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            flow = SentenceFlow(event_shape=[x.shape[1]], components=k, whiten=not raw)
        shares = {"validation": 0.1, "test": 0, "kind": "vector"}
        done = steadyflow.fit(flow, x, data_options=shares, **{**FLOW, "seed": seed, **training})
        model: Any = done.model.cpu()

        def apply(rows: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                given = rows[:, varying] if raw else rows
                parts = torch.from_numpy(given.astype(np.float32)).split(4096)
                return torch.cat([model.transform(part) for part in parts]).numpy()

        loss = done.best_validation_loss
        said = f"{done.steps} steps, held-out {-loss:.3f} nats per dimension" if loss else ""
        return Fitted(apply, model.components, (said,))


FLOW: dict[str, Any] = {
    "steps": 1000,
    "batch_size": 256,
    "learning_rate": 1e-3,
    "patience": 3,
    "progress": False,
}


def _standardised(x: np.ndarray, scaled: bool) -> Fitted:
    moments = Moments.of(x)
    if not scaled:
        return Fitted(lambda rows: rows - moments.mean, x.shape[1])
    std = np.sqrt(np.diag(moments.covariance()))
    scale = np.where(std > 1e-12 * np.abs(moments.mean).clip(1e-12), std, np.inf)
    return Fitted(lambda rows: (rows - moments.mean) / scale, x.shape[1])
