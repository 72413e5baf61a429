"""Autoregressive flows: each variable moves as the ones before it say.

    z_i = T(x_i; theta_i(x_1 .. x_{i-1}))          log|det dz/dx| = sum_i log |dT/dx_i|

The Jacobian is triangular. Forward is one pass of a masked network. The inverse finds the
variables one after the other; three ways lead to the same numbers:

    'incremental'  every hidden unit is computed once, when the variables that it sees are known:
                   the arithmetic of about one pass, in D small steps
    'fixed-point'  x <- T^-1(z; theta(x)) for all variables at once. After n rounds the first n are
                   exact, so it ends after at most D, mostly after far fewer: for wide vectors
    'auto'         incremental up to 512 variables, where the network allows it

Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow" (2016);
Papamakarios, Pavlakou & Murray, "Masked Autoregressive Flow" (2017); Song, Meng, Liao & Ermon,
"Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving" (2021), for the
rounds. IAF is `Inverse(Autoregressive(...))`: quick draws, one pass, and a slow density.

Gradients through the inverse solve a triangular system by the same kind of rounds, on
vector-Jacobian products: see `steadyflow.bijections.implicit`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from steadyflow.bijections import fused_autoregressive
from steadyflow.bijections.bijection import Bijection, Transformed
from steadyflow.bijections.implicit import attach_gradient
from steadyflow.bijections.precision import widened
from steadyflow.bijections.transforms import Transform
from steadyflow.errors import unknown
from steadyflow.networks.masked import Incremental, MaskedMLP
from steadyflow.networks.precision import full_precision
from steadyflow.tracing import transforming

INVERSES = ("auto", "incremental", "fixed-point")
WIDE = 512  # variables above which rounds over all of them are preferred to one after the other


class Autoregressive(Bijection):
    """One autoregressive layer on vectors: an elementwise transform and a masked network.

    Args:
        transform: how each variable moves, for example `Affine()`.
        network: maps (x, context) to (batch, planes * D), the parameters of each variable
            depending only on those before it, as `MaskedMLP` does.
        inverse: 'incremental', 'fixed-point' or 'auto'.

    Example:
        >>> import torch
        >>> from steadyflow.bijections import Affine, Autoregressive
        >>> from steadyflow.networks import MaskedMLP
        >>> layer = Autoregressive(Affine(), MaskedMLP(4, planes=2, hidden_features=(16,)))
        >>> z, log_det = layer(torch.randn(5, 4))
        >>> z.shape, log_det.shape
        (torch.Size([5, 4]), torch.Size([5]))
    """

    def __init__(self, transform: Transform, network: nn.Module, inverse: str = "auto"):
        super().__init__()
        if inverse not in INVERSES:
            raise unknown("inverse", inverse, INVERSES)
        features = network.features if isinstance(network, MaskedMLP) else None
        if inverse == "incremental" and features is None:
            raise ValueError(
                f"the incremental inverse needs a MaskedMLP, got {type(network).__name__}: "
                "use inverse='fixed-point'"
            )
        if inverse == "auto":
            narrow = features is not None and features <= WIDE
            inverse = "incremental" if narrow else "fixed-point"
        self.transform, self.network, self.method = transform, network, inverse

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """One pass for all variables, in float32 even under autocast."""
        x = widened(x)
        with full_precision(x):
            parameters = self.network(x, context).to(x.dtype)
            fast = fused_autoregressive.affine(self.transform, x, parameters)
            return self.transform.forward(x, parameters) if fast is None else fast

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Exact; differentiable in z, the context and the parameters."""
        z = widened(z)
        with full_precision(z):
            if transforming():
                x = self._in_rounds(z, context)  # D of them, through which all derivatives pass
                return x, -self.forward(x, context)[1]
            with torch.no_grad():
                x, log_det = self._solve(z.detach(), context)
            if not torch.is_grad_enabled():
                return x, log_det
            fixed = None if context is None else context.detach()
            residual = z - self.forward(x, context)[0]
            x = attach_gradient(
                x, residual, lambda x: self._linearized(x, fixed), rounds=x.shape[1]
            )
            return x, -self.forward(x, context)[1]

    def _linearized(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """z, differentiable in x, and the slope of each variable."""
        parameters = self.network(x, context).to(x.dtype)
        z, _ = self.transform.forward(x, parameters)
        y, fixed = x.detach().requires_grad_(), parameters.detach()
        (slope,) = torch.autograd.grad(self.transform.forward(y, fixed)[0].sum(), y)
        return z, slope

    def _solve(self, z: Tensor, context: Tensor | None) -> Transformed:
        if self.method == "fixed-point" and not torch.compiler.is_compiling():
            x = self._in_rounds(z, context)
        else:
            fast = fused_autoregressive.attempt(self, z, context)
            if fast is not None:
                return fast
            x = self._one_by_one(z, context)
        return x, -self.forward(x, context)[1]

    def _one_by_one(self, z: Tensor, context: Tensor | None) -> Tensor:
        network: MaskedMLP = self.network  # type: ignore[assignment]
        evaluation = Incremental(network, len(z), context)
        columns: list[Tensor] = [z] * z.shape[1]
        newest = None
        for rank, variable in enumerate(network.order):
            parameters = evaluation.step(rank, newest).to(z.dtype)
            column, _ = self.transform.inverse(z[:, variable, None], parameters.t())
            newest = columns[variable] = column[:, 0]
        return torch.stack(columns, 1)

    def _in_rounds(self, z: Tensor, context: Tensor | None) -> Tensor:
        x = z
        for _ in range(z.shape[1]):
            previous = x
            x, _ = self.transform.inverse(z, self.network(x, context).to(z.dtype))
            if not transforming() and torch.equal(x, previous):
                break
        return x

    def extra_repr(self) -> str:
        """Transform and way of inversion, for the printed model."""
        return f"transform={type(self.transform).__name__}, inverse={self.method}"
