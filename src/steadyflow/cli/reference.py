"""The reference of the command line, read off the program itself: `docs/` shows it.

python -m steadyflow.cli.reference
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from steadyflow.cli import choices
from steadyflow.cli.main import VERBS, common, verb
from steadyflow.cli.options import REQUIRED, Option, introduction, read, summary
from steadyflow.models import MODELS, model_class

HEAD = "| option | value | default | what it is |\n|---|---|---|---|"


def markdown() -> str:
    """Every verb with its arguments and options, and the options of every model."""
    parts = [
        "# Command-line reference\n",
        "Made from the program; `steadyflow VERB --help` says the same. [](../command-line) "
        "introduces it.\n",
    ]
    parts += [_verb(name) for name in VERBS]
    parts += [
        "## The options of the models\n\n"
        "Of `steadyflow train MODEL`; the data decide shape, classes and bits.\n"
    ]
    parts += [_model(name) for name in MODELS]
    parts += ["## Of every verb\n\n" + _table(common())]
    return "\n".join(parts)


def _verb(name: str) -> str:
    function = verb(name)
    module = sys.modules[function.__module__]
    own = read(function, leave_out=["options"])
    words = " ".join(_place(option) for option in own if option.positional)
    groups = module.groups([]) if hasattr(module, "groups") else {}
    # where two options have one name the later gives way, as on the command line
    groups = choices.apart({"": own, **groups})
    lines = [
        f"## steadyflow {name}\n",
        f"```\nsteadyflow {name} {words} [options]\n```\n".replace("  ", " "),
        introduction(function) + "\n",
        _table(groups.pop("")),
    ]
    for title, options in groups.items():
        if options:
            lines.append(f"Options of the {title}:\n\n{_table(options)}")
    return "\n".join(lines)


def _model(name: str) -> str:
    options = choices.model_options(name)
    return f"### {name}\n\n{summary(model_class(name))}\n\n{_table(options)}"


def _place(option: Option) -> str:
    return option.metavar if option.default is REQUIRED else f"[{option.metavar}]"


def _table(options: Iterable[Option]) -> str:
    rows = [
        (
            option.metavar if option.positional else " ".join(option.flags),
            "" if option.is_switch or option.positional else option.metavar,
            option.shown_default,
            option.help,
        )
        for option in options
    ]
    return "\n".join([HEAD, *("| " + " | ".join(map(_cell, row)) + " |" for row in rows), ""])


def _cell(text: str) -> str:
    """Text as Markdown shows it; code, if it is something to type."""
    text = text.replace("|", "\\|")
    return f"`{text}`" if text.startswith("-") else text.replace("*", "\\*").replace("<", "&lt;")


if __name__ == "__main__":
    print(markdown())
