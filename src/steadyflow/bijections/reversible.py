"""Reversible training: gradients of a chain of bijections without its stored activations.

    forward    x_n = f_n(... f_1(x_0))                  only x_0 and x_n are kept
    backward   x_{i-1} = f_i^-1(x_i),                   each layer's input from its output,
               then the gradients of f_i at x_{i-1},    from the last layer to the first

The memory of a training step is that of one layer, whatever the depth. The price is one more
evaluation of each layer: about 4/3 of the time where the layer's own `backward_step` evaluates its
network once for both inverting and differentiating, 5/3 where it has none.

Layers without a closed-form inverse are checkpointed instead: their input is kept. Random numbers
(dropout, estimated log-determinants) and autocast are replayed as they were in the forward pass.

The weights have to be those of the forward pass, or the inverses lead elsewhere: their norms are
compared, since fused optimisers and writes through `.data` leave torch's count of changes as it
was. That costs one or two hundredths of a step. Programs that are recorded (CUDA graphs) read no
values and go without: there the optimiser's step comes after the backward pass each time.

Gomez, Ren, Urtasun & Grosse, "The Reversible Residual Network: Backpropagation Without Storing
Activations" (2017).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from steadyflow.bijections.bijection import Bijection, Transformed, compose, gradients
from steadyflow.errors import unknown
from steadyflow.tracing import recording, transforming

Step = tuple[Tensor, Tensor, Sequence[Tensor | None]]
WORTH_IT = 24  # couplings in a model from which 'auto' computes activations again


def chosen(reversible: bool | str, couplings: int) -> bool:
    """What a model's `reversible` says: True, False, or 'auto', which asks for many couplings.

    Storing the activations of few couplings costs little memory and saves a third of the time.

    Raises:
        ValueError: for another word.
    """
    if reversible not in (True, False, "auto"):
        raise unknown("choice for reversible", str(reversible), ("True", "False", "auto"))
    return couplings >= WORTH_IT if reversible == "auto" else bool(reversible)


@runtime_checkable
class OneEvaluation(Protocol):
    """A bijection that undoes and differentiates itself with one evaluation of its network."""

    def backward_step(
        self,
        z: Tensor,
        grad_z: Tensor,
        grad_log_det: Tensor,
        context: Tensor | None,
        inputs: Sequence[Tensor],
    ) -> Step:
        """The input and all gradients of the layer, from its output.

        Args:
            z: what `forward` gave, (batch, *latent event).
            grad_z: the gradient of the loss with respect to z.
            grad_log_det: the same for log_det, (batch,).
            context: (batch, features) or None.
            inputs: parameters, and perhaps the context, whose gradients are wanted.

        Returns:
            x: (batch, *event), the gradient with respect to x, and one for each of `inputs` (None
            where there is none).
        """


def run(
    layers: Sequence[Bijection], x: Tensor, context: Tensor | None, drift: Tensor
) -> Transformed:
    """What the layers make of x, one after another, with reversible gradients.

    Args:
        layers: the bijections; the first acts on x.
        x: (batch, *event).
        context: (batch, features) or None.
        drift: a scalar that each backward pass raises to the largest error with which x came back
            through the inverses, relative to the largest |x| if that is above 1.

    Returns:
        z: (batch, *latent event), and log_det: (batch,) in nats.
    """
    if not layers or not torch.is_grad_enabled() or transforming():
        return compose(layers, x, context)  # vmap and jacrev differentiate a plain chain
    return _Reversible.apply(list(layers), drift, x, context, *_parameters(layers))


class _Reversible(torch.autograd.Function):
    # parameters are inputs of this function and their gradients its outputs: so hooks fire (DDP)
    # and gradients accumulate as for any other layer

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        layers: list[Bijection],
        drift: Tensor,
        x: Tensor,
        context: Tensor | None,
        *parameters: nn.Parameter,
    ) -> Transformed:
        ctx.layers, ctx.drift, ctx.parameters = layers, drift, parameters
        ctx.fingerprint = _fingerprint(parameters)
        ctx.replays, kept = [], []
        cast = _Cast.here(x.device)
        z, log_dets = x, []
        before = _random_state(x.device)
        with cast.again():
            for layer in layers:
                if not layer.closed_form_inverse:
                    kept.append(z)
                z, log_det = layer(z, context)
                log_dets.append(log_det)
                after = _random_state(x.device)
                ctx.replays.append(_Replay(cast, _if_used(before, after)))
                before = after
        ctx.save_for_backward(x, context, z, *kept)
        return z, sum(log_dets[1:], start=log_dets[0])

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor, grad_log_det: Tensor) -> tuple:  # type: ignore[override]
        _check_backward(ctx)
        start, context, x, *kept = ctx.saved_tensors
        if context is not None and ctx.needs_input_grad[3]:
            context = context.detach().requires_grad_()
        x, grad_x = x.detach(), grad_z
        sums: dict[Tensor, Tensor] = {}
        for layer, replay in zip(reversed(ctx.layers), reversed(ctx.replays), strict=True):
            inputs: list[Tensor] = [p for p in layer.parameters() if p.requires_grad]
            if context is not None and context.requires_grad:
                inputs.append(context)
            stored = None if layer.closed_form_inverse else kept.pop()
            x, grad_x, grads = _step(
                layer, replay, stored, x, grad_x, grad_log_det, context, inputs
            )
            for tensor, grad in zip(inputs, grads, strict=True):
                if grad is not None:
                    grad = _laid_out_as(tensor, grad)
                    sums[tensor] = sums[tensor] + grad if tensor in sums else grad
        _raise_drift(ctx.drift, x, start)
        of_context = None if context is None else sums.get(context)
        return None, None, grad_x, of_context, *(sums.get(p) for p in ctx.parameters)


def _step(
    layer: Bijection,
    replay: _Replay,
    stored: Tensor | None,
    z: Tensor,
    grad_z: Tensor,
    grad_log_det: Tensor,
    context: Tensor | None,
    inputs: list[Tensor],
) -> Step:
    # one layer backwards; a stored input takes the place of the inverse
    if stored is None and isinstance(layer, OneEvaluation):
        with replay.again():
            return layer.backward_step(z, grad_z, grad_log_det, context, inputs)
    x = stored
    if x is None:
        with replay.again(), torch.no_grad():
            x, _ = layer.inverse(z, context)
    with replay.again(), torch.enable_grad():
        x = x.detach().requires_grad_()
        outputs = layer(x, context)
    grad_x, *grads = gradients(outputs, (grad_z, grad_log_det), [x, *inputs])
    return x.detach(), x.new_zeros(x.shape) if grad_x is None else grad_x, grads


def _laid_out_as(tensor: Tensor, grad: Tensor) -> Tensor:
    # convolutions give the gradients of their weights with the channels innermost: put in order
    # here, one layer's at a time, autograd takes them as they are; else it would copy all at once
    return grad if grad.stride() == tensor.stride() else torch.empty_like(tensor).copy_(grad)


def _check_backward(ctx: Any) -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "a reversible chain has no second derivatives (create_graph=True): "
            "build the model with reversible=False for them"
        )
    parameters = _parameters(ctx.layers)
    same = all(p is q for p, q in zip(parameters, ctx.parameters, strict=True))
    if not same or not _agree(ctx.fingerprint, _fingerprint(parameters)):
        raise RuntimeError(
            "the weights of a reversible chain changed between its forward and its backward pass, "
            "so that its activations can not be computed again: call backward() first, or build "
            "the model with reversible=False"
        )


def _parameters(layers: Sequence[Bijection]) -> list[nn.Parameter]:
    # each once, even if layers share some
    return list(dict.fromkeys(p for layer in layers for p in layer.parameters()))


@torch.no_grad()
def _fingerprint(parameters: Sequence[nn.Parameter]) -> tuple[list[int], list[Tensor]]:
    """What changes with the weights: torch's counts of changes, and every weight's norm."""
    versions = [p._version for p in parameters]
    if recording():
        return versions, []
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for p in parameters:
        if p.numel():
            groups.setdefault((p.device, p.dtype), []).append(p)
    norms = []
    for (_, dtype), group in groups.items():
        wide = None if dtype.itemsize > 2 else torch.float32  # halves would not see a small step
        norms.append(torch.stack(torch._foreach_norm(group, 2, wide)).nan_to_num(nan=-1.0))
    return versions, norms


def _agree(before: tuple[list[int], list[Tensor]], after: tuple[list[int], list[Tensor]]) -> bool:
    versions, norms = before
    return versions == after[0] and all(map(torch.equal, norms, after[1]))


@torch.no_grad()
def _raise_drift(drift: Tensor, x: Tensor, start: Tensor) -> None:
    if start.numel():
        error = (x - start).abs().max() / start.abs().max().clamp_min(1.0)
        drift.copy_(torch.maximum(drift, error.to(drift)))


@dataclasses.dataclass(frozen=True)
class _Cast:
    """Whether mixed precision is on, and which."""

    device: torch.device
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def here(cls, device: torch.device) -> _Cast:
        enabled = torch.is_autocast_enabled(device.type)
        return cls(device, enabled, torch.get_autocast_dtype(device.type))

    def again(self) -> contextlib.AbstractContextManager:
        # without the cache: weights that were cast while gradients were off have none
        return torch.autocast(self.device.type, self.dtype, self.enabled, cache_enabled=False)


RandomState = tuple[Tensor, Tensor | None]


@dataclasses.dataclass(frozen=True)
class _Replay:
    """The circumstances of a layer's forward pass: mixed precision, and random state if used."""

    cast: _Cast
    state: RandomState | None

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.cast.again())
            if self.state is not None:
                cpu, gpu = self.state
                device = self.cast.device
                stack.enter_context(torch.random.fork_rng([] if gpu is None else [device]))
                torch.set_rng_state(cpu)
                if gpu is not None:
                    torch.cuda.set_rng_state(gpu, device)
            yield


def _random_state(device: torch.device) -> RandomState | None:
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return None  # a graph has no states to come back to; layers that draw can not be recorded
    gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), gpu


def _if_used(before: RandomState | None, after: RandomState | None) -> RandomState | None:
    if before is None or after is None:
        return None
    same = all(
        a is None or b is None or torch.equal(a, b) for a, b in zip(before, after, strict=True)
    )
    return None if same else before
