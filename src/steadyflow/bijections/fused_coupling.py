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
import threading
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from steadyflow import native
from steadyflow.bijections.bijection import Transformed, zero_log_det
from steadyflow.bijections.transforms import Additive, Affine
from steadyflow.networks.fused_masked import hooked, ordinary
from steadyflow.networks.mlp import MLP

if TYPE_CHECKING:
    from steadyflow.bijections.coupling import Coupling

PANEL = 64  # P of the C file
TRANSFORMS = {"additive": 0, "tanh": 1, "softsign": 2}
LARGEST_BOUND = 40.0  # of a log-scale: the kernel's exp has no overflow to handle
KEPT = 2**20  # floats of activations of a layer, up to which they are kept for the gradients
WORK_OF_A_THREAD = 2**20  # multiplications below which a second thread costs more than it brings
INTEGER, FLOAT, POINTER = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
Parameters = Sequence[Tensor]  # weight and bias of each linear layer in turn


class _Layer(ctypes.Structure):
    """`Layer` of the C file."""

    _fields_ = (
        *((n, INTEGER) for n in ("batch", "features", "kept", "kept_start", "moved")),
        *((n, INTEGER) for n in ("moved_start", "step", "context", "layers", "transform")),
        *((n, INTEGER) for n in ("inverse", "threads")),
        *((n, FLOAT) for n in ("bound", "clip")),
        *((n, POINTER) for n in ("widths", "weights", "biases", "x", "given")),
        *((n, INTEGER) for n in ("x_row", "x_column", "given_row", "given_column")),
        *((n, POINTER) for n in ("scratch", "kept_activations")),
    )
    hold: Any  # what has to live as long as the addresses


class _Gradients(ctypes.Structure):
    """`Gradients` of the C file."""

    _fields_ = (
        *((n, POINTER) for n in ("dz", "d_log_det")),
        *((n, INTEGER) for n in ("dz_row", "dz_column", "d_log_det_row")),
        *((n, POINTER) for n in ("dx", "d_context", "d_weights", "d_biases")),
    )
    hold: Any


