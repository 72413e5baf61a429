"""A causal transformer on sequences of vectors: what comes at each place, given what came before.

    h_i = W x_{i-1} + place_i + V c                        x_{-1} adds nothing
    h  <- h + attention(norm(h)),   h <- h + W_2 gelu(W_1 norm(h))       layer by layer
    o_i = W_o norm(h_i)                                     sees x_0 .. x_{i-1}, and c

Shifting the input by one place, not masking more, makes o_i blind to x_i. Vaswani et al.,
"Attention Is All You Need" (2017), with the normalisation first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.networks.precision import full_precision

HEAD = 64  # channels of one attention head, about


class CausalLayer(nn.Module):
    """Attention to the places up to one's own, then a two-layer network at each place."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.together = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.second_norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, 4 * width)
        self.outer = nn.Linear(4 * width, width)

    def forward(self, h: Tensor, sharpness: Tensor | None = None) -> Tensor:
        """(batch, places, width) to the same shape; sharpness: (batch,) scales the logits."""
        query, key, value = heads_apart(self.together(self.norm(h)), 3, self.heads)
        if sharpness is not None:
            query = query * sharpness.to(query.dtype).view(-1, 1, 1, 1)
        h = h + self.mixed(heads_together(attend(query, key, value, causal=True)))
        return h + self.outer(F.gelu(self.inner(self.second_norm(h))))


class CausalTransformer(nn.Module):
    """Gives parameters at each place of a sequence, from the vectors before it.

    Starts at zero: the output layer's weights and biases are.

    Args:
        places: the longest sequence.
        in_features: length of each vector.
        out_features: how many numbers are given at each place.
        width: channels inside.
        layers: how many.
        heads: of the attention; None for heads of about 64 channels.
        context_features: length of a context vector, which is added at every place; None for none.
    """

    def __init__(
        self,
        places: int,
        in_features: int,
        out_features: int,
        width: int = 128,
        layers: int = 4,
        heads: int | None = None,
        context_features: int | None = None,
    ):
        super().__init__()
        if width < 1 or (heads is not None and heads < 1):
            raise ValueError(f"channels and heads must be at least 1, got {width} and {heads}")
        heads = fitting_heads(width) if heads is None else heads
        if width % heads:
            raise ValueError(f"{width} channels can not be divided among {heads} heads")
        self.places, self.in_features = places, in_features
        self.input = nn.Linear(in_features, width)
        self.place = nn.Parameter(0.01 * torch.randn(places, width))
        self.given = nn.Linear(context_features, width, bias=False) if context_features else None
        self.layers = nn.ModuleList(CausalLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, out_features)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self, x: Tensor, context: Tensor | None = None, sharpness: Tensor | None = None
    ) -> Tensor:
        """The parameters at every place, those at place i from the vectors before it.

        Args:
            x: (batch, n, in_features), n at most `places`.
            context: (batch, context_features) or None.
            sharpness: (batch,), what attention logits are multiplied by; None for 1.

        Returns:
            (batch, n, out_features), in full precision under autocast.
        """
        given = self.place[: x.shape[1]] + self.at_every_place(context)
        h = F.pad(self.input(x[:, :-1]), (0, 0, 1, 0)) + given
        for layer in self.layers:
            h = layer(h, sharpness)
        return self.read(h)

    def at_every_place(self, context: Tensor | None) -> Tensor | float:
        """What the context adds: (batch, 1, width), or 0."""
        if self.given is None or context is None:
            return 0.0
        return self.given(context.to(self.given.weight.dtype))[:, None]

    def read(self, h: Tensor) -> Tensor:
        """The last step: (..., width) to (..., out_features)."""
        h = self.norm(h)
        with full_precision(h):
            return self.output(h.to(self.output.weight.dtype))


def attend(query: Tensor, key: Tensor, value: Tensor, causal: bool = False) -> Tensor:
    """Attention, (batch, heads, places, d) each; in float32 on a CPU even under autocast.

    There its backward pass in bfloat16 takes six times as long (torch 2.13, 49 places).
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad:
        with full_precision(query):
            query, key, value = query.float(), key.float(), value.float()
            seen = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
            return seen.to(torch.bfloat16)
    return F.scaled_dot_product_attention(query, key, value, is_causal=causal)


def heads_apart(together: Tensor, kinds: int, heads: int) -> tuple[Tensor, ...]:
    """(batch, places, kinds * width) to as many (batch, heads, places, width / heads)."""
    apart = together.unflatten(2, (kinds, heads, -1))
    return tuple(part.transpose(1, 2) for part in apart.unbind(2))


def heads_together(seen: Tensor) -> Tensor:
    """(batch, heads, places, width / heads) to (batch, places, width)."""
    return seen.transpose(1, 2).flatten(2)


def fitting_heads(width: int) -> int:
    """The number of heads that divides the channels into parts nearest to 64.

    Example:
        >>> [fitting_heads(width) for width in (48, 64, 96, 128, 192)]
        [1, 1, 2, 2, 3]
    """
    parts = [heads for heads in range(1, width + 1) if width % heads == 0]
    return min(parts, key=lambda heads: abs(width // heads - HEAD))
