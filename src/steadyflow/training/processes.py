"""Which of several training processes this one is.

`fit(processes=n)` starts n processes itself. Under torchrun (or a cluster's own launcher) every
process runs the whole program, and says by its environment which one it is.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator


def launched_from_outside() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or {"RANK", "WORLD_SIZE"} <= os.environ.keys()


def local_processes() -> int:
    """How many processes torchrun started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", 1)))


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes files."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0


def started_by_fit() -> bool:
    """Whether this is one of the processes that `fit` has started."""
    return multiprocessing.parent_process() is not None and not launched_from_outside()


@contextlib.contextmanager
def same_environment() -> Iterator[None]:
    """Puts back the environment variables, where a training leaves its port to the next one."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
