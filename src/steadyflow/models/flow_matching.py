"""Flow matching: the velocity of the straight lines between data and noise.

    x_t = (1 - t) x_0 + t e,   min E |velocity(x_t, t) - (e - x_0)|^2

With tan(phi) = t / (1 - t) the velocity's error is (cos phi + sin phi) that of v, and dt is
dphi / (cos phi + sin phi)^2: the loss over uniform t is pi/2 that of v over a uniform angle, where
no example weighs more than another.

Data and noise are paired at random, or by optimal transport within the batch, which straightens
the flow. A trained model can be rectified: its own pairs (noise, sample) are joined by straight
lines again; or distilled: a student goes from noise to sample in one step.

Lipman et al., "Flow Matching for Generative Modeling" (2023); Liu, Gong & Liu, "Flow Straight and
Fast: Learning to Generate and Transfer Data with Rectified Flow" (2023); Tong et al. (2024).
(Their time runs from noise to data; here t = 0 is the data, as everywhere in this package.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steadyflow.errors import unknown
from steadyflow.models.model import GenerativeModel
from steadyflow.models.ode_sampling import follow
from steadyflow.models.probability_flow import ProbabilityFlowModel
from steadyflow.pairing import BLOCK, optimal_pairing
from steadyflow.paths import Turn, make_path

OBJECTIVES = ("match", "reflow", "distill")
PAIRINGS = ("independent", "optimal")
TEACHER_BATCH = 500


class FlowMatching(ProbabilityFlowModel):
    """Flow matching on the straight path, with optional minibatch transport and few-step training.

    Args:
        event_shape: (D,) for vectors, (channels, height, width) for images.
        num_classes: number of class labels to condition on; None for none.
        context_features: length of a context vector to condition on; None for none.
        pairing: 'optimal' (one to one, in blocks of 64, within each class) or 'independent'.
        objective: 'match' (learn from data), 'reflow' (learn the straight lines between a
            teacher's noise and its samples) or 'distill' (learn its samples in one step).
        teacher: folder of the trained model that 'reflow' and 'distill' learn from.
        pairs: how many noises and samples of the teacher to learn from.
        network: 'auto', 'mlp' for vectors, 'unet' or 'transformer' for images.
        hidden_features: widths of the hidden layers, for vectors.
        hidden_channels: channels at the finest resolution, for images.
        blocks: residual blocks at each resolution, for images.
        drop_context: share of the training examples that go without their context.
        guidance: how far samples are pushed towards their context; 1 is the model itself.
        sampler: an ODE method: 'heun', 'euler', 'midpoint', 'rk4', 'bosh3', 'dopri5', 'tsit5'; or
            a sampler of diffusion: 'dpm++2m', 'dpm++3m', 'ddim', 'edm', 'ancestral'.
        steps: of samplers with fixed steps.
        tolerance: of the ODE in likelihoods, encoding and decoding.
        probes: random probes of the divergence, beyond 16 variables.
        bits: bits of each pixel, for images; 0 for real-valued images.
    """

    name = "flow-matching"

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        num_classes: int | None = None,
        context_features: int | None = None,
        pairing: str = "optimal",
        objective: str = "match",
        teacher: str | None = None,
        pairs: int = 10_000,
        network: str = "auto",
        hidden_features: Sequence[int] = (128, 128, 128),
        hidden_channels: int = 32,
        blocks: int = 1,
        drop_context: float = 0.1,
        guidance: float = 1.0,
        sampler: str = "heun",
        steps: int = 25,
        tolerance: float = 1e-5,
        probes: int = 1,
        bits: int = 8,
    ):
        if objective not in OBJECTIVES:
            raise unknown("objective", objective, OBJECTIVES)
        if pairing not in PAIRINGS:
            raise unknown("pairing", pairing, PAIRINGS)
        if pairs < 1:
            raise ValueError(f"pairs must be at least 1, got {pairs}")
        if objective != "match" and context_features is not None:
            raise ValueError(f"'{objective}' draws classes for its pairs, not context vectors")
        super().__init__(
            event_shape=event_shape,
            num_classes=num_classes,
            context_features=context_features,
            path=make_path("straight"),
            network=network,
            hidden_features=hidden_features,
            hidden_channels=hidden_channels,
            blocks=blocks,
            drop_context=drop_context if objective == "match" else 0.0,
            guidance=guidance,
            sampler="euler" if objective == "distill" else sampler,
            steps=1 if objective == "distill" else steps,
            tolerance=tolerance,
            probes=probes,
            bits=bits,
        )
        # vectors of context are hardly ever equal: paired noise would not be normal given one
        self.pairing = "independent" if context_features is not None else pairing
        self.objective, self.teacher, self.pairs = objective, teacher, pairs
        self._pool: tuple[Tensor, Tensor, Tensor | None] | None = None

    @property
    def replayable(self) -> bool:  # type: ignore[override]
        """Whether a GPU may replay a step; pairing and teachers decide their steps by the data."""
        return self.objective == "match" and self.pairing != "optimal"

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The error of v at one random angle each, a scalar: 2/pi of the velocity's error."""
        n = len(x)
        if self.objective == "match":
            data, labels = self.normalized(x), context
            noise = torch.randn_like(data)
            if self.pairing == "optimal" and n:
                noise = noise[optimal_pairing(data, noise, context, BLOCK)]
        else:
            data, noise, labels = self._pairs(n)
        rows = self.condition(labels, n)
        if self.objective == "distill":
            angle = torch.tensor(math.pi / 2, dtype=torch.float64)
            return (-self.network(angle, noise, rows) - data).square().mean()
        angle = self._evenly(data, math.pi / 2)
        return self.turn_loss(data, noise, Turn(angle, angle.cos(), angle.sin()), rows)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Takes the moments of the data; a student begins as its teacher."""
        super().initialize(x, context)
        if self.objective == "match":
            return
        teacher = self._teacher()
        self.normalization.load_state_dict(teacher.normalization.state_dict())
        self.flow.base.load_state_dict(teacher.flow.base.state_dict())
        own, theirs = self.network.state_dict(), teacher.network.state_dict()
        if {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in theirs.items()}:
            self.network.load_state_dict(theirs)

    @torch.no_grad()
    def _pairs(self, n: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Some noises of the teacher's with the samples that they become."""
        if self._pool is None:
            self._pool = self._draw_pool()
        like = next(self.network.parameters())
        data, noise, labels = self._pool
        some = torch.randint(len(data), (n,))
        x, e = (part[some].to(like.device, like.dtype) for part in (data, noise))
        return x, e, None if labels is None else labels[some].to(like.device)

    def _draw_pool(self) -> tuple[Tensor, Tensor, Tensor | None]:
        teacher = self._teacher()
        generator = torch.Generator().manual_seed(0)
        labels = None
        if self.num_classes is not None:
            labels = torch.randint(self.num_classes, (self.pairs,), generator=generator)
        parts = []
        for start in range(0, self.pairs, TEACHER_BATCH):
            stop = min(start + TEACHER_BATCH, self.pairs)
            given = None if labels is None else labels[start:stop]
            z = teacher.flow.base.sample(stop - start, generator=generator)
            rows = teacher.condition(given, stop - start)
            x = follow(teacher, z, rows, guidance=self.guidance, generator=generator)
            parts.append((x, z))
        data, noise = (torch.cat(part) for part in zip(*parts, strict=True))
        return data, noise, labels

    def _teacher(self) -> ProbabilityFlowModel:
        if self.teacher is None:
            raise ValueError(
                f"objective='{self.objective}' learns from a trained model: give its folder, "
                "teacher=RUN/model"
            )
        teacher = GenerativeModel.from_pretrained(self.teacher)
        if not isinstance(teacher, ProbabilityFlowModel):
            raise ValueError(
                f"{self.teacher} holds a {type(teacher).__name__}: a teacher is a Diffusion or a "
                "FlowMatching"
            )
        if (teacher.event_shape, teacher.num_classes) != (self.event_shape, self.num_classes):
            raise ValueError(
                f"{self.teacher} is for examples of shape {teacher.event_shape} and "
                f"{teacher.num_classes} classes, this model for {self.event_shape} and "
                f"{self.num_classes}"
            )
        return teacher.requires_grad_(False)
