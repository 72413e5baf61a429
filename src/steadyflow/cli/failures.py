"""What went wrong, in one sentence and an exit code.

    2    the command itself is wrong (`UsageError`)
    1    everything else that fails
    130  interrupted with Ctrl-C
    141  whoever read the output has closed it

A sentence that the library wrote for the user is shown as it is. Anything else is a defect, of
the library or of what it stands on: its type is shown too, and how to see where it came from.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import Path

from steadyflow.errors import TrainingError, UsageError

USAGE, FAILURE, INTERRUPTED, CLOSED = 2, 1, 130, 141

_PACKAGE = str(Path(__file__).resolve().parents[1])
_NO_SPACE = re.compile(r"No space left|os error 28|PytorchStreamWriter failed writing")
_NO_MEMORY = re.compile(r"not enough memory|can't allocate memory|out of memory", re.IGNORECASE)


def exit_code(error: BaseException) -> int:
    """The process's exit code for an error."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return CLOSED
    return USAGE if isinstance(error, UsageError) else FAILURE


def sentence(error: BaseException) -> str:
    """What to tell the user about an error, in one line."""
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted; what was saved before is kept"
    if _is_full_disk(error) and not _is_meant_for_users(error):
        name = next(
            (e.filename for e in _causes(error) if isinstance(e, OSError) and e.filename), None
        )
        where = f" while writing {name}" if name else ""
        return (
            f"the disk is full{where}: free some space and run the command again; "
            "what was saved before is kept"
        )
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return "there is not enough memory: try a smaller --batch-size, or fewer examples"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}"
    if _is_meant_for_users(error):
        return _as_typed(_one_line(error))
    return f"{type(error).__name__}: {_one_line(error)} (run again with --debug for the traceback)"


def _is_full_disk(error: BaseException) -> bool:
    return any(
        getattr(e, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _NO_SPACE.search(str(e))
        for e in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_meant_for_users(error: BaseException) -> bool:
    """Whether a line of this package raised it on purpose."""
    if isinstance(error, UsageError | TrainingError):
        return True
    if not isinstance(error, ValueError | OSError | ImportError):
        return False
    if isinstance(error, OSError) and error.errno is not None:
        return False  # the system's own words
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename.startswith(_PACKAGE)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or "no reason was given"


def _as_typed(text: str) -> str:
    """Options as they are typed here: ``drop=['a', 'b']`` becomes ``--drop a b``."""
    from steadyflow.cli.choices import data_options, training_options

    options = (*data_options(), *training_options())
    names = "|".join(option.name for option in options if option.name != "seed")

    def typed(match: re.Match[str]) -> str:
        values = re.findall(r"'([^']*)'", match[2]) or [match[2]]
        return f"--{match[1].replace('_', '-')} {' '.join(values)}".rstrip()

    return re.sub(rf"\b({names})=(\[[^\]]*\]|'[^']*'|-?[\w.]*)", typed, text)
