"""What a function or a class can be given, read off its signature and its docstring.

The constructor of a model, `data.open` and the training options are described once, where they
are; the command line and `steadyflow models NAME` read them here.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

REQUIRED: Any = dataclasses.MISSING

_KINDS = {int: "INT", float: "NUMBER", str: "TEXT", bool: "BOOL"}
_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}


@dataclass(frozen=True)
class Option:
    """One option or argument of a command.

    Attributes:
        name: the parameter's name in Python.
        type: its annotation, resolved.
        default: its default, or REQUIRED.
        help: its line in the docstring.
        positional: given by its place, not by a flag.
        flag: its name on the command line, without dashes.
    """

    name: str
    type: Any
    default: Any
    help: str
    positional: bool = False
    flag: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "flag", self.flag or self.name.strip("_").replace("_", "-"))

    @property
    def flags(self) -> list[str]:
        """Everything that names it on the command line."""
        if self.positional:
            return []
        if self.default is True:
            return [f"--{self.flag}", f"--no-{self.flag}"]
        return [f"--{self.flag}", *self.short]

    @property
    def short(self) -> list[str]:
        """Its name with a single dash, if it is one letter."""
        return [f"-{self.flag}"] if len(self.flag) == 1 and not self.positional else []

    @property
    def is_switch(self) -> bool:
        """Whether it stands alone, without a value."""
        return self.type is bool

    @property
    def is_many(self) -> bool:
        """Whether it takes several values."""
        return _parts(self.type)[2]

    @property
    def metavar(self) -> str:
        """What stands for its value in the help."""
        if self.positional:
            return self.name.upper()
        choices, element, many = _parts(self.type)
        name = "{" + ",".join(choices) + "}" if choices else _KINDS.get(element, "VALUE")
        return f"{name} ..." if many else name

    @property
    def expects(self) -> str:
        """Its value in words, for an error."""
        choices, element, many = _parts(self.type)
        if choices:
            return f"one of {', '.join(choices)}"
        words = _WORDS.get(element, "a value")
        return words.removeprefix("a ") + "s, with spaces between them" if many else words

    @property
    def shown_default(self) -> str:
        """Its default as one would type it; nothing for None, False and REQUIRED."""
        if self.default is REQUIRED or self.default is None or isinstance(self.default, bool):
            return ""
        if isinstance(self.default, list | tuple):
            return " ".join(map(str, self.default))
        return str(self.default)


def read(source: Callable[..., Any], leave_out: Iterable[str] = ()) -> list[Option]:
    """The options of a function, a class or a dataclass.

    Args:
        source: what will be called with the values.
        leave_out: names that the command line fills in by itself.

    Example:
        >>> def blur(image: str, *, radius: int = 3):
        ...     '''Blurs an image.
        ...
        ...     Args:
        ...         image: the file.
        ...         radius: in pixels.
        ...     '''
        >>> [(option.flag, option.default, option.help) for option in read(blur)][1]
        ('radius', 3, 'in pixels.')
    """
    described = descriptions(inspect.getdoc(source) or "")
    found = _of_dataclass if dataclasses.is_dataclass(source) else _of_signature
    skipped = {*leave_out, "self"}
    return [
        Option(name, kind, default, described.get(name, ""), positional)
        for name, kind, default, positional in found(source)
        if name not in skipped
    ]


def summary(source: Callable[..., Any]) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(source) or "").partition("\n")[0]


def introduction(source: Callable[..., Any]) -> str:
    """A docstring up to its first section, one line a paragraph."""
    text = re.split(r"\n\s*\n(?=[A-Z]\w+:\n)", inspect.getdoc(source) or "")[0]
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def descriptions(doc: str) -> dict[str, str]:
    """The entries of a docstring's 'Args:' or 'Attributes:' section, by name."""
    found: dict[str, str] = {}
    section = re.search(r"^(?:Args|Attributes):\n((?:(?: {4}.*)?\n)*)", doc + "\n", re.MULTILINE)
    for line in section[1].splitlines() if section else ():
        entry = re.match(r" {4}\**(\w+): (.*)", line)
        if entry:
            found[entry[1]] = entry[2]
        elif line.strip() and found:
            found[next(reversed(found))] += " " + line.strip()
    return {name: text.replace("``", "") for name, text in found.items()}


def _of_dataclass(source: Any) -> Iterable[tuple[str, Any, Any, bool]]:
    hints = typing.get_type_hints(source)
    for field in dataclasses.fields(source):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if field.init:
            yield field.name, hints[field.name], default, False


def _of_signature(source: Any) -> Iterable[tuple[str, Any, Any, bool]]:
    function = inspect.unwrap(source.__init__ if inspect.isclass(source) else source)
    hints = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = REQUIRED if parameter.default is parameter.empty else parameter.default
        positional = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        yield name, hints.get(name, str), default, positional


def _parts(kind: Any) -> tuple[list[str], Any, bool]:
    """Its choices, the type of one value, and whether there may be several values."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in arguments if a is not type(None)]
        return _parts(inner[0])
    if origin is typing.Literal:
        return [str(a) for a in arguments], str, False
    if origin in (list, tuple, collections.abc.Sequence):
        return [], arguments[0], True
    return [], kind, False
