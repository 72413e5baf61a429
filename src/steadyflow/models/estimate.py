"""The likelihood of an ODE with what is known of its errors.

    log p(x) = log p_base(z) + int div v dphi                 the estimate
    probe error     the spread of the divergence's random probes, over their root
    tolerance       the change when the solver is asked for ten times the accuracy
    cut-off         log p_0 - log p_s ~ -s^2/2 (div score + |score|^2) at the smallest noise s
    round trip      |x - decode(encode(x))|, the largest

Song et al. (2021), appendix D.2; Kim et al., "Soft Truncation" (2022), on what a forgotten cut-off
costs.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steadyflow.bijections.bijection import sum_event
from steadyflow.solvers import draw_probes, exact_divergence, hutchinson_divergence

if TYPE_CHECKING:
    from steadyflow.models.probability_flow import ProbabilityFlowModel


@dataclasses.dataclass(frozen=True)
class LikelihoodEstimate:
    """Mean log-likelihood of some examples, in nats, and its errors.

    Attributes:
        log_prob: of each example, (batch,).
        mean: over the examples.
        standard_error: of the mean, over the examples.
        probe_error: of the mean, from the random probes; 0 with an exact divergence.
        tolerance_error: how much the mean moves at a tenth of the tolerance.
        cut_off: what the smallest noise of the path adds or hides: the mean of log p_0 - log p_s.
        bits_per_dimension: -mean / (D ln 2).
        evaluations: of the field, for the estimate.
        round_trip: the largest error of decode(encode(x)), in standard deviations of the data.
        dimensions: D.
    """

    log_prob: Tensor
    mean: float
    standard_error: float
    probe_error: float
    tolerance_error: float
    cut_off: float
    bits_per_dimension: float
    evaluations: int
    round_trip: float
    dimensions: int

    def __str__(self) -> str:
        unit = self.dimensions * math.log(2)
        lines = [
            f"log-likelihood {self.mean:.4f} ± {self.standard_error:.4f} nats (estimate), "
            f"{self.bits_per_dimension:.4f} ± {self.standard_error / unit:.4f} bits per dimension",
            *self.errors(),
        ]
        return "\n".join(lines)

    def errors(self) -> list[str]:
        """What is known of the errors, one line each."""
        return [
            f"  probe error of the mean    {self.probe_error:.2e} nats",
            f"  tolerance / 10 moves it    {self.tolerance_error:+.2e} nats",
            f"  cut-off correction         {self.cut_off:+.2e} nats (not included)",
            f"  round trip                 {self.round_trip:.2e} standard deviations",
            f"  evaluations                {self.evaluations}",
        ]


@torch.no_grad()
def estimate_likelihood(
    model: ProbabilityFlowModel, x: Tensor, context: Tensor | None, probes: int
) -> LikelihoodEstimate:
    """Measures the log-likelihood of data and its errors; see `LikelihoodEstimate`.

    Args:
        model: the model.
        x: (batch, *event).
        context: (batch, features) as the network takes it, or None.
        probes: how many, where the divergence is estimated.
    """
    flow, ode = model.flow, model.ode
    y, change = flow._to_real(x)
    first, inner = model.normalization(y)
    start, log_det = model.shrinking(first)
    before = ode.probes, ode.rtol, ode.atol
    state = torch.get_rng_state()
    try:
        ode.probes = probes
        made = ode.solve(start, context)
        torch.set_rng_state(state)  # the same probes again
        ode.rtol, ode.atol = ode.rtol / 10, ode.atol / 10
        finer = ode.solve(start, context)
    finally:
        ode.probes, ode.rtol, ode.atol = before
    back = ode.flow(made.value, context, inverse=True).require()
    log_prob = flow.base.log_prob(made.value) + made.log_det + inner + log_det + change
    other = flow.base.log_prob(finer.value) + finer.log_det + inner + log_det + change
    n = len(x)
    mean = float(log_prob.double().mean())
    return LikelihoodEstimate(
        log_prob=log_prob,
        mean=mean,
        standard_error=float(log_prob.double().std() / math.sqrt(n)) if n > 1 else math.nan,
        probe_error=float(made.probe_error.double().square().sum().sqrt() / n),
        tolerance_error=float((other - log_prob).double().mean()),
        cut_off=_cut_off(model, start, context, probes),
        bits_per_dimension=-mean / (model.dimensions * math.log(2)),
        evaluations=made.solution.evaluations,
        round_trip=float((back - start).abs().max()),
        dimensions=model.dimensions,
    )


def _cut_off(model: ProbabilityFlowModel, u: Tensor, context: Tensor | None, probes: int) -> float:
    """The mean of log p_0 - log p_s to second order in s, by the network's own score."""
    angle = torch.tensor(model.ode.t0, dtype=torch.float64)
    cos, sin = float(torch.cos(angle)), float(torch.sin(angle))
    if sin == 0:
        return 0.0

    def noise(u: Tensor) -> Tensor:
        return sin * u + cos * model.ode._call(angle, u, *(() if context is None else (context,)))

    if model.ode.exact_log_det:
        value, trace = exact_divergence(noise, u)
    else:
        value, traces = hutchinson_divergence(noise, u, draw_probes(u, probes))
        trace = traces.mean(1)
    # in y = u / cos: score = -noise / s, its divergence -cos div(noise) / s
    s = sin / cos
    change = -0.5 * (sum_event(value.square()) - s * cos * trace)
    return float(change.double().mean())
