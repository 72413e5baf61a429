"""Linear bijections: permutations.

    z = P x              log|det P| = 0
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steadyflow.bijections.bijection import Bijection, Transformed, zero_log_det


class Permutation(Bijection):
    """z_i = x_{order[i]} along axis 1 (variables of a vector, channels of an image).

    Args:
        order: a permutation of 0 .. n-1.
    """

    order: Tensor
    back: Tensor

    def __init__(self, order: Sequence[int]):
        super().__init__()
        order = torch.as_tensor(order, dtype=torch.int64)
        if sorted(order.tolist()) != list(range(len(order))):
            raise ValueError(f"not a permutation of 0 .. {len(order) - 1}: {order.tolist()}")
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Permutes axis 1."""
        return x.index_select(1, self.order), zero_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Permutes axis 1 back."""
        return z.index_select(1, self.back), zero_log_det(z)


class Shuffle(Permutation):
    """A permutation of `size` variables drawn once; it is saved with the weights.

    Args:
        size: length of axis 1.
        seed: of the draw; without one it follows torch's global seed.
    """

    def __init__(self, size: int, seed: int | None = None):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        super().__init__(torch.randperm(size, generator=generator).tolist())


class Reverse(Bijection):
    """z_i = x_{n-1-i} along axis 1."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Turns axis 1 round."""
        return x.flip(1), zero_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Turns it back."""
        return z.flip(1), zero_log_det(z)
