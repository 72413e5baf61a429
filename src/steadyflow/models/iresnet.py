"""Invertible residual networks and residual flows.

    z = F_n o ... o F_1 (x),   F_i(x) = x + g_i(x),   |g_i(x) - g_i(y)| <= L |x - y|,  L < 1
    log p(x) = log p_base(z) + sum_i log det(I + J_{g_i})
    classifier    softmax(head(F(x)))                                 the same network
    hybrid        -log p(x) / D + weight * cross-entropy              both at once

Any residual network becomes invertible when its blocks contract; activation normalisation between
them takes care of scales. Images are squeezed between scales, and the last blocks are matrices.

Behrmann et al., "Invertible Residual Networks" (2019); Chen et al., "Residual Flows for Invertible
Generative Modeling" (2019). What differs: bounds on the true operators that hold after every step,
a series of finite variance, log-determinants of matrices exactly, a learned diagonal prior.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.bijections import Bijection
from steadyflow.bijections.residual import LOG_DETS
from steadyflow.errors import unknown
from steadyflow.models.flow_model import FlowModel
from steadyflow.models.residual_flow import ResidualBlocks, image_flow, vector_flow
from steadyflow.networks.lipschitz import check_lipschitz

TASKS = ("density", "classifier", "hybrid")
BLOCKS = {"vector": 16, "image": 4}
ROUNDS = 100  # in which a hybrid model tries to draw every class that was asked for


class IResNet(FlowModel):
    """Residual flow for densities, for classification, or for both at once.

    Log-determinants are exact for vectors and estimated for images; evaluation never uses the
    truncated series. As a classifier or hybrid the labels are not an input of the flow: the head
    predicts them from its features.

    Args:
        event_shape: (D,) for vectors, (channels, height, width) for images.
        num_classes: number of class labels, to condition on or to predict; None for none.
        context_features: length of a context vector to condition on; None for none.
        task: 'density', 'classifier' or 'hybrid'.
        blocks: residual blocks, at each scale of images; None for 16 (vectors) or 4 (images).
        hidden_features: widths inside the blocks of matrices.
        scales: number of scales, for images; None for as many as lead to 8 x 8 pixels or less.
        hidden_channels: channels inside the blocks of convolutions.
        dense_blocks: residual blocks of matrices after the last scale, for images.
        factor_out: half of the channels become latent after each scale but the last.
        padding: channels of zeros added to the image before everything, for a classifier.
        coefficient: the largest norm of each layer, below 1.
        activation: 'lipswish', 'clipswish', 'elu' or 'tanh'; None for 'clipswish' (vectors, where
            it learns faster) or 'lipswish' (images).
        norm: '2', '1' or 'inf', in which the blocks contract.
        log_det: how blocks of convolutions are trained: 'roulette' (unbiased), 'truncated'
            (biased) or 'exact' (a dense Jacobian, for tiny images). Evaluation is unbiased or
            exact.
        terms: terms of the series that are always summed in training.
        evaluation_terms: the same in evaluation.
        tolerance: on the error of each block's inverse; None for a few roundings.
        inverse: 'anderson' or 'plain' fixed-point iteration.
        class_weight: weight of the cross-entropy (nats) beside nats per dimension, of a hybrid.
        alpha: margin of the logit, for images of integer pixels (1e-6 suits MNIST); 0 for none.
        bits: bits of each pixel, for images; 0 for real-valued images.
    """

    name = "iresnet"

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        num_classes: int | None = None,
        context_features: int | None = None,
        task: str = "density",
        blocks: int | None = None,
        hidden_features: Sequence[int] = (128, 128),
        scales: int | None = None,
        hidden_channels: int = 64,
        dense_blocks: int = 2,
        factor_out: bool = False,
        padding: int = 0,
        coefficient: float = 0.98,
        activation: str | None = None,
        norm: str = "2",
        log_det: str = "roulette",
        terms: int = 2,
        evaluation_terms: int = 4,
        tolerance: float | None = None,
        inverse: str = "anderson",
        class_weight: float = 1.0,
        alpha: float = 0.05,
        bits: int = 8,
    ):
        super().__init__(
            event_shape=event_shape, num_classes=num_classes, context_features=context_features
        )
        image = len(self.event_shape) == 3
        _check(task, num_classes, context_features, padding, image, log_det, class_weight)
        if not 0 < coefficient < 1:
            raise ValueError(
                f"coefficient must be above 0 and below 1 for invertible blocks, got {coefficient}"
            )
        self.task, self.class_weight = task, class_weight
        self._evaluation_terms = evaluation_terms
        self._widths, self._channels = tuple(hidden_features), hidden_channels
        make = ResidualBlocks(
            context=None if task != "density" else num_classes or context_features,
            hidden_features=self._widths,
            hidden_channels=hidden_channels,
            coefficient=coefficient,
            activation=activation or ("lipswish" if image else "clipswish"),
            norm=norm,
            log_det=log_det,
            terms=terms,
            evaluation_terms=evaluation_terms,
            tolerance=tolerance,
            inverse=inverse,
        )
        count = BLOCKS["image" if image else "vector"] if blocks is None else blocks
        if image:
            self.flow = image_flow(
                self.event_shape,
                make,
                blocks=count,
                scales=scales,
                dense_blocks=dense_blocks,
                factor_out=factor_out,
                padding=padding,
                alpha=alpha,
                bits=bits,
            )
        else:
            self.flow = vector_flow(self.event_shape, make, count)
        self.head = self._head() if task != "density" else None
        self._metrics: dict[str, Tensor] = {}

    @property
    def likelihood(self) -> str:
        """'none' for a classifier, otherwise that of the flow."""
        return "none" if self.task == "classifier" else self.flow.likelihood

    @property
    def can_sample(self) -> bool:
        """Whether there is a distribution to draw from: not for a classifier."""
        return self.task != "classifier"

    @property
    def classifies(self) -> bool:
        """Whether `classify` predicts classes."""
        return self.head is not None

    @property
    def estimator(self) -> str:
        """How log-determinants are got in evaluation, in words; '' if exactly."""
        if self.flow.bijection.exact_log_det:
            return ""
        return (
            f"an unbiased power series ({self._evaluation_terms} terms and a roulette "
            "of finite variance) for blocks of convolutions, exact for matrices"
        )

    def condition(self, context: Tensor | None, batch: int) -> Tensor | None:
        """The context of the networks; of a classifier or hybrid there is none."""
        return super().condition(context, batch) if self.task == "density" else None

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Nats per dimension, cross-entropy, or their weighted sum; a scalar."""
        if self.head is None:
            return super().loss(x, context)
        labels = self._labels(context, len(x))
        y, change = self.flow._to_real(x)
        if self.task == "classifier":
            return self._cross_entropy(self._body.to_latent(y), labels)
        h, log_det = self._body(y)
        z, more = self._tail(h)
        log_prob = self.flow.base.log_prob(z) + log_det + more + change
        nats = -log_prob.mean() / self.dimensions
        self._metrics["nats_per_dimension_of_x"] = nats.detach()
        return nats + self.class_weight * self._cross_entropy(h, labels)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-likelihood of x: (batch, *event), shape (batch,) in nats, whatever its label."""
        if self.task == "classifier":
            raise ValueError("a classifier has no likelihood: train with task='hybrid' for both")
        return super().log_prob(x, context)

    def classify(self, x: Tensor) -> Tensor:
        """Log-probabilities of the classes, (batch, classes), of a classifier or hybrid."""
        if self.head is None:
            raise ValueError(
                "this IResNet is a density: train with task='classifier' or 'hybrid' to classify"
            )
        y, _ = self.flow._to_real(x)
        return self.head(self._body.to_latent(y)).log_softmax(1)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws n examples (n, *event); a hybrid draws labels asked for from p(x) p(y | x)."""
        if self.task == "classifier":
            raise ValueError("a classifier draws no examples: train with task='hybrid' for both")
        if self.head is None or context is None or n == 0:
            return super().sample(n, context, temperature, generator)
        return self._draw_labels(self._labels(context, n), temperature, generator)

    def metrics(self) -> dict[str, float | Tensor]:
        """The parts of the last loss of a classifier or hybrid."""
        return dict(self._metrics)

    def verify(self) -> None:
        """Measures every layer's norm in float64; called after training and loading.

        Raises:
            ValueError: if one is above its coefficient, naming the layer and both numbers.
        """
        check_lipschitz(self)

    # the flow's parts, seen by the head: features of the image, and the rest of the way to z

    @property
    def _body(self) -> Bijection:
        return self.flow.bijection[0]  # type: ignore[index]

    @property
    def _tail(self) -> Bijection:
        return self.flow.bijection[1]  # type: ignore[index]

    def _head(self) -> nn.Module:
        shape = self._body.output_shape(self.event_shape)
        assert self.num_classes is not None
        if len(shape) == 1:
            width = self._widths[-1]
            return nn.Sequential(
                nn.Linear(shape[0], width), nn.ReLU(), nn.Linear(width, self.num_classes)
            )
        width = 2 * self._channels
        return nn.Sequential(
            nn.Conv2d(shape[0], width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, self.num_classes),
        )

    def _labels(self, context: Tensor | None, batch: int) -> Tensor:
        """Labels (batch,), checked."""
        assert self.num_classes is not None
        return self._embed(context, batch, self.num_classes).argmax(1)

    def _class_scores(self, x: Tensor, classes: int) -> Tensor:
        """For `predict_proba`: by the head where there is one, by Bayes' rule elsewhere."""
        return super()._class_scores(x, classes) if self.head is None else self.classify(x)

    def _cross_entropy(self, features: Tensor, labels: Tensor) -> Tensor:
        assert self.head is not None
        logits = self.head(features)
        loss = F.cross_entropy(logits.float(), labels)
        right = (logits.argmax(1) == labels).float().mean()
        self._metrics |= {"cross_entropy": loss.detach(), "accuracy": right.detach()}
        return loss

    def _draw_labels(
        self, labels: Tensor, temperature: float, generator: torch.Generator | None
    ) -> Tensor:
        """Examples of the joint distribution, sorted into the labels that were asked for."""
        wanted = {c: (labels == c).nonzero().flatten().tolist() for c in labels.unique().tolist()}
        found: list[Tensor | None] = [None] * len(labels)
        for _ in range(ROUNDS):
            x = super().sample(max(2 * len(labels), 32), None, temperature, generator)
            chances = self.classify(x).exp()
            drawn = torch.multinomial(chances, 1, generator=generator).flatten().tolist()
            for example, label in zip(x, drawn, strict=True):
                if wanted.get(label):
                    found[wanted[label].pop()] = example
            if not any(wanted.values()):
                return torch.stack([f for f in found if f is not None])
        missing = sorted(c for c, rows in wanted.items() if rows)
        raise RuntimeError(f"the model gives almost no examples of the classes {missing}")


def _check(
    task: str,
    classes: int | None,
    context: int | None,
    padding: int,
    image: bool,
    log_det: str,
    class_weight: float,
) -> None:
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    if log_det not in LOG_DETS:
        raise unknown("log-determinant", log_det, LOG_DETS)
    if task != "density" and classes is None:
        raise ValueError(f"task '{task}' predicts labels: give num_classes (--conditional)")
    if task != "density" and context is not None:
        raise ValueError(f"task '{task}' takes no context")
    if padding < 0 or (padding and (task != "classifier" or not image)):
        raise ValueError(
            "padding adds channels of zeros, which have no density: it is for classifiers of "
            "images (task='classifier')"
        )
    if not class_weight > 0:
        raise ValueError(f"class_weight must be above 0, got {class_weight}")
