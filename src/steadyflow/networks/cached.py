"""A causal transformer a few places at a time, with the keys and values of the places before.

    step      the next place of every example                             one query each
    window    some places in a row, for each example its own              few queries each

The cache is filled in place and belongs to one evaluation, never to the network: an evaluation
that is interrupted leaves nothing behind.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from steadyflow.networks.fused_transformer import FusedSteps, serves
from steadyflow.networks.graphed import GraphedSteps, records
from steadyflow.networks.transformer import (
    CausalLayer,
    CausalTransformer,
    heads_apart,
    heads_together,
)

MANY = 32  # pairs of example and head from which two products beat one fused call on a CPU


class CachedEvaluation:
    """What `CausalTransformer.forward` gives, place by place, without gradients.

    Args:
        network: whose parameters are used as they are.
        batch: how many sequences.
        context: (batch, context_features) or None.
        sharpness: (batch,), what attention logits are multiplied by; None for 1.

    Example:
        >>> network = CausalTransformer(3, 2, 1, width=8, layers=1)
        >>> x = torch.randn(4, 3, 2)
        >>> cached = CachedEvaluation(network, 4)
        >>> out = [cached.step(previous) for previous in (None, x[:, 0], x[:, 1])]
        >>> torch.allclose(torch.stack(out, 1), network(x), atol=1e-6)
        True
    """

    def __init__(
        self,
        network: CausalTransformer,
        batch: int,
        context: Tensor | None = None,
        sharpness: Tensor | None = None,
    ):
        self.network, self.batch = network, batch
        self.given = network.at_every_place(context)
        self.sharpness = None
        if sharpness is not None:
            self.sharpness = sharpness.to(network.place.dtype).view(-1, 1, 1, 1)
        self.filled = 0
        self._caches: list[tuple[CausalLayer, Tensor]] | None = None
        self.fused: FusedSteps | None = None
        self.graphed: GraphedSteps | None = None

    def step(self, previous: Tensor | None) -> Tensor:
        """The next place: the vectors at the place before, (batch, in_features), to outputs.

        Args:
            previous: None at the first place.

        Returns:
            (batch, out_features).
        """
        i = self.filled
        self.filled = i + 1
        if i == 0 and serves(self.network):
            self.fused = FusedSteps(self.network, self.batch, self.given, self.sharpness)
        if self.fused is not None:
            return self.fused.step(i, previous)
        if i == 1 and records(self):
            self.graphed = GraphedSteps(self)
        if self.graphed is not None and previous is not None:
            out = self.graphed.step(i, previous)
            if out is not None:
                return out
            self.graphed = None
        h = self.network.place[i] + self.given
        h = h.expand(self.batch, 1, -1)[:, 0]
        if previous is not None:
            h = h + self.network.input(previous)
        for layer, cache in self.caches:
            h = self._layer_step(layer, cache, h, i)
        return self.network.read(h)

    def window(self, previous: Tensor, starts: Tensor) -> Tensor:
        """Some places in a row; keys and values of all places before them must be in the cache.

        Args:
            previous: (batch, n, in_features), the vectors before each of the places; what stands
                before place 0 does not matter.
            starts: (batch,), the first place of each example.

        Returns:
            (batch, n, out_features).
        """
        places = starts[:, None] + torch.arange(previous.shape[1], device=starts.device)
        inside = self.network.input(previous) * (places > 0)[..., None]
        h = inside + self.network.place[places] + self.given
        known = int(places[:, -1].max()) + 1
        visible = torch.arange(known, device=starts.device) <= places[:, None, :, None]
        index = places[:, None, :, None]
        for layer, cache in self.caches:
            h = self._layer_window(layer, cache, h, index, visible)
        return self.network.read(h)

    @property
    def caches(self) -> list[tuple[CausalLayer, Tensor]]:
        """Of each layer: (keys or values, batch, heads, places, channels of a head)."""
        if self._caches is None:
            self._caches = self._empty()
        return self._caches

    def _empty(self) -> list[tuple[CausalLayer, Tensor]]:
        place: Tensor = self.network.place
        layers: list[CausalLayer] = list(self.network.layers)  # type: ignore[arg-type]
        heads, kind, dtype = layers[0].heads, place.device.type, place.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        shape = (2, self.batch, heads, self.network.places, place.shape[1] // heads)
        # zeros, since a masked place still enters the products
        return [(layer, place.new_zeros(shape, dtype=dtype)) for layer in layers]

    def _layer_step(self, layer: CausalLayer, cache: Tensor, h: Tensor, i: int) -> Tensor:
        together = layer.together(layer.norm(h)).unflatten(1, (3, layer.heads, -1))
        cache[:, :, :, i] = together[:, 1:].transpose(0, 1)
        query = together[:, 0, :, None]
        if self.sharpness is not None:
            query = query * self.sharpness
        keys, values = cache[:, :, :, : i + 1].unbind(0)
        h = h + layer.mixed(_look(query, keys, values).flatten(1))
        return h + layer.outer(F.gelu(layer.inner(layer.second_norm(h))))

    def _layer_window(
        self, layer: CausalLayer, cache: Tensor, h: Tensor, index: Tensor, visible: Tensor
    ) -> Tensor:
        query, key, value = heads_apart(layer.together(layer.norm(h)), 3, layer.heads)
        index = index.expand_as(key)
        cache[0].scatter_(2, index, key.to(cache.dtype))
        cache[1].scatter_(2, index, value.to(cache.dtype))
        if self.sharpness is not None:
            query = query * self.sharpness
        keys, values = cache[:, :, :, : visible.shape[-1]].unbind(0)
        seen = F.scaled_dot_product_attention(
            query.to(cache.dtype), keys, values, attn_mask=visible
        )
        h = h + layer.mixed(heads_together(seen))
        return h + layer.outer(F.gelu(layer.inner(layer.second_norm(h))))


def _look(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of one query each: (batch, heads, 1, d) over (batch, heads, n, d)."""
    if query.device.type == "cpu" and query.shape[0] * query.shape[1] >= MANY:
        logits = torch.matmul(query * query.shape[-1] ** -0.5, keys.transpose(-1, -2))
        return torch.matmul(logits.softmax(-1), values)
    return F.scaled_dot_product_attention(query.to(keys.dtype), keys, values)
