"""A model that is one `Flow`: what most models of the literature are.

    z = f(x; c),   log p(x | c) = log p_base(z) + log|det dz/dx|        the flow, given c
    P(c | x) = p(x | c) P(c) / sum_c' p(x | c') P(c')                   a classifier for free

A model's own file builds the flow; what can be asked of it is here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from steadyflow.bijections.bijection import Chain
from steadyflow.flow import Flow
from steadyflow.models.model import GenerativeModel


class FlowModel(GenerativeModel):
    """A generative model that is one `Flow`; a subclass builds `self.flow` in its constructor.

    Example:
        >>> import torch
        >>> from steadyflow import RealNVP
        >>> model = RealNVP(event_shape=(2,))
        >>> model.log_prob(torch.randn(5, 2)).shape, model.sample(3).shape
        (torch.Size([5]), torch.Size([3, 2]))
    """

    flow: Flow

    @property
    def likelihood(self) -> str:
        """'exact' for real-valued data, 'bound' for integers (dequantised)."""
        return self.flow.likelihood

    @property
    def dequantization(self) -> nn.Module | None:
        """What makes integers real, or None for real-valued data."""
        return self.flow.dequantization

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The same as `log_prob`."""
        return self.log_prob(x, context)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-likelihood of x: (batch, *event), shape (batch,) in nats."""
        return self.flow.log_prob(x, self._rows_for(x, context))

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Mean negative log-likelihood in nats per dimension, a scalar."""
        return self.flow.loss(x, self._rows_for(x, context))

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws n examples (n, *event); a context of one row serves all of them."""
        return self.flow.sample(n, self.condition(context, n), temperature, generator)

    def sample_with_log_prob(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws with their log_prob and gradients; see `Flow.sample_with_log_prob`."""
        return self.flow.sample_with_log_prob(
            n, self.condition(context, n), temperature, generator
        )

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The latents of x: (batch, *event)."""
        return self.flow.encode(x, self._rows_for(x, context))

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The data of latents z."""
        return self.flow.decode(z, self._rows_for(z, context))

    @torch.no_grad()
    def predict_proba(self, x: Tensor, prior: Tensor | None = None, draws: int = 1) -> Tensor:
        """The probability of each class by Bayes' rule, P(c | x) ~ p(x | c) P(c).

        A generative model of classes is a classifier for free. All classes see the same
        dequantization noise.

        Args:
            x: (batch, *event).
            prior: (classes,), P(c); all alike without it.
            draws: of the noise, whose likelihoods are averaged.

        Returns:
            (batch, classes).

        Raises:
            ValueError: if the model knows no classes.
        """
        if self.num_classes is None:
            raise ValueError(f"this {type(self).__name__} knows no classes: give num_classes")
        scores = torch.stack([self._class_scores(x, self.num_classes) for _ in range(draws)])
        joint = scores.logsumexp(0)
        return (joint if prior is None else joint + prior.to(joint).log()).softmax(1)

    def _class_scores(self, x: Tensor, classes: int) -> Tensor:
        """Log p(y | c) of one draw y of the noise, for every class: (batch, classes)."""
        y, _ = self.flow._to_real(x)
        scores = []
        for label in torch.arange(classes, device=x.device):
            row = self.condition(label, len(x))
            z, log_det = self.flow.bijection(y, row)
            scores.append(self.flow.base.log_prob(z, row) + log_det)
        return torch.stack(scores, 1)

    def _rows_for(self, x: Tensor, context: Tensor | None) -> Tensor | None:
        """The context of the networks for each example of a batch."""
        if x.dim() == 0:
            raise ValueError(
                f"expected examples of shape (batch, {', '.join(map(str, self.event_shape))}), "
                "got a single number"
            )
        return self.condition(context, x.shape[0])

    def distribution(self, context: Tensor | None = None):
        """The model as a torch.distributions.Distribution, given labels or vectors if it has them.

        Args:
            context: (*batch,) labels or (*batch, features) vectors for a batch of distributions.
        """
        if context is None:
            return self.flow.distribution(self.condition(None, 1))
        event = 0 if self.num_classes is not None else 1
        batch = context.shape[: max(context.dim() - event, 0)]
        flat = context.reshape(-1, *context.shape[len(batch) :])
        rows = self.condition(flat, len(flat))
        return self.flow.distribution(None if rows is None else rows.reshape(*batch, -1))

    def check(self, x: Tensor, context: Tensor | None = None, points: int = 3):
        """Measures whether the density can be trusted; see `Flow.check`."""
        return self.flow.check(x, self._rows_for(x, context), points)

    @torch.no_grad()
    def drift(self) -> float:
        """The largest relative error with which reversible training got back a chain's input.

        0 for a model that stores its activations. It grows with depth and with what the layers
        stretch; beyond a thousandth gradients begin to be those of another point.
        """
        return float(max((chain.drift for chain in self._reversible_chains()), default=0.0))

    def metrics(self) -> dict[str, float | Tensor]:
        """The `drift` of reversible training, for metrics.csv."""
        chains = self._reversible_chains()
        return {"drift": torch.stack([chain.drift for chain in chains]).max()} if chains else {}

    def _reversible_chains(self) -> list[Chain]:
        return [part for part in self.modules() if isinstance(part, Chain) and part.reversible]

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Sets data-dependent parameters (standardisation, activation normalisation)."""
        self.standardize_context(context)
        self.flow.initialize(x, self._rows_for(x, context))
