"""The constructor is the config: a model keeps the arguments that it was built with.

Plain values alone are kept (numbers, strings, lists, None), so that they can be written down as
JSON and the model be built again from them, without running anybody's code.
"""

from __future__ import annotations

import functools
import inspect
import json
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steadyflow.models.model import GenerativeModel


def keeps_arguments(init: Callable[..., None]) -> Callable[..., None]:
    """Wraps a constructor so that the outermost call leaves its arguments in `self.config`."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapped(self: GenerativeModel, **given: Any) -> None:
        outermost = not getattr(self, "_building", False)
        if outermost:
            object.__setattr__(self, "_building", True)
        try:
            init(self, **given)
        finally:
            if outermost:
                object.__setattr__(self, "_building", False)
        if outermost:
            bound = signature.bind(self, **given)
            bound.apply_defaults()
            config = {k: v for k, v in bound.arguments.items() if k != "self"} | self._resolved
            self.config = json.loads(json.dumps(config, default=_plain))

    return wrapped


def check_event_shape(event_shape: Sequence[int]) -> tuple[int, ...]:
    """A tuple of positive integers, of length 1 (vectors) or 3 (images)."""
    try:
        shape = tuple(operator.index(n) for n in event_shape)
    except TypeError:
        raise ValueError(
            f"event_shape must be a list such as [2] or [1, 28, 28], got {event_shape!r}"
        ) from None
    if len(shape) not in (1, 3) or min(shape) < 1:
        raise ValueError(
            "event_shape must be [variables] for vectors or [channels, height, width] for images, "
            f"got {list(shape)}"
        )
    return shape


def _plain(value: Any) -> Any:
    """NumPy and torch numbers as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a model is built from plain values, not from a {type(value).__name__}")
