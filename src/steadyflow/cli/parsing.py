"""From the words of a command to the values of its options; tyro does the parsing and the help.

tyro answers a mistake with a box of several lines; here a mistake becomes one sentence, a
`UsageError`, that names the option, what it takes and the nearest name that exists.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from steadyflow.cli.options import REQUIRED, Option
from steadyflow.errors import UsageError


@dataclass(frozen=True)
class Command:
    """One command as it is typed.

    Attributes:
        prog: its words, such as 'steadyflow train'.
        about: what its help says before the options.
        options: its own arguments and options.
        groups: further options, by the title that they stand under in the help.
    """

    prog: str
    about: str
    options: list[Option]
    groups: dict[str, list[Option]] = field(default_factory=dict)

    @property
    def every(self) -> list[Option]:
        """All options, of the groups too."""
        return [*self.options, *(o for group in self.groups.values() for o in group)]


@dataclass(frozen=True)
class Parsed:
    """The values of a command.

    Attributes:
        values: the command's own options, by their names in Python.
        groups: the options of each group.
        given: of each group, only the values that were typed.
        words: what was typed.
    """

    values: dict[str, Any]
    groups: dict[str, dict[str, Any]]
    given: dict[str, dict[str, Any]]
    words: list[str]


def parse(command: Command, words: Sequence[str]) -> Parsed:
    """Reads the words of a command.

    Raises:
        UsageError: for an unknown option, a missing argument or a value that does not fit.
        SystemExit: with 0, after ``--help`` was printed.
    """
    import tyro

    typed = list(words)
    given = _given(command, words)
    if {"-h", "--help"} & set(words):
        words = ["--help"]  # tyro leaves out of the help what was given before it
    aside = io.StringIO()
    try:
        with contextlib.redirect_stderr(aside):
            result: Any = tyro.cli(
                _form(command),
                prog=command.prog,
                description=command.about,
                args=list(words),
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if stop.code:
            raise UsageError(_sentence(command, words, aside.getvalue())) from None
        raise
    groups = {
        title: _values(options, getattr(result, _field(title)))
        for title, options in command.groups.items()
    }
    chosen = {
        title: {o.name: groups[title][o.name] for o in options if o.flag in given}
        for title, options in command.groups.items()
    }
    return Parsed(_values(command.options, result), groups, chosen, typed)


def positionals(command: Command, words: Sequence[str]) -> list[str]:
    """The words that belong to no option, as far as the known options tell."""
    flags = {flag: option for option in command.every for flag in option.flags}
    found, skipping = [], False
    for word in words:
        if _is_flag(word):
            name, equals, _ = word.partition("=")
            option = flags.get(_spelled(name))
            skipping = not equals and option is not None and not option.is_switch
        elif skipping:
            skipping = False
        else:
            found.append(word)
    return found


def _form(command: Command) -> type:
    """The dataclass that tyro fills in."""
    fields: list[Any] = [_dataclass_field(option) for option in command.options]
    fields.sort(key=lambda entry: entry[2].default is not REQUIRED)
    for title, options in command.groups.items():
        group = dataclasses.make_dataclass(title, [_dataclass_field(o) for o in options])
        fields.append((_field(title), group, dataclasses.field(default_factory=group)))
    return dataclasses.make_dataclass("Form", fields)


def _dataclass_field(option: Option) -> tuple[str, Any, Any]:
    import tyro

    hint = f"(default: {option.shown_default})" if option.shown_default else ""
    settings = tyro.conf.arg(
        name=option.metavar if option.positional else option.flag,
        help=option.help,
        metavar=None if option.is_switch else option.metavar,
        help_behavior_hint=hint,
        aliases=option.short or None,
    )
    kind: Any = Annotated[option.type, settings]
    if option.positional:
        kind = Annotated[option.type, settings, tyro.conf.Positional]
    if option.default is False:
        kind = Annotated[bool, settings, tyro.conf.FlagCreatePairsOff]
    default = tuple(option.default) if isinstance(option.default, list) else option.default
    return f"option_{option.name}", kind, dataclasses.field(default=default)


def _values(options: list[Option], filled: Any) -> dict[str, Any]:
    return {option.name: getattr(filled, f"option_{option.name}") for option in options}


def _field(title: str) -> str:
    return title.replace(" ", "_")


def _is_flag(word: str) -> bool:
    return re.fullmatch(r"--?[A-Za-z].*", word, re.DOTALL) is not None


def _spelled(name: str) -> str:
    return name[:2] + name[2:].replace("_", "-")


def _given(command: Command, words: Sequence[str]) -> set[str]:
    known = {flag: o.flag for o in command.every for flag in o.flags}
    given = set()
    for word in words:
        name = _spelled(word.partition("=")[0])
        if not _is_flag(word) or name in ("-h", "--help"):
            continue
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise UsageError(
                f"unknown option '{name}': {hint}(--help in its place lists them all)"
            )
        given.add(known[name])
    return given


def _sentence(command: Command, words: Sequence[str], boxed: str) -> str:
    """What tyro printed in a , as one sentence."""
    text = " ".join(re.sub(r"[╭╮╰╯│─|+]|-{3,}", " ", boxed).split())
    named = re.search(r"(?:parsing |argument ')(-[\w-]+|[A-Z_]+)", text)
    options = {flag: o for o in command.every for flag in [*o.flags, *[o.metavar] * o.positional]}
    if named and named[1] in options:
        return _bad_value(options[named[1]], named[1], words)
    if text.startswith("Required options"):
        typed = positionals(command, words)
        missing = [o for o in command.options if o.positional][len(typed) :]
        needed = [o for o in missing if o.default is REQUIRED]
        if needed:
            wanted = " and ".join(f"{o.metavar} ({o.help.rstrip('.')})" for o in needed)
            return f"{command.prog} needs {wanted}: see '{command.prog} --help'"
    extra = re.search(r"Unrecognized options: (.*?)(?: For full|$)", text)
    if extra:
        return f"unexpected '{extra[1]}': see '{command.prog} --help'"
    return text


def _bad_value(option: Option, name: str, words: Sequence[str]) -> str:
    values: list[str] = []
    for i, word in enumerate(words):
        flag, equals, rest = word.partition("=")
        if _spelled(flag) in option.flags:
            after = itertools.takewhile(lambda w: not _is_flag(w), words[i + 1 :])
            values = [rest] if equals else list(after)
    if not values:
        return f"{name} needs a value: {option.expects}"
    shown = " ".join(values if option.is_many else values[:1])
    return f"{name} takes {option.expects}, but '{shown}' was given"
