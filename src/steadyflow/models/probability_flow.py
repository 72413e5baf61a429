"""What diffusion and flow matching share: a density that an ODE carries to the normal.

    x --(y - m) / w--> data of variance 1 --du/dphi = v(phi, u)--> almost normal latents

One network gives v in the coordinate of `steadyflow.paths`, where all paths are the same ODE; a
model chooses the path, the loss and how data and noise are paired. The density is that of the
ODE's own end, p at the smallest noise of the path; the base matches the moments of the data.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.bijections import (
    Bijection,
    Chain,
    ContinuousFlow,
    Standardization,
    UniformDequantization,
)
from steadyflow.errors import unknown
from steadyflow.flow import Flow, check_temperature
from steadyflow.models.endpoints import MatchedNormal, Normalization, Shrinking
from steadyflow.models.estimate import LikelihoodEstimate, estimate_likelihood
from steadyflow.models.flow_model import FlowModel
from steadyflow.models.ode_sampling import check_sampler, discretized, follow
from steadyflow.networks import DiffusionTransformer, UNet, VectorField
from steadyflow.paths import Path, Turn, rows
from steadyflow.solvers.divergence import EXACT_UP_TO

NETWORKS = ("auto", "mlp", "unet", "transformer")


class ProbabilityFlowModel(FlowModel):
    """A flow along a learned probability-flow ODE; a subclass defines `loss` by its path.

    Takes the shared constructor arguments of `Diffusion` and `FlowMatching`, and the path.
    """

    loss_in_nats = False  # but an error of the network

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        num_classes: int | None,
        context_features: int | None,
        path: Path,
        network: str,
        hidden_features: Sequence[int],
        hidden_channels: int,
        blocks: int,
        drop_context: float,
        guidance: float,
        sampler: str,
        steps: int,
        tolerance: float,
        probes: int,
        bits: int,
    ):
        super().__init__(
            event_shape=event_shape, num_classes=num_classes, context_features=context_features
        )
        check_sampler(sampler)
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if not 0 <= drop_context < 1:
            raise ValueError(f"drop_context must be from 0 to below 1, got {drop_context}")
        if not tolerance > 0:
            raise ValueError(f"tolerance must be above 0, got {tolerance}")
        self.path, self.sampler, self.steps = path, sampler, steps
        self.drop_context, self.guidance = drop_context, guidance
        image = len(self.event_shape) == 3
        field = self._build(network, hidden_features, hidden_channels, blocks)
        low, high = float(path.angle(path.t_min)), float(path.angle(path.t_max))
        normalization = Normalization() if image else Standardization(self.event_shape)
        exact = self.dimensions <= EXACT_UP_TO
        ode = ContinuousFlow(
            field,
            t0=low,
            t1=high,
            rtol=tolerance,
            atol=tolerance,
            divergence="exact" if exact else "hutchinson",
            probes=probes,
        )
        self.flow = Flow(
            Chain(normalization, Shrinking(math.cos(low)), ode),
            self.event_shape,
            base=MatchedNormal(self.event_shape, high),
            dequantization=UniformDequantization(bits) if image and bits else None,
        )

    # views of the flow's parts, found once; registered twice, weights would be saved twice

    @functools.cached_property
    def normalization(self) -> Standardization | Normalization:
        """What gives the data mean 0 and variance 1."""
        return self.flow.bijection[0]  # type: ignore[index]

    @functools.cached_property
    def shrinking(self) -> Bijection:
        """From data with the path's smallest noise to unit variance."""
        return self.flow.bijection[1]  # type: ignore[index]

    @functools.cached_property
    def ode(self) -> ContinuousFlow:
        """The ODE, in the angle."""
        return self.flow.bijection[2]  # type: ignore[index]

    @property
    def network(self) -> nn.Module:
        """What predicts v(phi, u, context)."""
        return self.ode.field  # type: ignore[return-value]

    @property
    def likelihood(self) -> str:
        """An estimate: the ODE is solved to a tolerance, its divergence perhaps by probes."""
        return "estimate"

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Takes the mean and standard deviation of the data, and the moments of the base."""
        self.condition(context, len(x))
        y, _ = self.flow._to_real(x)
        if not torch.isfinite(y).all():
            raise ValueError("the data hold NaN or infinite values: remove or fill them first")
        self.normalization.initialize(y)
        self.flow.base.match(self.normalization(y)[0])  # type: ignore[operator]

    def matching_loss(
        self, data: Tensor, noise: Tensor, t: Tensor, context: Tensor | None, loss: str
    ) -> Tensor:
        """The weighted error of v between normalised data and noise at times t, a scalar.

        Args:
            data: (batch, *event), normalised.
            noise: like the data.
            t: (batch,) times of the path, float64.
            context: (batch, features) or None; dropped for some when training.
            loss: whose weighting, see `Path.weight`.
        """
        turn = self.path.turn(t)
        weight = rows(self.path.weigh(loss, t, turn).sqrt(), data)
        return self.turn_loss(data, noise, Turn(*(rows(c, data) for c in turn)), context, weight)

    def turn_loss(
        self,
        data: Tensor,
        noise: Tensor,
        turn: Turn,
        context: Tensor | None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """The mean of |weight (v - (cos noise - sin data))|^2 at u = cos data + sin noise.

        Args:
            data: (batch, *event), normalised.
            noise: like the data.
            turn: the angle with its cosine and sine, each (batch, 1, ...) with the data's axes.
            context: (batch, features) or None; dropped for some when training.
            weight: of the error, shaped as the angle; 1 without it.
        """
        angle, cos, sin = turn
        u = torch.addcmul(cos * data, sin, noise)
        target = torch.addcmul(cos * noise, sin, data, value=-1)
        v = self.network(angle.flatten(), u, self._dropped(context))
        if weight is not None:
            v, target = weight * v, weight * target
        return F.mse_loss(v, target)

    def normalized(self, x: Tensor) -> Tensor:
        """Data as the network sees them: real (integers with noise) and of variance 1."""
        part = self.normalization
        return (self.flow._to_real(x)[0] - part.mean) / part.std

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Draws n examples (n, *event).

        Args:
            n: how many.
            context: labels or vectors; one row serves all.
            temperature: scales the noise that is begun with.
            generator: the source of randomness; torch's global one without it.
            sampler: the model's own without it.
            steps: of samplers with fixed steps; the model's own number without it.
            guidance: how far towards the context; the model's own without it.
        """
        with torch.no_grad():
            rows_ = self.condition(context, n)
            z = self.flow.base.sample(n, rows_, check_temperature(temperature), generator)
            if n == 0:
                return self.decode(z, context)
            u = follow(
                self,
                z,
                rows_,
                sampler=sampler,
                steps=steps,
                guidance=guidance,
                generator=generator,
            )
            y = self.normalization.inverse(u)[0]
            made = self.flow.dequantization
            return y if made is None else made.inverse(y)

    def estimate_likelihood(
        self, x: Tensor, context: Tensor | None = None, probes: int = 4
    ) -> LikelihoodEstimate:
        """The log-likelihood with what is known of its errors; print it."""
        return estimate_likelihood(self, x, self.condition(context, len(x)), probes)

    def discrete(self, steps: int) -> Flow:
        """The DDIM sampler of so many steps as a flow of its own, with the density of its draws.

        It ends at the smallest noise of the path (or of the samplers, 0.002). Its log_prob raises
        where a step can not be inverted; see `steadyflow.bijections.discrete_ode`.
        """
        return discretized(self, steps)

    def guided(self, angle: Tensor, u: Tensor, context: Tensor | None, guidance: float) -> Tensor:
        """The field v without context, pushed `guidance` times the way to v with it."""
        own = next(self.network.parameters()).dtype
        given = self.network(angle, u.to(own), context)
        if context is None or guidance == 1.0:
            return given.to(u.dtype)
        free = self.network(angle, u.to(own), torch.zeros_like(context))
        return (free + guidance * (given - free)).to(u.dtype)

    def _dropped(self, context: Tensor | None) -> Tensor | None:
        """In training, some examples go without their context: that is what guidance needs."""
        if context is None or not self.training or not self.drop_context:
            return context
        keep = torch.rand(len(context), 1, device=context.device) >= self.drop_context
        return context * keep.to(context.dtype)

    def _evenly(self, like: Tensor, end: float = 1.0) -> Tensor:
        """One draw in each n-th part of (0, end), (n, 1, ...): uniform, spread over the batch."""
        n, wide = len(like), torch.promote_types(like.dtype, torch.float32)
        options: Any = {"device": like.device, "dtype": wide}
        parts = torch.linspace(0.0, end * (n - 1) / max(n, 1), n, **options)
        drawn = torch.add(parts, torch.rand(n, **options), alpha=end / max(n, 1))
        return drawn.view(-1, *(1,) * (like.dim() - 1))

    def _build(
        self, network: str, hidden_features: Sequence[int], hidden_channels: int, blocks: int
    ) -> nn.Module:
        image = len(self.event_shape) == 3
        if network not in NETWORKS:
            raise unknown("network", network, NETWORKS)
        if network == "auto":
            network = "unet" if image else "mlp"
        if image != (network != "mlp"):
            kind = "images" if image else "vectors"
            raise ValueError(f"network '{network}' is not for {kind}: leave it at 'auto'")
        context = self.num_classes or self.context_features
        if network == "mlp":
            return VectorField(self.dimensions, hidden_features, context)
        if network == "unet":
            return UNet(self.event_shape, hidden_channels, blocks=blocks, context_features=context)
        return DiffusionTransformer(
            self.event_shape, 4 * hidden_channels, 3 * blocks, context_features=context
        )
