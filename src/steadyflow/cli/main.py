"""`steadyflow VERB ...`: finds the verb, runs it, and turns what goes wrong into one sentence."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from steadyflow import __version__
from steadyflow.cli import console, failures
from steadyflow.cli.options import Option, introduction, read, summary
from steadyflow.errors import UsageError

VERBS = (
    "train",
    "evaluate",
    "sample",
    "interpolate",
    "manipulate",
    "complete",
    "reconstruct",
    "quality",
    "report",
    "score",
    "whiten",
    "sts",
    "check",
    "explore",
    "models",
    "data",
    "demo",
)

EXAMPLES = (
    ("steadyflow demo", "a flow on handwritten digits, start to finish"),
    ("steadyflow train realnvp moons", "train on two-dimensional points"),
    ("steadyflow train nice table.csv --label class", "train on your own table"),
    ("steadyflow evaluate runs/realnvp-moons", "the likelihood of the test data"),
    ("steadyflow sample runs/realnvp-digits -n 100", "draw new examples"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: its words; those of the process without it.

    Returns:
        the exit code: 0, 1 for a failure, 2 for a wrong command.
    """
    if argv is None:
        console.prepare_process()
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        with console.quiet():
            _dispatch(words)
        sys.stdout.flush()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:
        return _fail(error, debug)
    return 0


def verb(name: str) -> Callable[..., Any]:
    """The function of a verb."""
    return getattr(importlib.import_module(f"steadyflow.cli.{name}"), name)


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        _help()
    elif words[0] in ("--version", "version"):
        console.say(f"steadyflow {__version__}")
    elif words[0] not in VERBS:
        _refuse(words)
    else:
        _run(words[0], words[1:])


def _run(name: str, words: list[str]) -> None:
    as_json = "--json" in words and not {"-h", "--help"} & set(words)
    silent = not console.is_main_process()
    with console.words_aside(silent, as_json):
        answer = _call(name, words)
    if as_json and not silent:
        console.say(console.as_json(answer))


def _call(name: str, words: list[str]) -> Any:
    from steadyflow.cli.choices import apart
    from steadyflow.cli.parsing import Command, parse

    function = verb(name)
    module = sys.modules[function.__module__]
    groups = module.groups(words) if hasattr(module, "groups") else {}
    options = [*read(function, leave_out=["options"]), *common()]
    groups = apart({"": options, **groups})
    own = groups.pop("")
    parsed = parse(Command(f"steadyflow {name}", introduction(function), own, groups), words)
    for option in common():
        parsed.values.pop(option.name)
    return function(**parsed.values, **({"options": parsed} if groups else {}))


def common() -> list[Option]:
    """The options that every verb has."""

    def options(*, json: bool = False, debug: bool = False) -> None:
        """The options that every verb has.

        Args:
            json: print the answer as one JSON document, and everything else to stderr.
            debug: show the traceback of an error.
        """

    return read(options)


def _help() -> None:
    console.say(
        "usage: steadyflow VERB [arguments] [options]",
        "",
        "Trains flow-based generative models, and says how likely data are under them.",
        "",
        "verbs:",
        *(f"  {name:<12} {summary(verb(name))}" for name in VERBS),
        "",
        "examples:",
        *(f"  {command:<46} {about}" for command, about in EXAMPLES),
        "",
        "'steadyflow VERB --help' explains a verb, 'steadyflow train MODEL --help' lists what can",
        "be chosen about a model. Every verb takes --json (for programs) and --debug.",
    )


def _refuse(words: list[str]) -> None:
    name = next((word for word in words if not word.startswith("-")), None)
    if name in VERBS:
        raise UsageError(f"'{words[0]}' came before the verb: write 'steadyflow {name} ...' first")
    near = difflib.get_close_matches(words[0], VERBS, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise UsageError(
        f"unknown verb '{words[0]}': {hint}(known: {', '.join(VERBS)}; see 'steadyflow --help')"
    )


def _fail(error: BaseException, debug: bool) -> int:
    if isinstance(error, BrokenPipeError):
        # the interpreter flushes stdout once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failures.CLOSED
    if isinstance(error, KeyboardInterrupt) and not console.is_main_process():
        return failures.INTERRUPTED
    if debug:
        traceback.print_exception(error)
    print(f"steadyflow: {failures.sentence(error)}", file=sys.stderr)
    return failures.exit_code(error)


if __name__ == "__main__":
    sys.exit(main())
