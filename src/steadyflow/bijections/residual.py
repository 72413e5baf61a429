"""Residual blocks: any network that contracts, made invertible by adding its input.

    z = x + g(x),   |g(x) - g(y)| <= L |x - y|,  L < 1            log|det dz/dx| = log det(I + J_g)
    x <- z - g(x)                                                 the inverse, a fixed point

Every step of the iteration shrinks the error by L (Banach). The log-determinant is exact where the
Jacobian is small or the network is made of matrices, and an unbiased estimate elsewhere; gradients
reach the inverse by the implicit function theorem, dx = (I + J_g)^-1 (dz - dg).

Behrmann et al., "Invertible Residual Networks" (2019); Chen et al., "Residual Flows for Invertible
Generative Modeling" (2019).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from steadyflow.bijections.bijection import Bijection, Transformed
from steadyflow.bijections.power_series import Terms, estimated_log_det
from steadyflow.bijections.precision import widened
from steadyflow.errors import unknown
from steadyflow.networks.contractive import Contractive
from steadyflow.networks.precision import exact_arithmetic
from steadyflow.solvers.fixed_point import METHODS, FixedPoint, fixed_point
from steadyflow.solvers.solution import SolverError

LOG_DETS = ("exact", "roulette", "truncated")
GROUPS = 8  # parts of a training batch that draw a number of terms each
EPSILONS = 8  # roundings that the inverse is wrong by, without a tolerance of the user's


class Residual(Bijection):
    """x + g(x) for a contraction g.

    Under autocast g keeps full precision, for it is iterated.

    Args:
        network: g(x, context), with its Lipschitz bound as `lipschitz`.
        log_det: 'exact' (by the network's own `log_det`, or a dense Jacobian: for few variables),
            'roulette' (an unbiased estimate) or 'truncated' (the first terms: biased).
        evaluation: the same when not training; as in training without it.
        terms: terms of the series that are always summed in training.
        evaluation_terms: the same when not training.
        tolerance: on the error of the inverse, relative to 1 + its root mean square; a few
            roundings without it.
        method: of the inverse, 'anderson' or 'plain'.
        max_iterations: of the inverse.
        name: what messages call the block.

    Example:
        >>> import torch
        >>> from steadyflow.networks import ContractiveMLP
        >>> block = Residual(ContractiveMLP(3, (16, 16)))
        >>> x = torch.randn(5, 3)
        >>> z, log_det = block(x)
        >>> bool((block.inverse(z)[0] - x).abs().max() < 1e-4)
        True
    """

    closed_form_inverse = False

    def __init__(
        self,
        network: Contractive,
        log_det: str = "exact",
        evaluation: str | None = None,
        *,
        terms: int = 2,
        evaluation_terms: int = 4,
        tolerance: float | None = None,
        method: str = "anderson",
        max_iterations: int = 1000,
        name: str = "this residual block",
    ):
        super().__init__()
        for choice in (log_det, evaluation or log_det):
            if choice not in LOG_DETS:
                raise unknown("log-determinant", choice, LOG_DETS)
        if method not in METHODS:
            raise unknown("fixed-point method", method, METHODS)
        if min(terms, evaluation_terms, max_iterations) < 1:
            raise ValueError("terms and iterations must be at least 1")
        self.network, self.name = network, name
        self.log_det, self.evaluation = log_det, evaluation or log_det
        self.terms, self.evaluation_terms = terms, evaluation_terms
        self.tolerance, self.method, self.max_iterations = tolerance, method, max_iterations
        self.exact_log_det = self.evaluation == "exact"

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Adds g(x)."""
        x = widened(x)
        with exact_arithmetic(x):
            value, log_det = self._value_and_log_det(x, context)
            return x + value, log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Solves z = x + g(x).

        Raises:
            SolverError: if an example does not reach the tolerance.
        """
        x = self.to_data(z, context)
        with exact_arithmetic(x):
            return x, -self._value_and_log_det(x, context)[1]

    def to_latent(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The forward without its log-determinant."""
        x = widened(x)
        with exact_arithmetic(x):
            return x + self.network(x, context)

    def to_data(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The inverse without its log-determinant."""
        z = widened(z)
        with exact_arithmetic(z):
            x = self.solve(z.detach(), context).value
            if not torch.is_grad_enabled():
                return x
            return self._with_gradients(x, z, context)

    def _value_and_log_det(self, x: Tensor, context: Tensor | None) -> Transformed:
        kind = self.log_det if self.training else self.evaluation
        if kind == "exact":
            own = getattr(self.network, "log_det", None)
            return own(x, context) if own is not None else dense_log_det(self.network, x, context)
        always = self.terms if self.training else self.evaluation_terms
        if kind == "truncated":
            return estimated_log_det(self.network, x, context, Terms(always))
        groups = GROUPS if self.training else None
        terms = Terms.roulette(always, self.network.lipschitz, groups)
        return estimated_log_det(self.network, x, context, terms)

    def solve(self, z: Tensor, context: Tensor | None = None) -> FixedPoint:
        """The inverse with its residuals and iterations, without gradients; raises as it does."""

        def backwards(x: Tensor, z: Tensor, context: Tensor | None) -> Tensor:
            return z - self.network(x, context)

        return self._iterate(backwards, z, (z, context), "inverted")

    def _iterate(
        self, f: Callable[..., Tensor], start: Tensor, args: tuple[Tensor | None, ...], what: str
    ) -> FixedPoint:
        eps = torch.finfo(start.dtype).eps
        found = fixed_point(
            f,
            start,
            args,
            tolerance=EPSILONS * eps if self.tolerance is None else self.tolerance,
            contraction=self._contraction(),
            method=self.method,
            max_iterations=self.max_iterations,
        )
        if found.ok:
            return found
        lost = (~found.converged).nonzero().flatten().tolist()
        raise SolverError(
            f"{self.name} could not be {what} for {len(lost)} of {len(start)} examples "
            f"({', '.join(map(str, lost[:5]))}{', ...' if len(lost) > 5 else ''}): after "
            f"{found.evaluations} iterations the residual is {float(found.residual.max()):.1e} "
            f"at a Lipschitz bound of {self.network.lipschitz:.4f}; raise max_iterations or "
            "the tolerance, or use float64"
        )

    def _contraction(self) -> float:
        # residuals are measured in the 2-norm; another norm's bound says nothing of their decay
        return self.network.lipschitz if self.network.norm == "2" else 0.9

    def _with_gradients(self, x: Tensor, z: Tensor, context: Tensor | None) -> Tensor:
        """The solution x, with the gradients of the implicit function theorem."""
        new = z - self.network(x, context)  # one more step, for the gradients of z and weights
        if not new.requires_grad:
            return x
        leaf = x.detach().requires_grad_()
        value = self.network(leaf, context)

        def transposed(u: Tensor, grad: Tensor, where: Tensor) -> Tensor:
            # u = grad - J^T u, of the examples that are still on their way
            whole = u.new_zeros(leaf.shape).index_copy(0, where, u)
            return grad - torch.autograd.grad(value, leaf, whole, retain_graph=True)[0][where]

        def solved(grad: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                raise RuntimeError(f"the inverse of {self.name} has no second derivatives")
            where = torch.arange(len(grad), device=grad.device)
            return self._iterate(transposed, grad, (grad, where), "differentiated").value

        new.register_hook(solved)
        return new


def dense_log_det(network: torch.nn.Module, x: Tensor, context: Tensor | None) -> Transformed:
    """g(x) and log|det(I + dg/dx)|: (batch,), by one backward pass for each variable."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if graph and x.requires_grad else x.detach().requires_grad_()
        value = network(x, context)
        rows = [
            torch.autograd.grad(column.sum(), x, create_graph=graph, retain_graph=True)[0]
            for column in value.flatten(1).unbind(1)
        ]
        wide = torch.promote_types(x.dtype, torch.float32)
        jacobian = torch.stack(rows, 1).flatten(2).to(wide)
        eye = torch.eye(jacobian.shape[-1], dtype=wide, device=x.device)
        log_det = torch.linalg.slogdet(eye + jacobian).logabsdet
    return (value, log_det) if graph else (value.detach(), log_det.detach())
