"""TarFlow: a transformer autoregressive flow on patches of images.

    u = patches of x;   for each block:  u_i <- (u_i - b_i(u_<i)) exp(-s_i(u_<i)),  then turn round
    z = u ~ N(0, I)

Two kinds of training. With uniform noise in each pixel's bin log_prob is a bound on the
log-probability of the integer image. With normal noise of width sigma the flow learns the density
of noisy images, whose draws look better; one step along its own gradient takes the noise off:

    y = x + sigma e        E[x | y] = y + sigma^2 grad log p(y)                   (Tweedie)

Zhai, Zhang, Nakkiran, Berthelot, Gu, Zheng, Chen, Bautista, Jaitly & Susskind, "Normalizing Flows
are Capable Generative Models" (2024); Gu et al., "STARFlow" (2025), for deep and shallow blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steadyflow.bijections import (
    ActNorm,
    AutoregressiveTransformer,
    Bijection,
    Chain,
    Gaussianization,
    GaussianNoise,
    Inverse,
    LearnedOrder,
    Patches,
    Reverse,
    UniformDequantization,
)
from steadyflow.bijections.decoding import Decoding, Solved, solve
from steadyflow.bijections.guidance import Guidance
from steadyflow.errors import unknown
from steadyflow.flow import Flow, check_temperature
from steadyflow.models.flow_model import FlowModel

ORDERS = ("flip", "learned")
PATCHES = 64  # that an image is cut into, at most, if the patch size is left open


@dataclass(frozen=True)
class Decoded:
    """Latents turned into images, and how.

    Attributes:
        x: (batch, *event), real-valued.
        blocks: what each block took, in the order in which they were undone.
    """

    x: Tensor
    blocks: tuple[Solved, ...]

    def __str__(self) -> str:
        rows = [f"{solved.sampler}: {solved.sweeps} evaluations" for solved in self.blocks]
        return "\n".join(f"block {len(rows) - i}  {row}" for i, row in enumerate(rows))


class TarFlow(FlowModel):
    """Autoregressive flow of causal transformers, for images.

    Args:
        event_shape: (channels, height, width).
        num_classes: number of class labels to condition on; None for none.
        context_features: length of a context vector to condition on; None for none.
        patch_size: side of a patch in pixels, which must divide height and width; None for the
            smallest that makes at most 64 patches of an image, or else the largest that fits.
        channels: of the transformers.
        blocks: how many autoregressive blocks, in alternating order.
        layers_per_block: transformer layers of each block: one number for all of them, or one for
            each, the one nearest to the data first.
        heads: of the attention; None for heads of about 64 channels.
        orders: 'flip' turns the sequence round after each block; 'learned' mixes its tokens by a
            learned invertible matrix besides.
        sigma: width of the normal noise of training, where pixels go from -1 to 1 (0.05 to 0.15
            for good samples); 0 for uniform noise and a likelihood of the pixels.
        drop_context: share of the training examples that go without their context, which is what
            guidance needs.
        scale: how the log-scales are bounded: 'tanh', 'softsign', 'sigmoid' or 'exp' (not at all).
        bound: the bound on each block's log-scales.
        gaussianize: make the pixels of each channel normal by their histogram before all else,
            which an affine flow can hardly do; for integer pixels with uniform noise.
        checkpoint: compute activations again in the backward pass, to save memory.
        bits: bits of each pixel; 0 for real-valued images.
    """

    name = "tarflow"

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        num_classes: int | None = None,
        context_features: int | None = None,
        patch_size: int | None = None,
        channels: int = 128,
        blocks: int = 4,
        layers_per_block: Sequence[int] = (4,),
        heads: int | None = None,
        orders: str = "flip",
        sigma: float = 0.0,
        drop_context: float = 0.1,
        scale: str = "tanh",
        bound: float = 4.0,
        gaussianize: bool = True,
        checkpoint: bool = False,
        bits: int = 8,
    ):
        super().__init__(
            event_shape=event_shape, num_classes=num_classes, context_features=context_features
        )
        _check_image(self.event_shape)
        depths = _depths(blocks, layers_per_block)
        if orders not in ORDERS:
            raise unknown("order", orders, ORDERS)
        if not (sigma >= 0 and math.isfinite(sigma)):
            raise ValueError(f"sigma must be a number of at least 0, got {sigma}")
        if not 0 <= drop_context < 1:
            raise ValueError(f"drop_context must be from 0 to below 1, got {drop_context}")
        self.sigma, self.drop_context = float(sigma), drop_context
        self.replayable = not checkpoint  # which looks up the state of the random numbers
        cut = Patches(self.event_shape, patch_size or _patch_size(self.event_shape))
        tokens, features = cut.token_shape
        layers: list[Bijection] = []
        if gaussianize and bits and not sigma:
            layers.append(Gaussianization(self.event_shape[0], 2**bits))
        layers += [ActNorm(self.event_shape[0]), cut]
        for depth in depths:
            layers.append(
                AutoregressiveTransformer(
                    tokens,
                    features,
                    channels,
                    depth,
                    heads,
                    num_classes or context_features,
                    scale,
                    bound,
                    checkpoint,
                )
            )
            layers.append(LearnedOrder(tokens) if orders == "learned" else Reverse())
        back = Patches(self.event_shape, cut.patch)
        self.flow = Flow(
            Chain(*layers, Inverse(back)), self.event_shape, dequantization=self._noise(bits)
        )

    @property
    def likelihood(self) -> str:
        """As of any flow; 'none' with normal noise, whose density is that of noisy images."""
        return "none" if self.sigma else self.flow.likelihood

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Mean negative log-likelihood in nats per dimension, a scalar.

        In training some examples go without their context.
        """
        rows = self._rows_for(x, context)
        if rows is not None and self.training and self.drop_context:
            keep = torch.rand(len(rows), 1, device=rows.device) >= self.drop_context
            rows = rows * keep.to(rows.dtype)
        return self.flow.loss(x, rows)

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        *,
        sampler: str = "cached",
        tolerance: float = 0.0,
        window: int = 16,
        guidance: float = 0.0,
        rule: str = "linear",
        attention_temperature: float = 1.0,
        denoise: bool = False,
    ) -> Tensor:
        """Draws n examples (n, *event).

        Args:
            n: how many.
            context: labels or vectors; one row serves all.
            temperature: scales the latents; below 1 draws are more typical and less varied.
            generator: the source of randomness; torch's global one without it.
            sampler: 'cached', 'jacobi', 'windowed', 'sequential' or 'auto', which measures; they
                give the same images.
            tolerance: largest change of a token that counts as none, for 'jacobi' and 'windowed';
                0 is exact, 1e-3 quicker.
            window: tokens that 'windowed' solves together.
            guidance: how far draws are pushed towards their class, or, with an attention
                temperature, towards what the model is surer of; 0 is the model itself.
            rule: of guidance, 'linear' or 'variance'.
            attention_temperature: of the evaluation that is guided away from.
            denoise: take off the noise of a model trained with sigma.
        """
        if denoise and not self.sigma:
            raise ValueError(
                "this model was trained without normal noise (sigma 0): there is nothing to "
                "denoise, leave denoise out"
            )
        rows = self.condition(context, n)
        z = self.flow.base.sample(n, rows, check_temperature(temperature), generator)
        y = self.decode_with_report(
            z,
            context,
            sampler=sampler,
            tolerance=tolerance,
            window=window,
            guidance=guidance,
            rule=rule,
            attention_temperature=attention_temperature,
        ).x
        return self._finished(self.denoised(y, context) if denoise else y)

    def decode(self, z: Tensor, context: Tensor | None = None, **how: Any) -> Tensor:
        """The data of latents z: (batch, *event); takes the options of `sample`."""
        return self._finished(self.decode_with_report(z, context, **how).x)

    @torch.no_grad()
    def decode_with_report(
        self,
        z: Tensor,
        context: Tensor | None = None,
        *,
        sampler: str = "cached",
        tolerance: float = 0.0,
        window: int = 16,
        guidance: float = 0.0,
        rule: str = "linear",
        attention_temperature: float = 1.0,
    ) -> Decoded:
        """The real-valued data of latents z: (batch, *event), and how each block was undone.

        Args:
            z: latents; they are left as they are.
            context: labels or vectors; one row serves all.
            sampler: see `sample`, as for all that follow.
            tolerance: of a token.
            window: in tokens.
            guidance: weight.
            rule: of guidance.
            attention_temperature: of the evaluation that is guided away from.
        """
        if z.shape[1:] != self.event_shape:
            raise ValueError(
                f"expected latents of shape (batch, {', '.join(map(str, self.event_shape))}), "
                f"got {tuple(z.shape)}"
            )
        push = self._guidance(guidance, rule, attention_temperature)
        how = Decoding(sampler, tolerance, window, push)
        rows, solved = self.condition(context, len(z)), []
        for layer in reversed(self.flow.bijection):  # type: ignore[call-overload]
            if isinstance(layer, AutoregressiveTransformer):
                solved.append(solve(layer, z, rows, how))
                z = solved[-1].x
            else:
                z, _ = layer.inverse(z, rows)
        return Decoded(z, tuple(solved))

    def denoised(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """E[x | y] of noisy images y: (batch, *event), y + sigma^2 grad log p(y).

        Real-valued; one forward and one backward pass, each image by itself.
        """
        if not self.sigma:
            raise ValueError("this model was trained without normal noise (sigma 0)")
        noise: GaussianNoise = self.flow.dequantization  # type: ignore[assignment]
        rows = self.condition(context, len(y))
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            z, log_det = self.flow.bijection(y, rows)
            (score,) = torch.autograd.grad((self.flow.base.log_prob(z) + log_det).sum(), y)
        return y.detach() + noise.deviation**2 * score

    def _finished(self, y: Tensor) -> Tensor:
        noise = self.flow.dequantization
        return y if noise is None else noise.inverse(y)

    def _guidance(self, weight: float, rule: str, temperature: float) -> Guidance | None:
        push = Guidance(weight, rule, temperature)
        conditional = self.num_classes is not None or self.context_features is not None
        if not weight:
            return None
        if temperature == 1 and not (conditional and self.drop_context):
            lacking = (
                "it was trained with drop_context=0, so that it never went without its context"
                if conditional
                else "this model has no classes"
            )
            raise ValueError(
                f"guidance={weight:g} needs something to be guided away from, but {lacking}: give "
                "an attention_temperature other than 1"
            )
        return push

    def _noise(self, bits: int) -> UniformDequantization | GaussianNoise | None:
        if self.sigma:
            return GaussianNoise(self.sigma, bits or None)
        return UniformDequantization(bits) if bits else None


def _check_image(event_shape: tuple[int, ...]) -> None:
    if len(event_shape) != 3:
        raise ValueError(
            "TarFlow acts on images (channels, height, width), not on events of shape "
            f"{event_shape}: use maf or spline-flow for vectors"
        )
    if event_shape[1] * event_shape[2] == 1:
        raise ValueError("TarFlow needs images of more than one pixel")


def _depths(blocks: int, layers: Sequence[int] | int) -> list[int]:
    """The number of layers of each block."""
    if blocks < 1:
        raise ValueError(f"blocks must be at least 1, got {blocks}")
    depths = [layers] if isinstance(layers, int) else list(layers)
    depths = depths * blocks if len(depths) == 1 else depths
    if len(depths) != blocks or min(depths) < 1:
        raise ValueError(
            f"layers_per_block must be one number of at least 1, or one for each of the {blocks} "
            f"blocks, got {layers}"
        )
    return depths


def _patch_size(event_shape: tuple[int, ...]) -> int:
    """The smallest patch that makes at most 64 of an image, or the largest that makes two."""
    _, height, width = event_shape
    fits = [p for p in range(1, min(height, width) + 1) if height % p == 0 and width % p == 0]
    fits = [p for p in fits if height * width > p * p]
    few = [p for p in fits if height * width <= PATCHES * p * p]
    return min(few) if few else max(fits)
