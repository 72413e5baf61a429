"""Ctrl-C and SIGTERM ask training to stop after the step at hand, instead of breaking it off."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While it is installed, the first signal only sets `asked`; a second one acts as usual.

    Args:
        then: what else to do at the first signal, given its number.
    """

    def __init__(self, then: Callable[[int], Any] | None = None) -> None:
        self.asked = False
        self._then = then
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Starts to listen; does nothing outside the main thread, where Python allows none."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def remove(self) -> None:
        """Puts back what was there before."""
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def _note(self, number: int, frame: Any) -> None:
        self.asked = True
        self.remove()
        if self._then is not None:
            self._then(number)

    def __getstate__(self) -> dict[str, Any]:
        return {"asked": self.asked, "_then": None, "_before": {}}
