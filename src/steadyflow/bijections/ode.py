"""Continuous normalizing flows: a bijection as the solution of an ODE.

    dx/dt = f(t, x),  z = x(t1) for x = x(t0)        log|det dz/dx| = int_t0^t1 tr(df/dx) dt

since an Euler step has |det(I + h J)| = 1 + h tr J + O(h^2). The inverse is the same ODE solved
backwards. f may be any network with bounded slope: nothing about it has to be invertible.

Chen, Rubanova, Bettencourt & Duvenaud, "Neural Ordinary Differential Equations" (2018); Grathwohl
et al., "FFJORD" (2019); the regularisers of Finlay et al., "How to Train Your Neural ODE" (2020).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from steadyflow.bijections.adjoint import adjoint_solve
from steadyflow.bijections.bijection import Bijection, Transformed
from steadyflow.errors import unknown
from steadyflow.networks.precision import full_precision
from steadyflow.solvers import (
    Solution,
    draw_probes,
    exact_divergence,
    hutchinson_divergence,
    solve,
    standard_error,
)

DIVERGENCES = ("exact", "hutchinson")
GRADIENTS = ("direct", "adjoint")


@dataclasses.dataclass(frozen=True)
class Solved:
    """A solve with its log-determinant and what is known of its errors.

    Attributes:
        value: where the examples arrived, (batch, *event).
        log_det: (batch,) in nats.
        probe_error: standard error of log_det over the probes, (batch,); 0 with an exact
            divergence, NaN with a single probe.
        kinetic: int |f|^2 dt, (batch,); None unless asked for.
        jacobian: int |df/dx|_F^2 dt, (batch,), estimated with a probe; None unless asked for.
        solution: of the solver.
    """

    value: Tensor
    log_det: Tensor
    probe_error: Tensor
    kinetic: Tensor | None
    jacobian: Tensor | None
    solution: Solution


class ContinuousFlow(Bijection):
    """Flows data along a vector field from t0 to t1.

    Args:
        field: field(t, x, context) gives dx/dt like x: (batch, *event). t is float64, () or
            (batch,); context is (batch, features) or None.
        t0: the time of the data.
        t1: the time of the latents.
        method: of `steadyflow.solvers.solve`.
        rtol: relative tolerance; never taken below what the arithmetic can give.
        atol: absolute tolerance, alike.
        steps: equal steps instead of adaptive ones; the inverse is then that of the ODE, not of
            the steps.
        per_example: steps of its own for each example, so that none depends on its neighbours.
        divergence: 'exact' (a backward pass for each variable) or 'hutchinson' (for each probe).
        probes: how many random probes for 'hutchinson'.
        gradients: 'direct' (through the steps of the solver) or 'adjoint' (a second ODE,
            backwards: memory that does not grow with the steps).
        max_evaluations: of the field in one solve; beyond, an error says which examples.

    Example:
        >>> import torch
        >>> rotate = lambda t, x, context: x.flip(1) * torch.tensor([1.0, -1.0])
        >>> flow = ContinuousFlow(rotate, t1=torch.pi / 2)
        >>> z, log_det = flow(torch.tensor([[1.0, 0.0]]))
        >>> z.detach().round(decimals=3).abs(), log_det.item()
        (tensor([[0., 1.]]), 0.0)
    """

    closed_form_inverse = False

    def __init__(
        self,
        field: nn.Module | Callable[..., Tensor],
        *,
        t0: float = 0.0,
        t1: float = 1.0,
        method: str = "dopri5",
        rtol: float = 1e-5,
        atol: float = 1e-5,
        steps: int | None = None,
        per_example: bool = True,
        divergence: str = "exact",
        probes: int = 1,
        gradients: str = "direct",
        max_evaluations: int = 10_000,
    ):
        super().__init__()
        if divergence not in DIVERGENCES:
            raise unknown("divergence", divergence, DIVERGENCES)
        if gradients not in GRADIENTS:
            raise unknown("gradients", gradients, GRADIENTS)
        if probes < 1:
            raise ValueError(f"probes must be at least 1, got {probes}")
        self.field = field
        self.t0, self.t1 = t0, t1
        self.method, self.rtol, self.atol, self.steps = method, rtol, atol, steps
        self.per_example, self.max_evaluations = per_example, max_evaluations
        self.divergence, self.probes, self.gradients = divergence, probes, gradients
        self.exact_log_det = divergence == "exact"

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Solves from t0 to t1."""
        return self._transform(x, context, self.t0, self.t1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Solves from t1 to t0."""
        return self._transform(z, context, self.t1, self.t0)

    def flow(self, x: Tensor, context: Tensor | None = None, inverse: bool = False) -> Solution:
        """Solves without a log-determinant, which is several times cheaper."""
        begin, end = (self.t1, self.t0) if inverse else (self.t0, self.t1)
        args = () if context is None else (context,)
        with full_precision(x):
            return solve(self._call, _wide(x), begin, end, args=args, **self._options(x.dtype))

    def solve(
        self,
        x: Tensor,
        context: Tensor | None = None,
        inverse: bool = False,
        regularizers: bool = False,
    ) -> Solved:
        """Solves, and says what is known of the errors.

        Args:
            x: (batch, *event).
            context: (batch, features) or None.
            inverse: from t1 to t0.
            regularizers: integrate |f|^2 and |df/dx|^2 as well, to be added to a training loss.
        """
        begin, end = (self.t1, self.t0) if inverse else (self.t0, self.t1)
        wide = _wide(x)
        probes = self._probes(wide, regularizers)
        n = 1 if self.exact_log_det else len(probes)
        extra = 2 if regularizers else 0
        state = (wide, wide.new_zeros(len(x), n + extra))
        args = (*probes, *(() if context is None else (context,)))
        with full_precision(x):
            done = solve(
                self._augmented(len(probes), regularizers),
                state,
                begin,
                end,
                args=args,
                **self._options(x.dtype),
            )
        value, sums = done.require()
        each = sums[:, :n]
        error = torch.zeros_like(each[:, 0]) if self.exact_log_det else standard_error(each)
        kinetic, jacobian = sums[:, n:].abs().unbind(1) if regularizers else (None, None)
        return Solved(value.to(x.dtype), each.mean(1), error.detach(), kinetic, jacobian, done)

    def _transform(
        self, x: Tensor, context: Tensor | None, begin: float, end: float
    ) -> Transformed:
        if self.gradients == "adjoint" and torch.is_grad_enabled():
            wide = _wide(x)
            probes = self._probes(wide, False)
            with full_precision(x):
                value, log_det = adjoint_solve(
                    self._augmented(len(probes), False),
                    self.parameters(),
                    wide,
                    begin,
                    end,
                    (*probes, *(() if context is None else (context,))),
                    self._options(x.dtype),
                )
            return value.to(x.dtype), log_det
        made = self.solve(x, context, inverse=begin == self.t1)
        return made.value, made.log_det

    def _augmented(self, count: int, regularizers: bool) -> Callable[..., Any]:
        """The field of (x, sums): sums holds the log-determinants and the regularisers."""

        def augmented(t: Tensor, state: tuple[Tensor, Tensor], *args: Tensor) -> Any:
            x, probes, rest = state[0], args[:count], args[count:]

            def f(x: Tensor) -> Tensor:
                return self._call(t, x, *rest)

            if not regularizers:
                if self.exact_log_det:
                    value, trace = exact_divergence(f, x)
                    return value, trace[:, None]
                return hutchinson_divergence(f, x, probes)
            value, traces, norm = hutchinson_divergence(f, x, probes, with_norm=True)
            if self.exact_log_det:
                value, trace = exact_divergence(f, x)
                traces = trace[:, None]
            kinetic = value.flatten(1).square().sum(1, keepdim=True)
            return value, torch.cat((traces, kinetic, norm[:, None]), 1)

        return augmented

    def _call(self, t: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
        own = self._dtype(x.dtype)
        return self.field(t, x.to(own), rest[0] if rest else None).to(x.dtype)

    def _probes(self, x: Tensor, regularizers: bool) -> list[Tensor]:
        if self.exact_log_det and not regularizers:
            return []
        return draw_probes(x, 1 if self.exact_log_det else self.probes)

    def _options(self, dtype: torch.dtype) -> dict[str, Any]:
        """What `solve` is told; tolerances stay above the rounding of the field."""
        floor = 8 * torch.finfo(self._dtype(dtype)).eps
        return {
            "method": self.method,
            "rtol": max(self.rtol, floor),
            "atol": max(self.atol, floor),
            "steps": self.steps,
            "per_example": self.per_example,
            "max_evaluations": self.max_evaluations,
        }

    def _dtype(self, other: torch.dtype) -> torch.dtype:
        """The arithmetic of the field."""
        for parameter in self.parameters():
            return parameter.dtype
        return other


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
