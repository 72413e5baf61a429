"""A sampler with finitely many steps as an invertible residual flow.

    x_{i+1} = x_i + h_i f(t_i, x_i)                         from latents to data, Euler (or DDIM)
    x_i <- x_{i+1} - h_i f(t_i, x_i)                        its inverse, by a fixed point
    log|det| = sum_i log|det(I + h_i df/dx)|                exactly

So the sampler itself has latents and a density: not that of the ODE, but of what it really draws.
A step is inverted where h f contracts; where it does not, the example is reported, never guessed.
Behrmann et al., "Invertible Residual Networks" (2019), for the iteration.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from steadyflow.bijections.bijection import Bijection, Transformed
from steadyflow.solvers.fixed_point import fixed_point
from steadyflow.solvers.solution import SolverError


@dataclasses.dataclass(frozen=True)
class Inverted:
    """The latents of examples under the steps of a sampler.

    Attributes:
        value: (batch, *event); of examples that did not converge, where the iteration stood.
        converged: whether each example's every step did, (batch,).
        evaluations: of the field.
    """

    value: Tensor
    converged: Tensor
    evaluations: int


class EulerSteps(Bijection):
    """Explicit Euler steps from latents to data, inverted exactly.

    For evaluation: gradients flow through `inverse` (sampling), not through `forward`.

    Args:
        field: field(t, x, context) gives dx/dt like x: (batch, *event); t is a float64 scalar.
        times: from the latents to the data, in the order of sampling.
        tolerance: on the last change of the iteration, relative to the size of x.
        max_iterations: of each step.
    """

    closed_form_inverse = False

    def __init__(
        self,
        field: nn.Module | Callable[..., Tensor],
        times: Sequence[float],
        tolerance: float = 1e-12,
        max_iterations: int = 200,
    ):
        super().__init__()
        if len(times) < 2:
            raise ValueError(f"at least two times are needed, got {len(times)}")
        self.field, self.times = field, [float(t) for t in times]
        self.tolerance, self.max_iterations = tolerance, max_iterations

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Data to latents, by the fixed points.

        Raises:
            SolverError: if a step does not contract for some examples, with their positions.
        """
        made = self.invert(x, context)
        if not made.converged.all():
            lost = (~made.converged).nonzero().flatten().tolist()
            raise SolverError(
                f"{len(lost)} of {len(x)} examples ({', '.join(map(str, lost[:5]))}"
                f"{', ...' if len(lost) > 5 else ''}) do not contract under the steps of this "
                "sampler: take more steps, or use `invert`, which says which did"
            )
        return made.value, -self.inverse(made.value, context)[1]

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Latents to data, by the steps themselves, with their exact log-determinant."""
        wide = torch.promote_types(z.dtype, torch.float32)
        log_det = z.new_zeros(len(z), dtype=wide)
        for t, to in itertools.pairwise(self.times):
            z, part = self._step(t, to - t, z, context)
            log_det = log_det + part.to(wide)
        return z, log_det

    @torch.no_grad()
    def sample(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Latents to data without the log-determinant."""
        for t, to in itertools.pairwise(self.times):
            z = z + (to - t) * self._call(t, z, context)
        return z

    @torch.no_grad()
    def invert(self, x: Tensor, context: Tensor | None = None) -> Inverted:
        """Data to latents, and which examples arrived."""
        converged = torch.ones(len(x), dtype=torch.bool, device=x.device)
        evaluations = 0
        for to, t in itertools.pairwise(reversed(self.times)):
            found = fixed_point(
                self._backwards(t, to - t),
                x,
                (x, context),
                tolerance=self.tolerance,
                method="plain",
                max_iterations=self.max_iterations,
            )
            x, evaluations = found.value, evaluations + found.evaluations
            converged &= found.converged
        return Inverted(x, converged, evaluations)

    def _backwards(self, t: float, h: float) -> Callable[..., Tensor]:
        """The map whose fixed point is what a step began with."""
        return lambda x, end, context: end - h * self._call(t, x, context)

    def _call(self, t: float, x: Tensor, context: Tensor | None) -> Tensor:
        return self.field(torch.tensor(t, dtype=torch.float64, device=x.device), x, context)

    def _step(
        self, t: float, h: float, x: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """X + h f and log|det(I + h df/dx)|, by one backward pass for each variable."""
        graph = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if graph and x.requires_grad else x.detach().requires_grad_()
            new = x + h * self._call(t, x, context)
            columns = new.flatten(1)
            jacobian = [
                torch.autograd.grad(c.sum(), x, create_graph=graph, retain_graph=True)[0]
                for c in columns.unbind(1)
            ]
            log_det = torch.linalg.slogdet(torch.stack(jacobian, 1).flatten(2)).logabsdet
        return (new, log_det) if graph else (new.detach(), log_det.detach())
