"""Whether the values of tensors may be read: not while a program of tensor operations is recorded.

Checks of values (labels in range, pixels in range) ask here first: torch.compile can not branch on
values, vmap has many of them at once, and a CUDA graph must not wait for the GPU.
"""

from __future__ import annotations

import torch


def transforming() -> bool:
    """True inside vmap, grad, jacrev, jvp and the other transforms of `torch.func`."""
    return torch._C._are_functorch_transforms_active()


def recording() -> bool:
    """True while torch.compile traces, `torch.func` transforms or a CUDA graph is captured.

    Example:
        >>> recording()
        False
    """
    if torch.compiler.is_compiling() or transforming():
        return True
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
