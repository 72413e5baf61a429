"""Which noise goes with which example: minibatch optimal transport, one to one.

    minimise  sum_i |x_i - e_p(i)|^2   over the permutations p of a block

Every noise is used once: pairing by draws from the transport plan instead repeats a third of the
points and loses others (measured). Blocks of 64 cost a sixth of the time of whole batches of 256
and lose little of the gain. Pooladian et al., "Multisample Flow Matching" (2023); Tong et al.,
"Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport" (2024).
"""

from __future__ import annotations

import torch
from torch import Tensor

from steadyflow.networks.precision import full_precision

BLOCK = 64


@torch.no_grad()
def optimal_pairing(
    x: Tensor, noise: Tensor, groups: Tensor | None = None, block: int = BLOCK
) -> Tensor:
    """The permutation p with which noise[p] lies nearest to x, in blocks.

    Args:
        x: (batch, *event).
        noise: like x.
        groups: (batch,) labels within which to pair, so that the noise of every class stays
            normal; None for one group.
        block: at most so many are paired at once; the last block may be smaller.

    Returns:
        (batch,) int64, each number once.

    Raises:
        ValueError: if shapes differ or the block is smaller than 1.
    """
    if x.shape != noise.shape:
        raise ValueError(f"data and noise must have one shape, got {x.shape} and {noise.shape}")
    if block < 1:
        raise ValueError(f"a block must have at least 1 example, got {block}")
    from scipy.optimize import linear_sum_assignment

    n = len(x)
    order = torch.arange(n) if groups is None else groups.cpu().argsort(stable=True)
    cuts = _cuts(n, None if groups is None else groups.cpu()[order], block)
    flat, other = x.flatten(1).float(), noise.flatten(1).float()
    permutation = torch.empty(n, dtype=torch.int64)
    for start, stop in cuts:
        rows = order[start:stop]
        # |x - e|^2 up to what the pairing does not change
        with full_precision(flat):
            cost = -(flat[rows.to(x.device)] @ other[rows.to(x.device)].T).cpu().numpy()
        permutation[rows] = rows[torch.from_numpy(linear_sum_assignment(cost)[1])]
    return permutation.to(x.device)


def _cuts(n: int, groups: Tensor | None, block: int) -> list[tuple[int, int]]:
    """Where each block begins and ends; no block holds two groups."""
    ends = [n]
    if groups is not None and n:
        ends = [*(groups.diff().nonzero().flatten() + 1).tolist(), n]
    cuts, start = [], 0
    for end in ends:
        while start < end:
            cuts.append((start, min(start + block, end)))
            start = cuts[-1][1]
    return cuts