class Plan:
    """What the kernel has to know of a coupling apart from its weights and its input.

    Args:
        library: the compiled kernel.
        columns: the indices of the kept variables and of the moved ones.
        transform: a key of `TRANSFORMS`.
        bound: of the log-scale.
        clip: of the conditioner's input, or None.
        widths: of the conditioner's input, of its hidden layers and of its output.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        columns: tuple[range, range],
        transform: str,
        bound: float,
        clip: float | None,
        widths: tuple[int, ...],
    ):
        kept, moved = columns
        self.library, self.additive = library, transform == "additive"
        self.widths = (INTEGER * len(widths))(*widths)
        self.pointers = POINTER * (len(widths) - 1)
        self.work = sum(a * b for a, b in pairwise(widths))
        self.layer = _Layer(
            features=len(kept) + len(moved),
            kept=len(kept),
            kept_start=kept.start,
            moved=len(moved),
            moved_start=moved.start,
            step=kept.step,
            context=widths[0] - len(kept),
            layers=len(widths) - 1,
            transform=TRANSFORMS[transform],
            bound=bound,
            clip=clip or 0.0,
            widths=ctypes.addressof(self.widths),
        )
        self.activations = library.steadyflow_activations(self.layer)
        self.scratch = [library.steadyflow_scratch(self.layer, back) for back in (0, 1)]

    def run(
        self,
        inverse: bool,
        x: Tensor,
        context: Tensor | None,
        parameters: Parameters,
        kept: Tensor | None = None,
    ) -> Transformed:
        """The coupling of x: (batch, features), or its inverse; leaves activations in `kept`."""
        z = x.new_empty(x.shape)
        log_det = zero_log_det(x) if self.additive else x.new_empty(len(x))
        layer = self._call(inverse, x, context, parameters, kept, back=False)
        self.library.steadyflow_forward(layer, z.data_ptr(), log_det.data_ptr())
        return z, log_det

    def gradients(
        self,
        inverse: bool,
        x: Tensor,
        context: Tensor | None,
        parameters: Parameters,
        outer: Transformed,
        wanted: Sequence[bool],
        kept: Tensor | None = None,
    ) -> list[Tensor | None]:
        """The gradients of x, the context and the parameters, as far as they are wanted."""
        dz, d_log_det = outer
        dx = x.new_empty(x.shape) if wanted[0] else None
        d_context = x.new_empty(context.shape) if context is not None and wanted[1] else None
        found = [x.new_empty(p.shape) for p in parameters] if any(wanted[2:]) else []
        layer = self._call(inverse, x, context, parameters, kept, back=True)
        gradients = _Gradients(
            dz=dz.data_ptr(),
            d_log_det=d_log_det.data_ptr(),
            dz_row=dz.stride(0),
            dz_column=dz.stride(1),
            d_log_det_row=d_log_det.stride(0),
            dx=None if dx is None else dx.data_ptr(),
            d_context=None if d_context is None else d_context.data_ptr(),
        )
        if found:
            gradients.d_weights, gradients.d_biases, gradients.hold = self._addresses(found)
        self.library.steadyflow_backward(layer, gradients)
        return [dx, d_context, *(found or len(parameters) * [None])]

    def borrow(self, x: Tensor) -> Tensor | None:
        """Memory for the activations of x, if they are to be kept."""
        size = -(-len(x) // PANEL) * self.activations
        if size > KEPT:
            return None
        free = _free.setdefault(size, [])
        return free.pop() if free else x.new_empty(size)

    def _call(
        self,
        inverse: bool,
        x: Tensor,
        context: Tensor | None,
        parameters: Parameters,
        kept: Tensor | None,
        back: bool,
    ) -> _Layer:
        layer = _Layer.from_buffer_copy(self.layer)
        layer.batch, layer.inverse = len(x), inverse
        most = len(x) * self.work // WORK_OF_A_THREAD
        threads = 1 if most < 2 else min(most, torch.get_num_threads(), -(-len(x) // PANEL))
        layer.threads, layer.scratch = threads, _scratch(threads * self.scratch[back])
        layer.kept_activations = None if kept is None else kept.data_ptr()
        layer.x = x.data_ptr()
        layer.x_row, layer.x_column = x.stride()
        if context is not None:
            layer.given = context.data_ptr()
            layer.given_row, layer.given_column = context.stride()
        layer.weights, layer.biases, layer.hold = self._addresses(parameters)
        return layer

    def _addresses(self, parameters: Parameters) -> tuple[int, int, Any]:
        """Where C finds the addresses of weights and biases, and what keeps them there."""
        addresses = [p.data_ptr() for p in parameters]
        weights, biases = self.pointers(*addresses[::2]), self.pointers(*addresses[1::2])
        return ctypes.addressof(weights), ctypes.addressof(biases), (weights, biases)


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
    """The same gradients as a graph of plain operations, to be differentiated or transformed."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # views, so that the derivative stops here even where one input was computed from another
        inputs = tuple(v if v is None else v.view_as(v) for v in inputs)
        x, context, *parameters = inputs
        network = ctx.coupling.conditioner
        names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
        named = dict(zip(names, parameters, strict=True))

        def conditioner(*given: Tensor | None) -> Tensor:
            return torch.func.functional_call(network, named, given, tie_weights=False)

        outputs = ctx.coupling.plain(conditioner, x, context, ctx.inverse)
        if ctx.plan.additive:
            outputs, outer = outputs[:1], outer[:1]
        sought = [v for v, w in zip(inputs, wanted, strict=True) if w]
        found = iter(
            torch.autograd.grad(
                outputs, sought, outer, create_graph=create_graph, allow_unused=True
            )
        )
    return [next(found) if w else None for w in wanted]


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
        if not (_usable(weight) and _usable(bias)) or weight.shape[1] != widths[-1]:  # type: ignore[union-attr]
            return None
        parameters += weight, bias  # type: ignore[arg-type]
        widths.append(len(bias))  # type: ignore[arg-type]
    if widths[-1] != transform.planes * len(columns[1]) or not all(widths):
        return None
    return plan(library, columns, name, bound, network.clip, tuple(widths)), parameters


plan = cache(Plan)


def _usable(parameter: Tensor | None) -> bool:
    return (
        (type(parameter) is nn.Parameter or type(parameter) is Tensor)
        and parameter.is_cpu
        and parameter.dtype == torch.float32
        and parameter.is_contiguous()
    )


_free: dict[int, list[Tensor]] = {}  # fresh memory costs time: that of a step serves the next
_local = threading.local()


def give_back(kept: Tensor | None) -> None:
    """Memory that `Plan.borrow` gave."""
    if kept is not None:
        if len(_free) > 8:  # sizes: of batches that have not come again
            _free.clear()
        _free.setdefault(len(kept), []).append(kept)


def _scratch(size: int) -> int:
    """The address of floats for one call, kept for the next."""
    buffer = getattr(_local, "buffer", None)
    if buffer is None or len(buffer) < size:
        buffer = _local.buffer = torch.empty(size, dtype=torch.float32, device="cpu")
    return buffer.data_ptr()


@cache
def _library() -> ctypes.CDLL | None:
    """The compiled kernel, if it can be had and does what it should."""
    library = native.load(Path(__file__).with_suffix(".c"))
    if library is None:
        return None
    layer = ctypes.POINTER(_Layer)
    library.steadyflow_scratch.argtypes = [layer, INTEGER]
    library.steadyflow_activations.argtypes = [layer]
    library.steadyflow_scratch.restype = library.steadyflow_activations.restype = INTEGER
    library.steadyflow_forward.argtypes = [layer, POINTER, POINTER]
    library.steadyflow_backward.argtypes = [layer, ctypes.POINTER(_Gradients)]
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
