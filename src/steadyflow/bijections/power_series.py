"""Log-determinants of I + J by the power series of the logarithm.

    log det(I + J) = sum_k (-1)^(k+1) / k tr J^k            |J| < 1
    tr J^k = E v^T J^k v                                    Hutchinson's probes v
    truncated    the first n terms: biased by up to D (-log(1 - L) - sum_{k<=n} L^k / k)
    roulette     n terms, then each further term k with probability S_k, divided by S_k: unbiased
    gradient     d log det = E sum_k (-1)^k v^T J^k dJ v    (Neumann series), the same terms

Roulette is of finite variance if L^2k / S_k is summable. A Poisson number of terms never has that;
here S is a mixture of a quick geometric tail and of a slow one, S_k = (1 - e) / 2^k + e q^k with
q > L^2: quick where Jacobians are small, safe where they are not.

The gradient needs w = sum_k (-1)^k J^Tk v / S_k and one Jacobian-vector product J v. Only x, v and
w are kept for it, whatever the number of terms; g is evaluated again in the backward pass, so that
the gradient is right for any weights of the examples.

Behrmann et al., "Invertible Residual Networks" (2019), sec. 3.2; Chen et al., "Residual Flows for
Invertible Generative Modeling" (2019), sec. 3.1-3.2.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from steadyflow.bijections.bijection import Transformed, gradients
from steadyflow.networks.precision import exact_arithmetic
from steadyflow.solvers.divergence import draw_probes

QUICK = 0.5  # the geometric tail that most examples draw
RARE = 0.1  # the share of those that draw the slow tail


@dataclasses.dataclass(frozen=True)
class Terms:
    """How many terms of the series are summed.

    Attributes:
        always: terms of every example.
        slow: q of the slow tail; 0 to stop after `always` terms (the truncated series).
        groups: how many numbers of terms are drawn for a batch, each for a part of it (quicker);
            None for one for each example, which makes the errors of examples independent.
    """

    always: int
    slow: float = 0.0
    groups: int | None = None

    @classmethod
    def roulette(cls, always: int, contraction: float, groups: int | None = None) -> Terms:
        """An unbiased series of finite variance for Jacobians of norm at most `contraction`."""
        square = contraction**2
        return cls(always, max(QUICK, min(1.1 * square, (1 + square) / 2)), groups)

    def survival(self, k: int) -> float:
        """The probability with which term k is summed."""
        beyond = k - self.always
        if beyond <= 0 or not self.slow:
            return float(beyond <= 0)
        return (1 - RARE) * QUICK**beyond + RARE * self.slow**beyond

    def draw(self, n: int) -> Tensor:
        """The number of terms of each of n examples, (n,), in falling order, on the CPU."""
        if not self.slow or not n:
            return torch.full((n,), self.always)
        draws = n if self.groups is None else min(self.groups, n)
        ratio = torch.where(torch.rand(draws) < RARE, self.slow, QUICK)
        more = torch.log(1 - torch.rand(draws, dtype=torch.float64)) / torch.log(ratio.double())
        counts = self.always + more.floor().long()
        counts = counts.repeat_interleave(-(-n // draws))[:n]
        return counts.sort(descending=True).values


def estimated_log_det(
    network: Any, x: Tensor, context: Tensor | None, terms: Terms
) -> Transformed:
    """g(x): (batch, *event) and an estimate of log|det(I + dg/dx)|: (batch,), float32 or wider.

    Args:
        network: of Lipschitz constant below 1, with `linearized` and `jvp`.
        x: (batch, *event).
        context: (batch, features) or None.
        terms: how many.
    """
    if not torch.is_grad_enabled():
        return _sum(network, x, context, terms)[:2]
    parameters = [p for p in network.parameters() if p.requires_grad]
    return _Series.apply(network, terms, x, context, *parameters)


class _Series(torch.autograd.Function):
    # parameters are inputs of this function, so that hooks fire and gradients accumulate

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        network: Any,
        terms: Terms,
        x: Tensor,
        context: Tensor | None,
        *parameters: nn.Parameter,
    ) -> Transformed:
        value, log_det, probe, weighted = _sum(network, x, context, terms, neumann=True)
        ctx.network, ctx.parameters = network, parameters
        ctx.save_for_backward(x, context, probe, weighted)
        return value, log_det

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor, grad_log_det: Tensor) -> tuple:  # type: ignore[override]
        if torch.is_grad_enabled():
            raise RuntimeError(
                "an estimated log-determinant has no second derivatives (create_graph=True): "
                "use log_det='exact' for them"
            )
        x, context, probe, weighted = ctx.saved_tensors
        with exact_arithmetic(x), torch.enable_grad():
            x = x.detach().requires_grad_()
            inputs = [x, *ctx.parameters]
            if context is not None and ctx.needs_input_grad[3]:
                context = context.detach().requires_grad_()
                inputs.append(context)
            value, tangent = ctx.network.jvp(x, probe, context)
            trace = (tangent * weighted).flatten(1).sum(1, dtype=grad_log_det.dtype)
        grad_x, *grads = gradients((value, trace), (grad_value, grad_log_det), inputs)
        of_context = grads.pop() if len(inputs) > 1 + len(ctx.parameters) else None
        return None, None, grad_x, of_context, *grads


def _sum(
    network: Any,
    x: Tensor,
    context: Tensor | None,
    terms: Terms,
    neumann: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """g(x), the summed series, the probe v, and w of the Neumann series (if wanted)."""
    n, wide = len(x), torch.promote_types(x.dtype, torch.float32)
    counts = terms.draw(n).tolist()
    # the examples in a random order of their numbers of terms, so that those left are the first
    order = torch.randperm(n) if terms.slow else torch.arange(n)
    back = order.argsort().to(x.device)
    order = order.to(x.device)
    (probe,) = draw_probes(x)
    value, pull = network.linearized(x[order], None if context is None else context[order])
    log_det = x.new_zeros(n, dtype=wide)
    weighted, row, left = probe.clone(), probe, n
    for k in range(1, (counts[0] if n else 0) + 1):
        left = _still(counts, k, left)
        row = pull(row[:left])
        sign = 1 if k % 2 else -1
        trace = (row * probe[:left]).flatten(1).sum(1, dtype=wide)
        log_det[:left] += sign / (k * terms.survival(k)) * trace
        # the term of J^k in the gradient stems from term k + 1 of the value
        further = _still(counts, k + 1, left)
        if neumann and further:
            weighted[:further] -= sign / terms.survival(k + 1) * row[:further]
    return value[back], log_det[back], probe[back], weighted[back]


def _still(counts: list[int], k: int, left: int) -> int:
    """How many of the first `left` examples have at least k terms."""
    while left and counts[left - 1] < k:
        left -= 1
    return left
