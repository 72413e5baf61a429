"""What the user sees: words and tables on a terminal, plain text in a pipe, JSON for a program."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steadyflow.training.processes import is_main_process


def say(*lines: str) -> None:
    """Prints lines, exactly as they are."""
    for line in lines:
        print(line)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Prints a table; without colours or frames where the output is no terminal."""
    import rich.box
    import rich.console
    import rich.table

    made = rich.table.Table(
        *headers, title=title or None, title_justify="left", box=rich.box.SIMPLE_HEAD
    )
    for row in rows:
        made.add_row(*map(str, row))
    width = None if sys.stdout.isatty() else 200
    screen = rich.console.Console(file=sys.stdout, width=width, highlight=False, markup=False)
    with screen.capture() as drawn:  # rich would end the process if nobody reads
        screen.print(made)
    lines = drawn.get().strip("\n").splitlines()
    say("", *(line.rstrip() for line in lines), "")


def facts(pairs: Mapping[str, object]) -> None:
    """Prints names and values in two columns."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        print(f"{name:<{width}}  {value}")


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr that is called with (done, all); None where nobody would see it."""
    if not (sys.stderr.isatty() and is_main_process()):
        yield None
        return
    import rich.console
    import rich.progress

    screen = rich.console.Console(stderr=True)
    with rich.progress.Progress(console=screen, transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def as_json(answer: Any) -> str:
    """One strict JSON document; what is not finite becomes null."""
    return json.dumps(_plain(answer), indent=2, ensure_ascii=False, allow_nan=False)


def program() -> str:
    """What to type to run this command line again, from the current folder."""
    if shutil.which("steadyflow"):
        return "steadyflow"
    script = Path(sys.executable).with_name("steadyflow")
    if not script.exists():
        return "python -m steadyflow"
    with contextlib.suppress(ValueError):
        return str(script.relative_to(Path.cwd()))
    return str(script)


def prepare_process() -> None:
    """Settings that are read when torch is loaded; what the user has set goes before them."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # threads that spin while they wait make training ten times slower where others use the cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the warnings and the notes of other libraries from the user's screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def words_aside(silent: bool, as_json: bool) -> Iterator[None]:
    """Sends what is printed for people to nowhere or to stderr, if stdout is not for it."""
    with contextlib.ExitStack() as stack:
        if silent:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        elif as_json:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return str(value)
