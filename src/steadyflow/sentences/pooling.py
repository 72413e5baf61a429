"""From the hidden states of an encoder to one vector a sentence, by name.

    mean           mean over the tokens of the last layer
    cls            the first token of the last layer
    first-last     mean over the tokens of (first layer + last layer) / 2
    layers:2,3     the same of any layers: 0 the token embeddings, 1 the first layer, -1 the last

'first-last' is what BERT-flow's released code averages (its option says the last two layers), and
what is reported under that name since. Li et al. (2020); Su et al., "Whitening Sentence
Representations" (2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from steadyflow.errors import UsageError, unknown

NAMES = ("mean", "cls", "first-last", "layers:2,3")


@dataclass(frozen=True)
class Pooling:
    """Which hidden states, and which tokens of them.

    Attributes:
        name: as it was asked for.
        layers: positions among the hidden states, averaged.
        first_token: take the first token and not the mean over all of them.
    """

    name: str
    layers: tuple[int, ...]
    first_token: bool = False

    @classmethod
    def named(cls, name: str) -> Pooling:
        """The pooling of a name.

        Raises:
            UsageError: for an unknown name, or layers that are no whole numbers.

        Example:
            >>> Pooling.named("layers:2,3").layers
            (2, 3)
        """
        known = {"mean": (-1,), "cls": (-1,), "first-last": (1, -1)}
        if name in known:
            return cls(name, known[name], name == "cls")
        kind, _, listed = name.partition(":")
        if kind != "layers":
            raise unknown("pooling", name, NAMES)
        try:
            return cls(name, tuple(int(layer) for layer in listed.split(",")))
        except ValueError:
            raise UsageError(
                f"pooling '{name}' was given: layers are whole numbers, such as layers:2,3"
            ) from None

    def __call__(self, states: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Pools.

        Args:
            states: the token embeddings and the output of each layer, (batch, tokens, d) each.
            mask: (batch, tokens), 1 for tokens and 0 for padding.

        Returns:
            (batch, d).

        Raises:
            UsageError: for a layer that the encoder does not have.
        """
        wrong = [layer for layer in self.layers if not -len(states) <= layer < len(states)]
        if wrong:
            raise UsageError(
                f"pooling '{self.name}' asks for layer {wrong[0]}, but the encoder has layers 1 "
                f"to {len(states) - 1} (0 is the token embeddings)"
            )
        mean = sum(states[layer] for layer in self.layers) / len(self.layers)
        if self.first_token:
            # with padding on the left the first token is not at position 0
            first = mask.argmax(1)
            return mean[range(len(mask)), first]  # type: ignore[index]
        weight = mask[:, :, None].to(mean.dtype)  # type: ignore[union-attr]
        return (mean * weight).sum(1) / weight.sum(1)
