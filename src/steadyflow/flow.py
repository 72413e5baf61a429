"""A flow: a bijection and a base distribution, together a distribution over data.

    log p(x) = log p_base(f(x)) + log|det df/dx|            x = f^-1(z),  z ~ p_base

Rezende & Mohamed, "Variational Inference with Normalizing Flows" (2015), eq. 5.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from steadyflow.bases import Base, StandardNormal
from steadyflow.bijections.bijection import Bijection
from steadyflow.bijections.columns import Columns
from steadyflow.bijections.dequantization import GaussianNoise, UniformDequantization
from steadyflow.bijections.variational import VariationalDequantization
from steadyflow.checking import CheckReport, check_flow
from steadyflow.distribution import FlowDistribution, make

Dequantization = UniformDequantization | VariationalDequantization | GaussianNoise | Columns


class Flow(nn.Module):
    """A distribution over data x of shape (batch, *event_shape).

    Args:
        bijection: the map f from data to latent.
        event_shape: shape of one example.
        base: the distribution of z; a standard normal of the right shape without one.
        dequantization: for integer data and tables, what makes it real before f. Where it adds
            noise, log_prob is a lower bound on the log-probability of the integers. Samples are
            integers again.

    Example:
        >>> import torch
        >>> from steadyflow.bijections import Scaling
        >>> flow = Flow(Scaling((2,)), event_shape=(2,))
        >>> flow.log_prob(torch.zeros(3, 2))
        tensor([-1.8379, -1.8379, -1.8379], grad_fn=<AddBackward0>)
        >>> flow.sample(5).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        bijection: Bijection,
        event_shape: tuple[int, ...],
        base: Base | None = None,
        dequantization: Dequantization | None = None,
    ):
        super().__init__()
        self.event_shape = tuple(event_shape)
        real = self.event_shape
        if isinstance(dequantization, Columns):
            real = dequantization.output_shape(real)
        latent_shape = bijection.output_shape(real)
        if base is not None and base.event_shape != latent_shape:
            raise ValueError(
                f"the bijection gives latents of shape {latent_shape}, "
                f"but the base has shape {base.event_shape}"
            )
        self.bijection = bijection
        self.base = StandardNormal(latent_shape) if base is None else base
        self.dequantization = dequantization

    @property
    def likelihood(self) -> str:
        """What `log_prob` is: 'exact', 'bound' (dequantised integers) or 'estimate'."""
        if not self.bijection.exact_log_det:
            return "estimate"
        noise = self.dequantization is not None and not self.dequantization.exact
        return "bound" if noise else "exact"

    @property
    def dimensions(self) -> int:
        """The number of variables of one example."""
        return math.prod(self.event_shape)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The same as `log_prob`, so that DDP, torch.compile and torch.export apply to it."""
        return self.log_prob(x, context)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of data, or a bound on the log-probability of integers.

        Args:
            x: (batch, *event).
            context: (batch, features) or None.

        Returns:
            (batch,) in nats.

        Raises:
            ValueError: if x has another shape, with both shapes.
        """
        z, log_det = self._to_latent(x, context)
        return self.base.log_prob(z, context) + log_det

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Mean negative log-likelihood in nats per dimension, a scalar."""
        return -self.log_prob(x, context).mean() / self.dimensions

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The latents of data: (batch, *event) to (batch, *latent event)."""
        y, _ = self._to_real(x)
        return self.bijection.to_latent(y, rows(context, y.shape[0]))

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The data of latents; integers if the flow dequantises."""
        if z.shape[1:] != self.base.event_shape:
            raise ValueError(
                f"expected latents of shape {_batch(self.base.event_shape)}, got {tuple(z.shape)}"
            )
        y = self.bijection.to_data(self._in_own_precision(z), rows(context, z.shape[0]))
        return y if self.dequantization is None else self.dequantization.inverse(y)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws n examples, without gradients.

        Args:
            n: how many.
            context: (n, features), or (features,) or (1, features) for all of them.
            temperature: scales the latents; below 1 draws are more typical and less varied.
            generator: the source of randomness; torch's global one without it.

        Returns:
            (n, *event).
        """
        context = rows(context, n)
        z = self.base.sample(n, context, check_temperature(temperature), generator)
        return self.decode(z, context)

    def sample_with_log_prob(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws n examples together with their log_prob, in one pass and with gradients.

        Both are differentiable in the parameters (the reparametrised draw of variational
        inference). log_prob is the flow's own density (temperature 1) at the draws, and for a
        dequantising flow the density of the real-valued draw y in [0, 1).

        Returns:
            x: (n, *event), real-valued, and log_prob: (n,) in nats.
        """
        context = rows(context, n)
        z = self.base.sample(n, context, check_temperature(temperature), generator)
        x, log_det = self.bijection.inverse(z, context)
        if isinstance(self.dequantization, Columns):
            x = self.dequantization.restore(x)
        return x, self.base.log_prob(z, context) - log_det

    def distribution(
        self, context: Tensor | None = None, validate_args: bool | None = None
    ) -> FlowDistribution:
        """The flow as a torch.distributions.Distribution, given a context if there is one.

        Args:
            context: (*batch, features) for a batch of distributions, or None.
            validate_args: check the values given to log_prob; torch's own setting without it.
        """
        return make(self, context, validate_args)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Sets the data-dependent parameters from a batch x: (batch, *event); call it once.

        Raises:
            ValueError: if x holds NaN or infinite values, from which nothing can be learned.
        """
        y, _ = self._to_real(x)
        if not torch.isfinite(y).all():
            raise ValueError("the data hold NaN or infinite values: remove or fill them first")
        self.bijection.initialize(y, rows(context, y.shape[0]))

    def check(self, x: Tensor, context: Tensor | None = None, points: int = 3) -> CheckReport:
        """Measures on real data whether the density can be trusted.

        Args:
            x: (batch, *event), some data.
            context: (batch, features) or None.
            points: on how many of them the log-determinant is compared with autograd.

        Returns:
            a report with round-trip errors, the log-determinant's error and, for two-dimensional
            data, the integral of the density; print it.
        """
        with torch.no_grad():
            y, _ = self._to_real(x)
        return check_flow(self, y, rows(context, y.shape[0]), points)

    def _to_real(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        if x.shape[1:] != self.event_shape:
            raise ValueError(
                f"expected examples of shape {_batch(self.event_shape)}, got {tuple(x.shape)}"
            )
        own = self.base.dtype
        if self.dequantization is not None and not isinstance(self.dequantization, Columns):
            y, change = self.dequantization(x)
            return y.to(torch.promote_types(y.dtype, own)), change
        x = self._in_own_precision(x)
        return (x, 0.0) if self.dequantization is None else self.dequantization(x)

    def _in_own_precision(self, x: Tensor) -> Tensor:
        own = self.base.dtype
        if not x.is_floating_point():
            raise TypeError(
                f"expected real numbers (a float tensor), got {x.dtype}: use x.float()"
            )
        if x.dtype == torch.float64 != own:
            raise TypeError(
                f"the data are float64 but the flow is {str(own).removeprefix('torch.')}: "
                "use x.float(), or flow.double()"
            )
        return x.to(torch.promote_types(x.dtype, own))

    def _to_latent(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        y, change = self._to_real(x)
        z, log_det = self.bijection(y, rows(context, y.shape[0]))
        return z, log_det if self.dequantization is None else log_det + change


def rows(context: Tensor | None, n: int) -> Tensor | None:
    """One row of context for each of n examples; a single row serves all of them."""
    if context is None:
        return None
    if context.dim() == 1:
        context = context[None]
    if context.dim() != 2:
        raise ValueError(
            f"expected a context of shape ({n}, features), got {tuple(context.shape)}"
        )
    if context.shape[0] == n:
        return context
    if context.shape[0] == 1:
        return context.expand(n, -1)
    raise ValueError(
        f"{n} examples need {n} rows of context or one for all, got {context.shape[0]}"
    )


def _batch(event_shape: tuple[int, ...]) -> str:
    return f"(batch, {', '.join(map(str, event_shape))})"


def check_temperature(temperature: float) -> float:
    """The temperature itself, if it is one."""
    if not temperature >= 0 or math.isinf(temperature):
        raise ValueError(f"temperature must be a finite number >= 0, got {temperature}")
    return float(temperature)
