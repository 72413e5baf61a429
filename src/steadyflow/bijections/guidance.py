"""Guidance: drawing from a sharper distribution than the model's own.

    linear      s = s_c + w (s_c - s_u),   b = b_c + w (b_c - b_u)
    variance    r = min(1, sigma_c^2 / sigma_u^2),  d = 1 + w - w r
                b = ((1 + w) b_c - w r b_u) / d,    sigma = sigma_c / sqrt(d)

c is the model given the class, u the model without it, or with its attention at another
temperature, which guides models without classes. The second rule is the product
N(b_c, sigma_c)^(1 + w) N(b_u, sigma_u)^-w, whose variance stays positive for every w >= 0.

Zhai et al., "Normalizing Flows are Capable Generative Models" (2024), sec. 2.6, for the linear
rule; Gu et al., "STARFlow" (2025), eq. 9, for the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steadyflow.errors import unknown

RULES = ("linear", "variance")


@dataclass(frozen=True)
class Guidance:
    """How far, by which rule, and away from what.

    Args:
        weight: w above; larger than 0.
        rule: 'linear' or 'variance'.
        attention_temperature: of the evaluation that is guided away from; logits are divided by
            it.
    """

    weight: float
    rule: str = "linear"
    attention_temperature: float = 1.0

    def __post_init__(self):
        check_weight(self.weight)
        if self.rule not in RULES:
            raise unknown("rule of guidance", self.rule, RULES)
        t = self.attention_temperature
        if not (t > 0 and math.isfinite(t)):
            raise ValueError(f"attention_temperature must be a number above 0, got {t}")

    def doubled(
        self, context: Tensor | None, batch: int, like: Tensor
    ) -> tuple[Tensor | None, Tensor | None, int]:
        """Context and attention's sharpness of both evaluations in one batch, and its size."""
        if context is not None:
            context = torch.cat((context, torch.zeros_like(context)))
        if self.attention_temperature == 1:
            return context, None, 2 * batch
        own, other = like.new_ones(batch), like.new_full((batch,), 1 / self.attention_temperature)
        return context, torch.cat((own, other)), 2 * batch

    def combine(self, s: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """The log-scales and shifts of both evaluations, (2 batch, ...), to the guided ones."""
        (s_c, s_u), (b_c, b_u), w = s.chunk(2), b.chunk(2), self.weight
        if self.rule == "linear":
            return s_c + w * (s_c - s_u), b_c + w * (b_c - b_u)
        r = torch.exp(2 * (s_c - s_u)).clamp(max=1)
        d = 1 + w - w * r
        return s_c - 0.5 * d.log(), ((1 + w) * b_c - w * r * b_u) / d


def check_weight(weight: float) -> float:
    """The weight itself, if it is one."""
    if not (weight >= 0 and math.isfinite(weight)):
        raise ValueError(f"guidance must be a number of at least 0, got {weight}")
    return float(weight)
