"""Small C kernels, compiled on the user's machine the first time they are wanted.

A kernel is one C file beside the Python that calls it. It is built with the machine's own C
compiler (`$CC`, or cc) for the machine's own instruction set, kept in the user's cache folder
under a name that hashes the source, the headers, the flags and everything the compiler says about
itself and its target, and loaded with ctypes. Where there is no compiler, or the build fails,
`load` gives None and the caller's plain torch code serves: a kernel is a matter of speed, never of
results. `STEADYFLOW_NATIVE=0` switches all of them off.

What every caller has to ask before it takes a kernel is here too (are the tensors `ordinary`, the
weights `plain`, the modules not `hooked`?), and what it does instead when a gradient is to be
differentiated again.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-ffp-contract=fast", "-shared", "-fPIC"]
HEADERS = Path(__file__).parent  # what C files include as "../panel.h"
TIMEOUT = 60  # seconds for one call of the compiler
_local = threading.local()


def load(source: Path) -> ctypes.CDLL | None:
    """The compiled library of a C file, or None where it can not be had."""
    command = shlex.split(os.environ.get("CC", "cc"))
    if os.environ.get("STEADYFLOW_NATIVE", "1") == "0" or not shutil.which(command[0]):
        return None
    if sys.platform == "win32":
        return None
    for flags in ([*FLAGS, "-fopenmp"], FLAGS):
        try:
            return ctypes.CDLL(str(_build(source, [*command, *flags])))
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def ordinary(x: Tensor) -> bool:
    """Whether x is plain float32 in plain memory, seen by nobody but autograd."""
    return (
        (type(x) is Tensor or type(x) is nn.Parameter)
        and x.is_cpu
        and x.dtype == torch.float32
        and x.layout == torch.strided
        and torch._C._has_storage(x)
        and not x.is_neg()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._get_tracing_state()
        and not torch.is_autocast_enabled("cpu")
        and forward_ad._current_level < 0
    )


def plain(parameter: Tensor | None) -> bool:
    """Whether a parameter is plain float32 in one piece of memory."""
    return (
        (type(parameter) is nn.Parameter or type(parameter) is Tensor)
        and parameter.dtype == torch.float32
        and parameter.is_cpu
        and parameter.is_contiguous()
    )


def hooked(module: nn.Module) -> bool:
    """Whether somebody wants to see the module being called."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def scratch(size: int) -> int:
    """The address of floats for one call, kept for the next: fresh memory costs time."""
    buffer = getattr(_local, "buffer", None)
    if buffer is None or len(buffer) < size:
        buffer = _local.buffer = torch.empty(size, dtype=torch.float32, device="cpu")
    return buffer.data_ptr()


def plain_gradients(
    compute: Callable[..., Tensor | Sequence[Tensor]],
    inputs: Sequence[Tensor | None],
    outer: Tensor | Sequence[Tensor],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """A kernel's gradients as plain operations, to be differentiated or transformed.

    Args:
        compute: the outputs of the inputs, in plain operations.
        inputs: what the kernel was given.
        outer: the gradients of the outputs.
        wanted: whether the gradient of each input is.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # views, so that the derivative stops here even where one input was computed from another
        inputs = [v if v is None else v.view_as(v) for v in inputs]
        sought = [v for v, w in zip(inputs, wanted, strict=True) if w and v is not None]
        found = iter(
            torch.autograd.grad(
                compute(*inputs), sought, outer, create_graph=create_graph, allow_unused=True
            )
        )
    return [
        next(found) if w and v is not None else None for v, w in zip(inputs, wanted, strict=True)
    ]


def _build(source: Path, command: list[str]) -> Path:
    target = _run([*command, "-dM", "-E", "-x", "c", os.devnull])
    texts = [path.read_bytes() for path in (source, *sorted(HEADERS.glob("*.h")))]
    name = hashlib.sha256(b"\0".join([*texts, " ".join(command).encode(), target]))
    library = _cache() / f"{source.stem}-{name.hexdigest()[:24]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            aside = Path(folder) / library.name
            _run([*command, str(source), "-o", str(aside)])
            aside.replace(library)
    return library


def _run(command: list[str]) -> bytes:
    return subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT).stdout


def _cache() -> Path:
    """The user's own cache folder, closed to others: what lies in it is executed."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "steadyflow"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
        raise PermissionError(f"{folder} can be written by others")
    return folder
