"""A learned mixture of normals.

    p(z | c) = sum_k pi_k(c) N(z; m_k, diag(s_k)^2)        pi(c) = softmax(a + W c)

Izmailov, Kirichenko, Finzi & Wilson, "Semi-Supervised Learning with Normalizing Flows" (2020), for
one component a class; Stimper et al., "Resampling Base Distributions of Normalizing Flows" (2022),
for why: a continuous map of one bump can not part it without a bridge between the parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from steadyflow.bases.base import Base
from steadyflow.errors import UsageError


class NormalMixture(Base):
    """A mixture of normals with learned weights, means and standard deviations.

    Temperature scales each component about its own mean; the weights stay.

    Draws have gradients in means and standard deviations, but none in the weights, which choose:
    a mixture that is to be fitted through its draws (by reverse KL) needs fixed weights.

    Args:
        event_shape: of one latent.
        components: number of normals.
        context_features: length of the context that the weights depend on (a class, one-hot);
            None for none.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        components: int = 8,
        context_features: int | None = None,
    ):
        super().__init__(event_shape)
        if components < 1:
            raise ValueError(f"a mixture needs at least 1 component, got {components}")
        self.components = components
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(torch.randn(components, *self.event_shape))
        self.log_std = nn.Parameter(torch.zeros(components, *self.event_shape))
        self.context = None
        if context_features:
            self.context = nn.Linear(context_features, components, bias=False)
        self._log_normalizer = 0.5 * math.prod(self.event_shape) * math.log(2 * math.pi)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of z: (batch, *event), shape (batch,)."""
        return (self.log_weights(context) + self._log_components(z)).logsumexp(1)

    def responsibilities(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The probability that z came from each component: (batch, components)."""
        return (self.log_weights(context) + self._log_components(z)).softmax(1)

    def log_weights(self, context: Tensor | None = None) -> Tensor:
        """Log pi: (batch, components), or (1, components) without a context."""
        wide = torch.promote_types(self.logits.dtype, torch.float32)
        logits = self.logits[None].to(wide)
        if self.context is not None and context is not None:
            logits = logits + self.context(context.to(self.logits.dtype)).to(wide)
        return logits.log_softmax(1)

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws z: (n, *event).

        Raises:
            UsageError: where gradients are wanted and the weights are learned.
        """
        log_weights = self.log_weights(context)
        if log_weights.requires_grad and torch.is_grad_enabled():
            raise UsageError(
                "draws of a NormalMixture have no gradient in its weights: fix these "
                "(base.logits.requires_grad_(False)), or draw under torch.no_grad()"
            )
        which = self._choose(n, log_weights, generator)
        noise = self._normal(n, generator) * temperature
        return torch.addcmul(self.mean[which], noise, self.log_std[which].exp())

    def _choose(self, n: int, log_weights: Tensor, generator: torch.Generator | None) -> Tensor:
        """The component of each draw, (n,)."""
        device = self.device if generator is None else generator.device
        u = torch.rand(n, 1, generator=generator, dtype=log_weights.dtype, device=device)
        ends = log_weights.exp().cumsum(1)[:, :-1]
        return (u.to(self.device) >= ends).sum(1)

    def _log_components(self, z: Tensor) -> Tensor:
        wide = torch.promote_types(z.dtype, torch.float32)
        log_std = self.log_std.to(wide).flatten(1)
        eps = (z.flatten(1)[:, None].to(wide) - self.mean.flatten(1)) * torch.exp(-log_std)
        return -0.5 * eps.square().sum(2) - log_std.sum(1) - self._log_normalizer
