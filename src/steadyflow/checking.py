"""What to run before trusting a density: round trip, log-determinant and integral, measured."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from steadyflow.flow import Flow

MAX_JACOBIAN = 2048  # variables: a dense Jacobian takes one backward pass for each


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """What `Flow.check` measured. All errors are relative, and maxima over the examples.

    Attributes:
        examples: how many examples were used.
        dtype: the arithmetic.
        round_trip: max |f^-1(f(x)) - x|, relative to the largest |x| of data and samples.
        latent_round_trip: max |f(f^-1(z)) - z| for z drawn from the base, relative to max |z|.
        log_det: error of log|det| against the autograd Jacobian, or None if the data has too many
            variables (or the log-determinant is an estimate).
        opposite: |log_det forward + log_det inverse|.
        finite: whether every log-density is finite.
        integral: of a two-dimensional density over the plane, or None.
    """

    examples: int
    dtype: str
    round_trip: float
    latent_round_trip: float
    log_det: float | None
    opposite: float
    finite: bool
    integral: float | None

    @property
    def ok(self) -> bool:
        """True if everything is as it should be for the arithmetic used."""
        single = self.dtype != "float64"
        trip, det, opposite = (1e-3, 1e-4, 1e-3) if single else (1e-8, 1e-8, 1e-8)
        return (
            self.finite
            and self.round_trip <= trip
            and self.latent_round_trip <= trip
            and self.opposite <= opposite
            and (self.log_det is None or self.log_det <= det)
            and (self.integral is None or abs(self.integral - 1) <= 1e-2)
        )

    def __str__(self) -> str:
        lines = [
            f"checked on {self.examples} examples in {self.dtype}: "
            + ("all well" if self.ok else "NOT to be trusted"),
            f"  round trip x -> z -> x      relative error {self.round_trip:.1e}",
            f"  round trip z -> x -> z      relative error {self.latent_round_trip:.1e}",
            f"  log-det forward + inverse   relative error {self.opposite:.1e}",
        ]
        if self.log_det is not None:
            lines.append(f"  log-det against autograd    relative error {self.log_det:.1e}")
        if self.integral is not None:
            lines.append(f"  integral of the density     {self.integral:.5f}")
        if not self.finite:
            lines.append("  some log-densities are not finite")
        return "\n".join(lines)


def check_flow(flow: Flow, x: Tensor, context: Tensor | None, points: int) -> CheckReport:
    """Measures a flow on real-valued data x: (batch, *event); see `CheckReport`."""
    with torch.no_grad():
        z, forward = flow.bijection(x, context)
        back, inverse = flow.bijection.inverse(z, context)
        log_prob = flow.base.log_prob(z, context) + forward
        drawn = flow.base.sample(len(x), context, generator=_generator(flow))
        samples, _ = flow.bijection.inverse(drawn, context)
        again, _ = flow.bijection(samples, context)
    unit = max(_worst(x), _worst(samples), 1e-30)
    return CheckReport(
        examples=len(x),
        dtype=str(x.dtype).removeprefix("torch."),
        round_trip=_worst(back - x) / unit,
        latent_round_trip=_worst(again - drawn) / max(_worst(drawn), 1e-30),
        log_det=log_det_error(flow, x[:points], None if context is None else context[:points]),
        opposite=_worst((forward + inverse) / forward.abs().clamp_min(1.0)),
        finite=bool(torch.isfinite(log_prob).all()),
        integral=integral_2d(flow, context) if flow.base.event_shape == (2,) else None,
    )


def log_det_error(flow: Flow, x: Tensor, context: Tensor | None) -> float | None:
    """Largest relative difference between log_det and slogdet of the autograd Jacobian."""
    size = math.prod(x.shape[1:])
    if size > MAX_JACOBIAN or not flow.bijection.exact_log_det:
        return None
    worst = 0.0
    for i in range(len(x)):
        row = None if context is None else context[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda v, row=row: flow.bijection(v[None], row)[0].flatten(), x[i]
        )
        truth = torch.linalg.slogdet(jacobian.reshape(size, size).double())[1]
        with torch.no_grad():
            ours = flow.bijection(x[i : i + 1], row)[1].double()
        worst = max(worst, float((ours - truth).abs() / truth.abs().clamp_min(1.0)))
    return worst


@torch.no_grad()
def integral_2d(flow: Flow, context: Tensor | None = None, cells: int = 400) -> float:
    """The integral of a two-dimensional density over a box that holds its samples.

    The midpoint rule on cells x cells cells, given the first row of the context. The box is the
    range of what the flow makes of a net of latents that reaches half as far again as 10 000 draws
    of the base, so that all but a hundred-thousandth of the mass is inside.
    """
    row = None if context is None else context[:1]
    net = _net(flow, row)
    reached, _ = flow.bijection.inverse(net, None if row is None else row.expand(len(net), -1))
    low, high = reached.min(0).values, reached.max(0).values
    edge = (high - low) / cells
    steps = torch.arange(cells, dtype=edge.dtype, device=edge.device) + 0.5
    total = 0.0
    for column in (low[0] + edge[0] * steps).split(50):
        points = torch.cartesian_prod(column, low[1] + edge[1] * steps)
        z, log_det = flow.bijection(points, None if row is None else row.expand(len(points), -1))
        total += float((flow.base.log_prob(z, row) + log_det).double().exp().sum())
    return total * float(edge.prod())


def _net(flow: Flow, row: Tensor | None, side: int = 121) -> Tensor:
    """A net of latents over the disc that reaches half as far again as draws of the base."""
    draws = flow.base.sample(10_000, row, generator=_generator(flow))
    centre = draws.mean(0)
    reach = 1.5 * (draws - centre).abs().max(0).values
    line = torch.linspace(-1, 1, side, dtype=draws.dtype, device=draws.device)
    disc = torch.cartesian_prod(line, line)
    return centre + reach * disc[disc.square().sum(1) <= 1]


def _generator(flow: Flow) -> torch.Generator:
    return torch.Generator(flow.base.device).manual_seed(0)


def _worst(error: Tensor) -> float:
    return float(error.abs().max()) if error.numel() else 0.0
