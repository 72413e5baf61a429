"""The errors that a user can cause, and the words for them.

A mistake is answered by one sentence that names what was given, what was expected and what to do.
`UsageError` is a wrong command or call (the command line exits with 2); every other exception is a
failure (it exits with 1).
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class UsageError(ValueError):
    """The call itself is wrong: an unknown name, an option out of its range."""


class TrainingError(RuntimeError):
    """Training can not go on; the message says what to try and what is kept."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """An error for a name that does not exist, with the nearest one that does.

    Example:
        >>> print(unknown("model", "realnpv", ["nice", "realnvp"]))
        unknown model 'realnpv': did you mean 'realnvp'? (known: nice, realnvp)
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return UsageError(f"unknown {kind} '{name}': {hint}(known: {', '.join(known)})")


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Imports an optional dependency, or says how to install it.

    Args:
        module: the name to import, for example ``"pyarrow.parquet"``.
        extra: the extra of steadyflow that brings it.
        purpose: what it is needed for, for the message.

    Raises:
        ImportError: with the pip line that installs the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs {module.split('.')[0]}: pip install 'steadyflow[{extra}]'"
        ) from error
