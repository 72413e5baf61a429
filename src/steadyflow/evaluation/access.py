"""How evaluation touches a model: at rest, seeded, and through real-valued data.

A model is a `GenerativeModel` or a bare `Flow`. Integer data is not made real by fresh noise here
but placed in the middle of its bin, y = (x + 1/2) / 2^bits: the latent of an example is then one
point, and decoding it gives the same integers back although arithmetic rounds.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from steadyflow.errors import UsageError
from steadyflow.flow import Flow
from steadyflow.networks.precision import full_convolutions

Model = Any  # a GenerativeModel or a Flow: what is used is checked where it is used


@contextlib.contextmanager
def at_rest(model: Model, seed: int) -> Iterator[None]:
    """Evaluation mode, no gradients and a seeded random state, all put back at the end."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    training = [module.training for module in modules]
    device = place(model)[0]
    cuda = [device] if device.type == "cuda" else []
    try:
        for module in modules:
            module.training = False
        with torch.random.fork_rng(devices=cuda), torch.no_grad(), full_convolutions():
            torch.random.default_generator.manual_seed(seed)
            if cuda:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield
    finally:
        for module, mode in zip(modules, training, strict=True):
            module.training = mode


def place(model: Model) -> tuple[torch.device, torch.dtype]:
    """Where a model lives and in which arithmetic it works."""
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.get_default_dtype()


def on_accelerator(model: Model) -> Model:
    """The model on the GPU, if the process sees one (CUDA_VISIBLE_DEVICES="" hides them)."""
    return model.to("cuda") if torch.cuda.is_available() else model


def bring(model: Model, x: Tensor) -> Tensor:
    """Data on the model's device; real numbers in its arithmetic, integers as they are."""
    device, dtype = place(model)
    return x.to(device, dtype) if x.is_floating_point() else x.to(device)


def model_name(model: Model) -> str:
    """What the command line calls the model, or the name of its class."""
    return str(getattr(model, "name", None) or type(model).__name__)


def flow_of(model: Model) -> Flow | None:
    """The flow inside a model, or None if it is built otherwise."""
    flow = model if isinstance(model, Flow) else getattr(model, "flow", None)
    return flow if isinstance(flow, Flow) else None


def bits_of(model: Model) -> int | None:
    """Bits of the integers that the model takes, or None for real-valued data."""
    return getattr(getattr(model, "dequantization", None), "bits", None)


def context_of(model: Model, y: Tensor | None) -> Tensor | None:
    """The context that a model wants, out of a split's labels.

    Args:
        model: conditional or not.
        y: (N,) labels, or (N, features) vectors, or None.

    Returns:
        y on the model's device if the model is conditional, else None.

    Raises:
        UsageError: if it is conditional and y does not have what it needs.
    """
    classes = getattr(model, "num_classes", None)
    features = getattr(model, "context_features", None)
    if classes is None and features is None:
        return None
    wanted = "class labels" if features is None else f"context vectors of {features} numbers"
    if y is None or (features is not None and not y.is_floating_point()):
        raise UsageError(f"this {model_name(model)} needs {wanted}, but the data has none")
    return bring(model, y)


def real_valued(model: Model, x: Tensor) -> Tensor:
    """Data as the flow sees them, without noise: integers in the middle of their bins."""
    made = getattr(model, "dequantization", None)
    x = bring(model, x)
    if made is None or (bits_of(model) is not None and x.is_floating_point()):
        return x
    return made.middle(x.to(place(model)[1]))


def encode(model: Model, y: Tensor, context: Tensor | None) -> Tensor:
    """The latents of real-valued y: (batch, *event); context as the model's methods take it."""
    flow = flow_of(model)
    if flow is not None:
        return flow.bijection.to_latent(y, embed(model, context, len(y)))
    return _method(model, "encode")(y, context)


def decode(model: Model, z: Tensor, context: Tensor | None) -> Tensor:
    """The real-valued data of latents z: (batch, *latent event)."""
    flow = flow_of(model)
    if flow is not None:
        return flow.bijection.to_data(z, embed(model, context, len(z)))
    return real_valued(model, _method(model, "decode")(z, context))


def embed(model: Model, context: Tensor | None, batch: int) -> Tensor | None:
    """The float context (batch, features) that the networks see."""
    if context is None or not hasattr(model, "condition"):
        return context
    return model.condition(context, batch)


def to_data(model: Model, y: Tensor) -> Tensor:
    """Real-valued y: (batch, *event) to the model's kind of data: integers if it takes them."""
    made = getattr(model, "dequantization", None)
    return y if made is None else made.inverse(y)


def is_exact(model: Model) -> bool:
    """Whether decoding undoes encoding: a flow's does, an autoencoder's only nearly."""
    return flow_of(model) is not None


def posterior_encoder(model: Model) -> Callable[..., Tensor]:
    """Encodes x by a draw from the posterior of its latents, where a model has one."""
    method = _method(model, "encode")
    drawn = "draw" in inspect.signature(method).parameters
    return functools.partial(method, draw=True) if drawn else method


def can_sample(model: Model) -> bool:
    """Whether examples can be drawn: from all but classifiers."""
    return bool(getattr(model, "can_sample", True))


def classifies(model: Model) -> bool:
    """Whether the model predicts the class of an example, by `classify`."""
    return bool(getattr(model, "classifies", False))


def has_latents(model: Model) -> bool:
    """Whether data can be encoded and decoded."""
    if hasattr(model, "flow"):  # a model may be without one, if its generator is no flow
        return flow_of(model) is not None
    return flow_of(model) is not None or (hasattr(model, "encode") and hasattr(model, "decode"))


def _method(model: Model, name: str) -> Any:
    if not hasattr(model, name):
        raise UsageError(f"{model_name(model)} has no latents: it can not {name}")
    return getattr(model, name)
