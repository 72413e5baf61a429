"""Is the map invertible in practice: x -> z -> x on real data, in the model's own arithmetic.

The error |f^-1(f(x)) - x| is given in units of the data's range, so that 1e-3 means a thousandth
of the way from the smallest value to the largest: of a pixel from black to white, of a column from
its minimum to its maximum.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from steadyflow.evaluation import access
from steadyflow.evaluation.access import Model


@dataclasses.dataclass(frozen=True)
class RoundTrip:
    """How well x comes back from z.

    Attributes:
        maximum: the largest error of any variable of any example, in units of the data's range.
        mean: the mean error, in the same units.
        examples: how many examples were sent.
        dtype: the arithmetic.
        exact: whether the map is invertible and errors are rounding; False for an autoencoder,
            whose round trip is a reconstruction.
    """

    maximum: float
    mean: float
    examples: int
    dtype: str
    exact: bool = True


def round_trip(
    model: Model,
    x: Tensor,
    context: Tensor | None = None,
    *,
    limit: int = 500,
    batch_size: int = 100,
) -> RoundTrip:
    """Measures the round trip on up to `limit` examples, taken evenly from x.

    Args:
        model: with latents.
        x: (N, *event), integers or reals.
        context: (N,) labels or (N, features) vectors, or None.
        limit: how many examples at most.
        batch_size: how many at once.

    Raises:
        UsageError: if the model has no latents.
    """
    rows = evenly(len(x), limit)
    errors = trip_errors(
        model, x[rows], None if context is None else context[rows], batch_size=batch_size
    )
    return RoundTrip(
        maximum=float(errors.max()),
        mean=float(errors.mean()),
        examples=len(errors),
        dtype=str(access.place(model)[1]).removeprefix("torch."),
        exact=access.is_exact(model),
    )


def trip_errors(
    model: Model, x: Tensor, context: Tensor | None = None, *, batch_size: int = 100
) -> Tensor:
    """|x back - x| of every variable, (N, *event), in units of the data's range."""
    errors = []
    with access.at_rest(model, 0):
        size = data_range(model, x)
        for start in range(0, len(x), batch_size):
            y = access.real_valued(model, x[start : start + batch_size])
            c = None if context is None else context[start : start + batch_size]
            back = access.decode(model, access.encode(model, y, c), c)
            errors.append(((back - y).abs() / size).cpu())
    return torch.cat(errors)


def data_range(model: Model, x: Tensor) -> Tensor:
    """What an error is measured in: 1 for pixels on [0, 1], max - min for each real variable."""
    y = access.real_valued(model, x)
    if access.bits_of(model) is not None:
        return y.new_ones(())
    size = y.amax(0) - y.amin(0)
    return torch.where(size > 0, size, torch.ones_like(size))


def evenly(n: int, limit: int | None) -> Tensor:
    """Up to `limit` positions among n, spread evenly, in order."""
    if limit is None or limit >= n:
        return torch.arange(n)
    return torch.arange(limit) * n // limit
