"""Diffusion: a model of what noise did to data, read as an ODE from one to the other.

    x_t = a(t) x_0 + s(t) e                                    noise the data
    min E w(t) |v(x_t, t) - (cos phi e - sin phi x_0)|^2       learn the mean of what was added
    du/dphi = v                                                flow back, and give densities

Ho, Jain & Abbeel, "Denoising Diffusion Probabilistic Models" (2020); Song et al., "Score-Based
Generative Modeling through Stochastic Differential Equations" (2021), sec. 4.3; Karras et al.,
"Elucidating the Design Space of Diffusion-Based Generative Models" (2022); Ho & Salimans,
"Classifier-Free Diffusion Guidance" (2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steadyflow.errors import unknown
from steadyflow.models.probability_flow import ProbabilityFlowModel
from steadyflow.paths import LOSSES, make_path

LOG_NOISE = (-1.2, 1.2)  # EDM's mean and deviation of log s in training


class Diffusion(ProbabilityFlowModel):
    """Diffusion on any path, sampled by any solver, with the likelihood of its ODE.

    Args:
        event_shape: (D,) for vectors, (channels, height, width) for images.
        num_classes: number of class labels to condition on; None for none.
        context_features: length of a context vector to condition on; None for none.
        path: 'vp', 'sub-vp', 've', 'edm', 'heat', 'cosine', 'ddpm' or 'straight'; whatever it is,
            the ODE is the same, and what changes is which noise is trained on most.
        objective: the weighting of the loss: 'noise', 'data', 'v', 'edm', 'velocity' or
            'likelihood'. 'edm' also draws log s from EDM's normal.
        network: 'auto', 'mlp' for vectors, 'unet' or 'transformer' for images.
        hidden_features: widths of the hidden layers, for vectors.
        hidden_channels: channels at the finest resolution, for images.
        blocks: residual blocks at each resolution, for images.
        drop_context: share of the training examples that go without their context.
        guidance: how far samples are pushed towards their context; 1 is the model itself.
        sampler: 'dpm++2m', 'dpm++3m', 'ddim', 'edm', 'ancestral', or an ODE method in the angle:
            'euler', 'midpoint', 'heun', 'rk4', 'bosh3', 'dopri5', 'tsit5'.
        steps: of samplers with fixed steps.
        tolerance: of the ODE in likelihoods, encoding and decoding.
        probes: random probes of the divergence, beyond 16 variables.
        bits: bits of each pixel, for images; 0 for real-valued images.
    """

    name = "diffusion"
    replayable = True

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        num_classes: int | None = None,
        context_features: int | None = None,
        path: str = "cosine",
        objective: str = "v",
        network: str = "auto",
        hidden_features: Sequence[int] = (128, 128, 128),
        hidden_channels: int = 32,
        blocks: int = 1,
        drop_context: float = 0.1,
        guidance: float = 1.0,
        sampler: str = "dpm++2m",
        steps: int = 30,
        tolerance: float = 1e-5,
        probes: int = 1,
        bits: int = 8,
    ):
        if objective not in LOSSES:
            raise unknown("objective", objective, LOSSES)
        super().__init__(
            event_shape=event_shape,
            num_classes=num_classes,
            context_features=context_features,
            path=make_path(path),
            network=network,
            hidden_features=hidden_features,
            hidden_channels=hidden_channels,
            blocks=blocks,
            drop_context=drop_context,
            guidance=guidance,
            sampler=sampler,
            steps=steps,
            tolerance=tolerance,
            probes=probes,
            bits=bits,
        )
        self.objective = objective

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The weighted error of v at one random time for each example, a scalar."""
        data = self.normalized(x)
        noise = torch.randn_like(data)
        t = self._times(data)
        return self.matching_loss(data, noise, t, self.condition(context, len(x)), self.objective)

    def _times(self, like: Tensor) -> Tensor:
        shares = self._evenly(like).flatten().double()
        path = self.path
        if self.objective != "edm":
            return path.t_min + (path.t_max - path.t_min) * shares
        mean, std = LOG_NOISE
        ratio = torch.exp(mean + std * torch.special.ndtri(shares.clamp(1e-6, 1 - 1e-6)))
        low, high = path.ratio(path.t_min), path.ratio(path.t_max)
        return path.time(ratio.clamp(low, high)).clamp(path.t_min, path.t_max)
