"""Randomness that follows from the seed and the step alone.

Every step seeds the generators anew from (seed, step, process). So a resumed run draws what the
uninterrupted one would have drawn, and nothing that a callback draws between two steps (pictures,
validation noise) disturbs the training.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def mix(*numbers: int) -> int:
    """One well-mixed 63-bit seed of several numbers (the finaliser of splitmix64).

    Example:
        >>> mix(0, 1) != mix(1, 0)
        True
    """
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state >> 1


def seed_everything(*numbers: int) -> None:
    """Seeds torch (and the current GPU), NumPy's global generator and Python's.

    Not torch.manual_seed, which records a stack trace for every GPU that is not in use.
    """
    seed = mix(*numbers)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the global state is what is meant
    random.seed(seed)


@contextlib.contextmanager
def own_randomness(*numbers: int) -> Iterator[None]:
    """Seeds everything for the block, and puts back afterwards what was there before."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices):
        seed_everything(*numbers)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
