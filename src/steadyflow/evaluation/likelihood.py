"""The likelihood of held-out data, with its standard error and in words.

    log L      = mean_n log p(x_n)                     nats; standard error = std / sqrt(N)
    bits/dim   = -log L / (D ln 2)
    density    = log L + D log 2^bits                  pixels scaled to [0, 1]: NICE's unit
    K draws    : log p(x) >= log mean_k w_k            w_k = the k-th draw's likelihood

The last line is the importance-weighted bound of Burda, Grosse & Salakhutdinov (2016), eq. 8; with
uniform dequantisation it goes to the exact log-probability of the integers as K grows (Theis, van
den Oord & Bethge 2016, sec. 3.1).
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steadyflow.errors import UsageError
from steadyflow.evaluation import access
from steadyflow.evaluation.access import Model
from steadyflow.evaluation.round_trip import RoundTrip, evenly, round_trip
from steadyflow.evaluation.wording import meaning, measured

WORST = 10  # how many of the least likely examples are named

Progress = Callable[[int, int], None]  # (examples done, examples in all)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. Numbers that can not be given are None.

    Attributes:
        model: the model's name.
        where: the data's name, if it was given.
        likelihood: 'exact', 'bound', 'estimate' or 'none'.
        meaning: one sentence that says what `log_likelihood` is.
        examples: how many examples were evaluated.
        dimensions: how many variables an example has.
        log_likelihood: mean in nats; None if the model gives none or any value is not finite.
        standard_error: of `log_likelihood`, over the examples.
        bits_per_dimension: -log_likelihood / (dimensions ln 2).
        bits_per_dimension_error: its standard error.
        nats_per_dimension: -log_likelihood / dimensions.
        density_nats: for integer data, the log-density of pixels scaled to [0, 1].
        round_trip: x -> z -> x, or None without latents.
        worst: positions in the split of the least likely examples, the worst first.
        non_finite: how many examples have no finite log-likelihood.
        draws: noise draws for each example.
        seed: of the noise.
        seconds: that the evaluation took.
        noise_error: of an estimate with two draws or more, the part of `standard_error` that is
            the estimator's own, which more draws lower.
        accuracy: the share of examples whose class is predicted, of a model that classifies.
    """

    model: str
    where: str
    likelihood: str
    meaning: str
    examples: int
    dimensions: int
    log_likelihood: float | None
    standard_error: float | None
    bits_per_dimension: float | None
    bits_per_dimension_error: float | None
    nats_per_dimension: float | None
    density_nats: float | None
    round_trip: RoundTrip | None
    worst: tuple[int, ...]
    non_finite: int
    draws: int
    seed: int
    seconds: float
    noise_error: float | None = None
    accuracy: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a number that is not finite becomes None."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Evaluation:
        """The evaluation that `to_dict` gave; other keys are left out.

        Raises:
            ValueError: if one of its values is missing.
        """
        fields = dataclasses.fields(cls)
        needed = {field.name for field in fields if field.default is dataclasses.MISSING}
        if missing := sorted(needed - values.keys()):
            raise ValueError(f"not an evaluation: {', '.join(missing)} missing")
        kept = {field.name: values[field.name] for field in fields if field.name in values}
        trip: Any = kept["round_trip"]
        if trip is not None:
            errors = {k: math.inf for k in ("maximum", "mean") if trip[k] is None}
            trip = RoundTrip(**{**trip, **errors})
        return cls(**{**kept, "round_trip": trip, "worst": tuple(kept["worst"])})

    def __str__(self) -> str:
        head = f"{self.model} on {self.where or 'the data'}: {self.examples:,} examples"
        rows = [("log-likelihood", "none")]
        if self.log_likelihood is not None:
            rows = self._numbers()
        elif self.non_finite:
            rows = [("log-likelihood", f"not finite for {self.non_finite:,} examples")]
        if self.round_trip is not None:
            trip = self.round_trip
            rows.append(
                (
                    "round trip" if trip.exact else "reconstruction",
                    f"max error {trip.maximum:.1e}, mean {trip.mean:.1e} ({trip.dtype})",
                )
            )
        if self.accuracy is not None:
            wrong = round((1 - self.accuracy) * self.examples)
            rows.append(("accuracy", f"{self.accuracy:.2%} ({wrong:,} wrong)"))
        if self.worst:
            rows.append(("least likely", ", ".join(f"#{i}" for i in self.worst[:5])))
        lines = [f"  {name:<22}{value}" for name, value in rows]
        words = textwrap.wrap(self.meaning, 92, initial_indent="  ", subsequent_indent="  ")
        return "\n".join([head, *lines, *words])

    def _numbers(self) -> list[tuple[str, str]]:
        nats = measured(self.log_likelihood, self.standard_error)
        bits = measured(self.bits_per_dimension, self.bits_per_dimension_error)
        rows = [
            ("log-likelihood", f"{nats} nats ({self.likelihood})"),
            (
                "per dimension",
                f"{bits} bits = {self.nats_per_dimension:.4f} nats, lower is better",
            ),
        ]
        if self.noise_error is not None:
            rows.append(("of it, estimator noise", f"± {self.noise_error:.2g} nats"))
        if self.density_nats is not None:
            rows.append(("pixels in [0, 1]", f"{self.density_nats:.2f} nats"))
        return rows


