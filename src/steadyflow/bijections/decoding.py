"""Four ways to undo an autoregressive block of tokens, which give the same answer.

    x_i = z_i exp(s_i(x_<i)) + b_i(x_<i)                       solved for all i = 0 .. T-1

    'sequential'  one token after the other, everything before it computed again
    'cached'      one token after the other, with the keys and values of those before it
    'jacobi'      all tokens at once, again and again: after n sweeps the first n are exact
    'windowed'    the same within a window; what agrees is frozen into the cache, and the window
                  moves on, for each example at its own pace
    'auto'        the quickest of these for this block, batch and machine, found out by measuring

A sweep that changes a token by no more than the tolerance leaves it as it is; with tolerance 0
that is a fixed point bit for bit. No example waits for, or changes with, another one.

Zhai et al., "Normalizing Flows are Capable Generative Models" (2024), for the cache; Song et al.,
"Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving" (2021), and Liu &
Qin, "Accelerate TarFlow Sampling with GS-Jacobi Iteration" (2025), for the sweeps.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steadyflow.bijections.guidance import Guidance
from steadyflow.errors import unknown
from steadyflow.networks.cached import CachedEvaluation

if TYPE_CHECKING:
    from steadyflow.bijections.transformer import AutoregressiveTransformer


@dataclass(frozen=True)
class Decoding:
    """How a block is undone.

    Args:
        sampler: 'sequential', 'cached', 'jacobi', 'windowed' or 'auto'.
        tolerance: of 'jacobi' and 'windowed', the largest change of a token that counts as none.
        window: tokens in a window.
        guidance: what pushes the parameters; None for the model itself.
    """

    sampler: str = "cached"
    tolerance: float = 0.0
    window: int = 16
    guidance: Guidance | None = None

    def __post_init__(self):
        if self.sampler not in (*SAMPLERS, "auto"):
            raise unknown("sampler", self.sampler, (*SAMPLERS, "auto"))
        if not (self.tolerance >= 0 and math.isfinite(self.tolerance)):
            raise ValueError(f"tolerance must be a number of at least 0, got {self.tolerance}")
        if self.window < 1:
            raise ValueError(f"window must be at least 1 token, got {self.window}")


@dataclass(frozen=True)
class Solved:
    """A block undone.

    Attributes:
        x: (batch, tokens, features).
        log_scale: s, like x.
        sampler: how it was done.
        sweeps: evaluations of the network, each at one place or at many.
        seconds: how long it took.
    """

    x: Tensor = field(repr=False)
    log_scale: Tensor = field(repr=False)
    sampler: str
    sweeps: int
    seconds: float = math.nan


class Parameters:
    """The log-scales and shifts of a block while it is being undone, guided if that is wanted.

    With guidance both evaluations, with the context and without, are one of twice the batch.
    """

    def __init__(
        self,
        block: AutoregressiveTransformer,
        context: Tensor | None,
        batch: int,
        guidance: Guidance | None,
    ):
        self.block, self.guidance = block, guidance
        self.batch, self.sharpness = batch, None
        if guidance is not None:
            context, self.sharpness, self.batch = guidance.doubled(
                context, batch, block.network.place
            )
        self.context = context
        self.cache: CachedEvaluation | None = None

    def whole(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """At all places: from (batch, n, features) to s and b of the same shape."""
        twice = self._twice(x)
        return self._split(self.block.network(twice, self.context, self.sharpness), x.dtype)

    def start(self) -> None:
        """An empty cache."""
        network = self.block.network
        self.cache = CachedEvaluation(network, self.batch, self.context, self.sharpness)

    def step(self, previous: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """At the next place: from the token before it, (batch, features) or None."""
        assert self.cache is not None
        twice = None if previous is None else self._twice(previous)
        return self._split(self.cache.step(twice), dtype)

    def window(self, previous: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """At some places in a row, from the tokens before each: (batch, n, features)."""
        assert self.cache is not None
        out = self.cache.window(self._twice(previous), self._twice(starts))
        return self._split(out, previous.dtype)

    def _twice(self, values: Tensor) -> Tensor:
        return values if self.guidance is None else torch.cat((values, values))

    def _split(self, raw: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        s, b = self.block.split(raw.to(dtype))
        return (s, b) if self.guidance is None else self.guidance.combine(s, b)


def solve(
    block: AutoregressiveTransformer, z: Tensor, context: Tensor | None, how: Decoding
) -> Solved:
    """Undoes a block, without gradients.

    Args:
        block: whose inverse is wanted.
        z: (batch, tokens, features); it is left as it is.
        context: (batch, context_features) or None.
        how: the sampler and its settings.
    """
    if not len(z):
        return Solved(z, z, how.sampler, 0, 0.0)
    with torch.no_grad():
        parameters = Parameters(block, context, len(z), how.guidance)
        if how.sampler == "auto":
            return _fastest(block, parameters, z, how)
        return _timed(how.sampler, parameters, z, how)


def _timed(sampler: str, parameters: Parameters, z: Tensor, how: Decoding) -> Solved:
    """A sampler's work, with the time it took; compiled code has no clock."""
    if torch.compiler.is_compiling():
        solved = SAMPLERS[sampler](parameters, z, how, math.inf)
        assert solved is not None
        return solved
    began = time.perf_counter()
    solved = SAMPLERS[sampler](parameters, z, how, math.inf)
    assert solved is not None
    return dataclasses.replace(solved, seconds=time.perf_counter() - began)


