"""Where mixed precision must not reach: what sets a density is computed in full."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


def full_precision(x: Tensor) -> contextlib.AbstractContextManager:
    """A context without autocast on x's device, if there is autocast."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()


@contextlib.contextmanager
def full_convolutions() -> Iterator[None]:
    """Float32 convolutions on GPUs with all of their digits, and afterwards as it was before.

    By default cuDNN rounds the inputs of float32 convolutions to ten bits (TF32). A coupling then
    differs by a thousandth between the two directions, and pixels do not come back.
    """
    try:
        before = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # somebody has chosen by torch's newer settings: the choice holds
        yield
        return
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextlib.contextmanager
def exact_arithmetic(x: Tensor) -> Iterator[None]:
    """A context in which what is iterated to a fixed point has all digits of its type.

    Neither autocast nor, on a GPU, convolutions whose inputs are rounded to TF32.
    """
    with full_precision(x), full_convolutions() if x.is_cuda else contextlib.nullcontext():
        yield
