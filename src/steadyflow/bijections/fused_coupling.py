"""The fast path of `Coupling` on the CPU: a whole layer in one call of a C kernel.

A coupling of small vectors is a few small matrix products between many elementwise ones. On a CPU
the time goes into calling them, into moving what they give through memory, and into matrix kernels
made for larger matrices. The kernel takes 64 examples at a time through the whole layer without
leaving the cache. For the gradients it keeps the activations of small batches, and computes those
of large ones again, so that the memory of a training step stays small at little cost in time.
docs/benchmarks.md has what it brings.

It serves float32 vectors on the CPU, splits into regular columns, an additive or bounded affine
transform and a ReLU `MLP`. All else, compiled and transformed code (torch.compile, export, vmap,
forward-mode derivatives) and machines without a C compiler take the plain path, whose results it
gives to float32 rounding. Second derivatives are those of the plain path.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from steadyflow import native
from steadyflow.bijections.bijection import Transformed
from steadyflow.bijections.fused_coupling_call import (
    INTEGER,
    POINTER,
    TRANSFORMS,
    Gradients,
    Layer,
    Parameters,
    Plan,
    give_back,
    plan_for,
)
from steadyflow.bijections.transforms import Additive, Affine
from steadyflow.native import hooked, ordinary, plain, plain_gradients
from steadyflow.networks.mlp import MLP

if TYPE_CHECKING:
    from steadyflow.bijections.coupling import Coupling

LARGEST_BOUND = 40.0  # of a log-scale: the kernel's exp has no overflow to handle


def attempt(
    coupling: Coupling, x: Tensor, context: Tensor | None, inverse: bool
) -> Transformed | None:
    """The coupling of x by the kernel, or None where it does not apply."""
    if not ordinary(x) or x.dim() != 2 or not len(x) or _has_any_global_hook():
        return None
    if context is not None and not (ordinary(context) and context.shape[:-1] == x.shape[:1]):
        return None
    library = _library()
    found = library and look_at(library, coupling, x, context)
    if not found:
        return None
    plan, parameters = found
    if torch.is_grad_enabled() and (
        x.requires_grad
        or (context is not None and context.requires_grad)
        or any(p.requires_grad for p in parameters)
    ):
        return _Couple.apply(coupling, plan, inverse, x, context, *parameters)
    return plan.run(inverse, x, context, parameters)


class _Couple(torch.autograd.Function):
    """The kernel and its derivatives."""

    @staticmethod
    def forward(ctx, coupling, plan, inverse, x, context, *parameters):
        ctx.kept = plan.borrow(x)
        z, log_det = plan.run(inverse, x, context, parameters, ctx.kept)
        ctx.save_for_backward(x, context, *parameters)
        ctx.coupling, ctx.plan, ctx.inverse = coupling, plan, inverse
        if plan.additive:
            ctx.mark_non_differentiable(log_det)
        return z, log_det

    @staticmethod
    def backward(ctx, *outer):
        inputs, wanted = ctx.saved_tensors, ctx.needs_input_grad[3:]
        if torch.is_grad_enabled() or not all(map(ordinary, outer)):
            return None, None, None, *_plain_gradients(ctx, inputs, outer, wanted)
        x, context, *parameters = inputs
        kept, ctx.kept = ctx.kept, None  # a second time they are computed again
        found = ctx.plan.gradients(ctx.inverse, x, context, parameters, outer, wanted, kept)
        give_back(kept)
        return None, None, None, *found


def _plain_gradients(ctx, inputs: tuple, outer: tuple, wanted: tuple) -> list[Tensor | None]:
    network = ctx.coupling.conditioner
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    differentiable = slice(1 if ctx.plan.additive else 2)

    def compute(x: Tensor, context: Tensor | None, *parameters: Tensor) -> Sequence[Tensor]:
        named = dict(zip(names, parameters, strict=True))

        def conditioner(*given: Tensor | None) -> Tensor:
            return torch.func.functional_call(network, named, given, tie_weights=False)

        return ctx.coupling.plain(conditioner, x, context, ctx.inverse)[differentiable]

    return plain_gradients(compute, inputs, outer[differentiable], wanted)


def look_at(
    library: ctypes.CDLL, coupling: Coupling, x: Tensor, context: Tensor | None
) -> tuple[Plan, Parameters] | None:
    """The plan of a coupling and its parameters, if it is one that the kernel knows."""
    network, transform = coupling.conditioner, coupling.transform
    columns = coupling.split.columns(x.shape[1])
    if type(network) is not MLP or network.activation != "relu" or hooked(network):
        return None
    if type(transform) is Affine and transform.scale in TRANSFORMS:
        name, bound = transform.scale, transform.bound
    elif type(transform) is Additive:
        name, bound = "additive", 1.0
    else:
        return None
    if columns is None or bound > LARGEST_BOUND:
        return None
    parameters: list[Tensor] = []
    widths = [len(columns[0]) + (0 if context is None else context.shape[1])]
    for linear in network.layers:
        if type(linear) is not nn.Linear or hooked(linear):
            return None
        weight, bias = linear._parameters["weight"], linear._parameters["bias"]
        if not (plain(weight) and plain(bias)) or weight.shape[1] != widths[-1]:  # type: ignore[union-attr]
            return None
        parameters += weight, bias  # type: ignore[arg-type]
        widths.append(len(bias))  # type: ignore[arg-type]
    if widths[-1] != transform.planes * len(columns[1]) or not all(widths):
        return None
    return plan_for(library, columns, name, bound, network.clip, tuple(widths)), parameters


@cache
def _library() -> ctypes.CDLL | None:
    """The compiled kernel, if it can be had and does what it should."""
    library = native.load(Path(__file__).with_suffix(".c"))
    if library is None:
        return None
    layer = ctypes.POINTER(Layer)
    library.steadyflow_scratch.argtypes = [layer, INTEGER]
    library.steadyflow_activations.argtypes = [layer]
    library.steadyflow_scratch.restype = library.steadyflow_activations.restype = INTEGER
    library.steadyflow_forward.argtypes = [layer, POINTER, POINTER]
    library.steadyflow_backward.argtypes = [layer, ctypes.POINTER(Gradients)]
    library.steadyflow_forward.restype = library.steadyflow_backward.restype = None
    return library if _agrees(library) else None


@torch.inference_mode(False)
@torch.enable_grad()
def _agrees(library: ctypes.CDLL) -> bool:
    """Whether the kernel gives what the plain path gives, on one small example."""
    from steadyflow.bijections.coupling import Coupling, Halves

    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        network = MLP(3, 8, (9, 18), clip=1.0, zero_output=False).float()
        layer = Coupling(Halves(), Affine("tanh", 2.0), network)
        x = torch.randn(70, 7, dtype=torch.float32, requires_grad=True)
        outer = torch.randn(70, 7, dtype=torch.float32), torch.randn(70, dtype=torch.float32)
    found = look_at(library, layer, x, None)
    if found is None:
        return False
    plan, parameters = found
    expected = layer.plain(network, x, None, inverse=False)
    gradients = torch.autograd.grad(expected, (x, *parameters), outer)
    wanted = (True, False, *(True for _ in parameters))
    dx, _, *found_gradients = plan.gradients(False, x, None, parameters, outer, wanted)
    pairs = zip(
        (*plan.run(False, x, None, parameters), dx, *found_gradients),
        (*expected, *gradients),
        strict=True,
    )
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)  # type: ignore[arg-type]