def _sequential(parameters: Parameters, z: Tensor, how: Decoding, limit: float) -> Solved | None:
    x, scales = z.clone(), torch.empty_like(z)
    for i in range(z.shape[1]):
        s, b = parameters.whole(x[:, : i + 1])
        scales[:, i] = s[:, i]
        x[:, i] = torch.addcmul(b[:, i], z[:, i], s[:, i].exp())
    return Solved(x, scales, "sequential", z.shape[1])


def _cached(parameters: Parameters, z: Tensor, how: Decoding, limit: float) -> Solved | None:
    parameters.start()
    tokens, scales = [], []
    previous = None
    for token in z.unbind(1):
        s, b = parameters.step(previous, z.dtype)
        previous = torch.addcmul(b, token, s.exp())
        tokens.append(previous)
        scales.append(s)
    return Solved(torch.stack(tokens, 1), torch.stack(scales, 1), "cached", z.shape[1])


def _jacobi(parameters: Parameters, z: Tensor, how: Decoding, limit: float) -> Solved | None:
    began, sweeps = time.perf_counter(), 0
    x, scales = z, torch.zeros_like(z)
    moving = torch.ones(len(z), 1, 1, dtype=torch.bool, device=z.device)
    for sweep in range(1, z.shape[1] + 1):
        s, b = parameters.whole(x)
        new = torch.addcmul(b, z, s.exp())
        change = (new - x).abs().amax((1, 2), keepdim=True)
        x, scales = torch.where(moving, new, x), torch.where(moving, s, scales)
        # not "change > tolerance": what is not a number has not settled
        moving = moving & ~(change <= how.tolerance)
        sweeps = sweep
        if not moving.any():
            break
        if time.perf_counter() - began > limit:
            return None
    return Solved(x, scales, "jacobi", sweeps)


def _windowed(parameters: Parameters, z: Tensor, how: Decoding, limit: float) -> Solved | None:
    began, sweeps = time.perf_counter(), 0
    batch, tokens, features = z.shape
    size = min(how.window, tokens)
    x, scales = torch.cat((z[:, :1], z), 1), torch.zeros_like(z)  # x[:, 1 + i] is token i
    done = torch.zeros(batch, dtype=torch.int64, device=z.device)
    offsets = torch.arange(size, device=z.device)
    parameters.start()
    while True:
        starts = done.clamp(max=tokens - size)
        places = starts[:, None] + offsets
        at = places[..., None].expand(-1, -1, features)
        s, b = parameters.window(x.gather(1, at), starts)
        old = x.gather(1, at + 1)
        new = torch.addcmul(b, z.gather(1, at), s.exp())
        open_ = (places >= done[:, None])[..., None]
        x.scatter_(1, at + 1, torch.where(open_, new, old))
        scales.scatter_(1, at, torch.where(open_, s, scales.gather(1, at)))
        settled = ((new - old).abs() <= how.tolerance).all(2) | ~open_[..., 0]
        # the settled ones in a row, and the next one, which was computed from them
        done = torch.minimum(
            starts + settled.long().cumprod(1).sum(1) + 1, done.new_tensor(tokens)
        )
        sweeps += 1
        if bool((done == tokens).all()):
            break
        if time.perf_counter() - began > limit:
            return None
    return Solved(x[:, 1:], scales, "windowed", sweeps)


Sampler = Callable[[Parameters, Tensor, Decoding, float], Solved | None]

# by name; each gives up, with None, when it has taken longer than the limit in seconds
SAMPLERS: dict[str, Sampler] = {
    "sequential": _sequential,
    "cached": _cached,
    "jacobi": _jacobi,
    "windowed": _windowed,
}


def _fastest(
    block: AutoregressiveTransformer, parameters: Parameters, z: Tensor, how: Decoding
) -> Solved:
    """The quickest sampler for such a call: known, or found out by trying them on this one."""
    key = (len(z), z.device, z.dtype, how.tolerance, how.window, how.guidance is not None)
    if key in block.quickest:
        return _timed(block.quickest[key], parameters, z, how)
    parameters.whole(z)  # the first evaluation of a process is slower than any other
    best, limit = None, math.inf
    for name in ("cached", "windowed", "jacobi"):
        began = _now(z)
        solved = SAMPLERS[name](parameters, z, how, limit)
        took = _now(z) - began
        if solved is not None and took < limit:
            best, limit = dataclasses.replace(solved, seconds=took), took
    assert best is not None
    block.quickest[key] = best.sampler
    return best


def _now(z: Tensor) -> float:
    if z.device.type == "cuda":
        torch.cuda.synchronize(z.device)
    return time.perf_counter()
