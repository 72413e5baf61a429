"""What a person can do with a trained model, without the page: images in, images and words out.

    draw       x = decode(T z)
    mix        x = decode(slerp(z(a), z(b), share))                 the great circle of the latents
    move       x = decode(z(a) + strength (mean z(with) - mean z(without)))
    likelihood log p(x | class); for equally likely classes log p(x) = logmeanexp_c log p(x | c)

Images are RGB arrays (height, width, 3) uint8, as a screen has them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steadyflow.data.attributes import ATTRIBUTES
from steadyflow.errors import UsageError
from steadyflow.evaluation import access, interpolate, log_likelihoods
from steadyflow.evaluation.attributes import attribute_direction, manipulate
from steadyflow.report.mosaic import mosaic, to_rgb

GROUP = 200  # examples on either side of an attribute
COMPARED = 200  # test examples that a likelihood is compared with
STRIP = 9  # images from one to the other
SHOWN = 320  # pixels of a single image's longer side, about


class Explorer:
    """A trained model with the data that it was trained on, if they are at hand.

    Args:
        model: any generative model.
        dataset: its data, for attributes, examples and comparison; None without.
        white: the integer pixel that is shown as white.
        classes: the names of the classes, for a conditional model.
    """

    def __init__(
        self,
        model: Any,
        dataset: Any = None,
        white: float | None = None,
        classes: list[str] | None = None,
    ):
        self.model, self.dataset = model, dataset
        self.white, self.classes = white, list(classes or [])
        self.is_image = len(model.event_shape) == 3
        self.is_conditional = model.num_classes is not None
        self.has_latents = self.is_image and access.has_latents(model)
        self._directions: dict[str, Tensor] = {}
        self._others: Tensor | None = None

    @property
    def attributes(self) -> list[str]:
        """The directions in which an image can be moved, by name."""
        if not (self.has_latents and self.dataset is not None):
            return []
        if self.model.context_features is not None:
            return []
        names = list(ATTRIBUTES)
        if not self.is_conditional and self.dataset.classes and self.dataset.train.y is not None:
            names += [f"class {name}" for name in self.dataset.classes]
        return names

    def draw(
        self, n: int = 16, temperature: float = 1.0, label: str | None = None, seed: int = 0
    ) -> Tensor:
        """New examples: (n, *event). All classes in turn, if no label is given."""
        labels = None
        if self.is_conditional:
            labels = torch.arange(n) % self.model.num_classes
            if label is not None:
                labels = torch.full((n,), self._code(label))
            labels = labels.to(access.place(self.model)[0])
        with access.at_rest(self.model, seed):
            return self.model.sample(n, labels, temperature=temperature).cpu()

    def picture(self, x: Tensor) -> np.ndarray:
        """Images (n, C, H, W) on one sheet."""
        across = math.ceil(math.sqrt(len(x)))
        blank = x.new_full((-len(x) % across, *x.shape[1:]), self.white or 1)
        return mosaic(torch.cat((x, blank)).unflatten(0, (-1, across)), self.white)

    def example(self, number: int) -> tuple[np.ndarray, str | None]:
        """A test image, enlarged, and its class."""
        split = self.dataset.test if len(self.dataset.test) else self.dataset.train
        i = number % len(split)
        known = split.y is not None and bool(self.classes)
        return self._enlarged(split.x[i]), self.classes[int(split.y[i])] if known else None

    def mix(
        self,
        first: np.ndarray,
        second: np.ndarray,
        share: float,
        labels: tuple[str | None, str | None] = (None, None),
    ) -> tuple[np.ndarray, np.ndarray]:
        """What lies at a share of the way from one image to another, and the whole way."""
        a, b = self.read(first), self.read(second)
        context: Any = None
        if self.is_conditional:
            context = tuple(torch.tensor(self._code(name)) for name in labels)
        way = interpolate(self.model, a, b, 101, context)[:: 100 // (STRIP - 1)]
        at = interpolate(self.model, a, b, 101, context)[round(100 * share)]
        return self._enlarged(at), mosaic(way[None], self.white)

    def move(
        self, image: np.ndarray, attribute: str, strength: float, label: str | None = None
    ) -> np.ndarray:
        """An image with more of an attribute; strength 1 is what sets the two groups apart."""
        x = self.read(image)[None]
        context = None
        if self.is_conditional:
            context = access.context_of(self.model, torch.tensor([self._code(label)]))
        with access.at_rest(self.model, 0):
            moved = manipulate(
                self.model,
                access.bring(self.model, x),
                self._direction(attribute),
                [strength],
                context,
            )
        return self._enlarged(moved[0, 0])

    def likelihood(self, x: Tensor, label: str | None = None) -> tuple[str, dict[str, float]]:
        """The log-likelihood of one example in words, and how probable it makes each class.

        Args:
            x: (*event), see `read`.
            label: its class; without it a conditional model takes all classes as equally likely.
        """
        word = self.model.likelihood
        if word == "none":
            raise UsageError("this model gives no likelihood")
        values, shares = self._log_prob(x, label)
        unit = self.model.dimensions * math.log(2)
        lines = [
            f"**{values:.2f} nats** ({'a ' if word == 'bound' else ''}{word}), "
            f"{-values / unit:.4f} bits per dimension"
        ]
        others = self._compared()
        if others is not None:
            share = float((others < values).double().mean())
            lines.append(
                f"More likely than {share:.0%} of {len(others)} test examples "
                f"(theirs: {others.mean():.1f} ± {others.std():.1f} nats)."
            )
        return "\n\n".join(lines), shares

    def read(self, image: np.ndarray | None) -> Tensor:
        """A picture from the screen as the model's data: cropped, scaled, (C, H, W).

        Raises:
            UsageError: if there is none.
        """
        from PIL import Image, ImageOps

        if image is None:
            raise UsageError("choose an image first")
        channels, height, width = self.model.event_shape
        made = Image.fromarray(np.asarray(image, np.uint8)).convert(
            "L" if channels == 1 else "RGB"
        )
        whole = made.width % width == 0 and made.height % height == 0
        how = Image.Resampling.BOX if whole else Image.Resampling.LANCZOS
        made = ImageOps.fit(made, (width, height), method=how)
        pixels = torch.from_numpy(np.array(made)).reshape(height, width, -1).movedim(-1, 0)
        if channels not in (1, 3):
            pixels = pixels.float().mean(0, keepdim=True).expand(channels, -1, -1)
        if access.bits_of(self.model) is None:
            return pixels / 255
        return (pixels.double() / 255 * (self.white or 255)).round().to(torch.uint8)

    def _code(self, label: str | None) -> int:
        if label is None:
            raise UsageError("this model is conditional: choose the class of each image")
        if label not in self.classes:
            raise UsageError(f"unknown class '{label}' (known: {', '.join(self.classes)})")
        return self.classes.index(label)

    def _log_prob(self, x: Tensor, label: str | None) -> tuple[float, dict[str, float]]:
        if not self.is_conditional:
            return float(log_likelihoods(self.model, x[None])[0]), {}
        codes = torch.arange(self.model.num_classes)
        context = access.context_of(self.model, codes)
        each = log_likelihoods(self.model, x.expand(len(codes), *x.shape), context)
        shares = dict(zip(self.classes, each.softmax(0).tolist(), strict=True))
        if label is not None:
            return float(each[self._code(label)]), shares
        return float(each.logsumexp(0) - math.log(len(codes))), shares

    def _compared(self) -> Tensor | None:
        """Log-likelihoods of test examples; an ODE takes too long for that."""
        if self.dataset is None or not len(self.dataset.test):
            return None
        if self.model.likelihood == "estimate":
            return None
        if self._others is None:
            some = self.dataset.test.x[:COMPARED]
            y = None if self.dataset.test.y is None else self.dataset.test.y[:COMPARED]
            self._others = log_likelihoods(self.model, some, access.context_of(self.model, y))
        return self._others

    def _direction(self, attribute: str) -> Tensor:
        """The latent direction of an attribute, found once."""
        if attribute not in self._directions:
            with_it, without = self._groups(attribute)
            split = self.dataset.train
            groups = [access.bring(self.model, split.x[rows]) for rows in (with_it, without)]
            contexts = [
                access.context_of(self.model, None if split.y is None else split.y[rows])
                for rows in (with_it, without)
            ]
            with access.at_rest(self.model, 0):
                self._directions[attribute] = attribute_direction(
                    self.model, groups[0], groups[1], (contexts[0], contexts[1])
                )
        return self._directions[attribute]

    def _groups(self, attribute: str) -> tuple[Tensor, Tensor]:
        """Rows of training examples that have most, and least, of an attribute."""
        split = self.dataset.train
        if attribute in ATTRIBUTES:
            order = ATTRIBUTES[attribute](split.x.float()).argsort()
            size = min(GROUP, len(order) // 4)
            return order[-size:], order[:size]
        code = self.dataset.classes.index(attribute.removeprefix("class "))
        has = split.y == code
        return has.nonzero().flatten()[:GROUP], (~has).nonzero().flatten()[: 2 * GROUP]

    def _enlarged(self, x: Tensor) -> np.ndarray:
        factor = max(1, SHOWN // max(x.shape[-2:]))
        return to_rgb(x, self.white).repeat(factor, axis=0).repeat(factor, axis=1)