def evaluate(
    model: Model,
    split: Any,
    *,
    batch_size: int = 500,
    draws: int = 1,
    seed: int = 0,
    limit: int | None = None,
    progress: Progress | None = None,
    where: str = "",
) -> Evaluation:
    """The log-likelihood of a split, and whether the model can be trusted on it.

    Args:
        model: a generative model or a flow.
        split: with `x`, (N, *event), and `y`, (N,) labels or None; labels become the context of
            a class-conditional model.
        batch_size: examples at once.
        draws: noise draws for each example, where noise is part of the likelihood.
        seed: of the noise; the same seed gives the same numbers.
        limit: at most so many examples, taken evenly from the split.
        progress: called with (done, all).
        where: the data's name, for the printed result.

    Raises:
        UsageError: if the split is empty, an option is out of its range, or the model needs a
            context that the split does not have.
    """
    began = time.perf_counter()
    if not len(split.x):
        raise UsageError("there are no examples to evaluate: this split is empty")
    if draws < 1 or batch_size < 1 or (limit is not None and limit < 1):
        raise UsageError(
            "draws, batch size and limit must be at least 1, got "
            f"draws={draws}, batch_size={batch_size}, limit={limit}"
        )
    word = str(model.likelihood)
    draws = 1 if word in ("exact", "none") else draws
    rows = evenly(len(split.x), limit)
    x, context = split.x[rows], access.context_of(model, split.y)
    context = None if context is None else context[rows.to(context.device)]
    values = noise = None
    if word != "none":
        values, noise = _scored(model, x, context, batch_size, draws, seed, progress)
    trip = None
    if access.has_latents(model):
        trip = round_trip(model, x, context, batch_size=min(batch_size, 100))
    return Evaluation(
        model=access.model_name(model),
        where=where,
        likelihood=word,
        meaning=meaning(model, draws),
        examples=len(x),
        dimensions=x[0].numel(),
        **_numbers(values, x[0].numel(), access.bits_of(model)),
        round_trip=trip,
        worst=() if values is None else tuple(rows[_worst(values)].tolist()),
        non_finite=0 if values is None else int((~values.isfinite()).sum()),
        draws=draws,
        seed=seed,
        noise_error=noise,
        accuracy=_accuracy(model, x, context, batch_size, seed),
        seconds=time.perf_counter() - began,
    )


def log_likelihoods(
    model: Model,
    x: Tensor,
    context: Tensor | None = None,
    *,
    batch_size: int = 500,
    draws: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Tensor:
    """The log-likelihood of each example, in nats, shape (N,), float64, on the CPU.

    Several draws are joined by log-mean-exp for a bound (which tightens it) and by their mean for
    an estimate (which steadies it). Takes the arguments of `evaluate`.
    """
    return _scored(model, x, context, batch_size, draws, seed, progress)[0]


def _scored(
    model: Model,
    x: Tensor,
    context: Tensor | None,
    batch_size: int,
    draws: int,
    seed: int,
    progress: Progress | None,
) -> tuple[Tensor, float | None]:
    """The log-likelihoods, and the standard error of their mean that is an estimator's noise."""
    parts, variance = [], 0.0
    with access.at_rest(model, seed):
        for start in range(0, len(x), batch_size):
            batch = access.bring(model, x[start : start + batch_size])
            c = None if context is None else context[start : start + batch_size]
            each = torch.stack([model.log_prob(batch, c).double() for _ in range(draws)])
            if model.likelihood == "bound":
                parts.append((each.logsumexp(0) - math.log(draws)).cpu())
            else:
                parts.append(each.mean(0).cpu())
            if draws > 1:
                variance += float(each.var(0).sum()) / draws
            if progress is not None:
                progress(min(start + batch_size, len(x)), len(x))
    known = model.likelihood == "estimate" and draws > 1
    return torch.cat(parts), math.sqrt(variance) / len(x) if known else None


def _accuracy(
    model: Model, x: Tensor, labels: Tensor | None, batch_size: int, seed: int
) -> float | None:
    """The share of right predictions, of a classifier or hybrid."""
    if labels is None or not access.classifies(model):
        return None
    right = 0
    with access.at_rest(model, seed):
        for start in range(0, len(x), batch_size):
            batch = access.bring(model, x[start : start + batch_size])
            predicted = model.classify(batch).argmax(1)
            right += int((predicted == labels[start : start + batch_size]).sum())
    return right / len(x)


def _numbers(values: Tensor | None, size: int, bits: int | None) -> dict[str, float | None]:
    names = (
        "log_likelihood",
        "standard_error",
        "bits_per_dimension",
        "bits_per_dimension_error",
        "nats_per_dimension",
        "density_nats",
    )
    if values is None or not bool(values.isfinite().all()):
        return dict.fromkeys(names)
    mean = float(values.mean())
    error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None
    unit = size * math.log(2)
    density = None if bits is None else mean + bits * unit
    row = (mean, error, -mean / unit, error and error / unit, -mean / size, density)
    return dict(zip(names, row, strict=True))


def _worst(values: Tensor) -> Tensor:
    return values.nan_to_num(nan=-math.inf).argsort()[:WORST]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
