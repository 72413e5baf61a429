"""`steadyflow models`: what can be trained, and what can be chosen about each."""

from __future__ import annotations

from typing import Any

from steadyflow.cli import console


def models(name: str | None = None) -> Any:
    """Lists the models, or the options of one of them.

    Args:
        name: a model, to see its options with their defaults.
    """
    return _list() if name is None else _describe(name)


def _list() -> list[dict[str, Any]]:
    from steadyflow.models import MODELS

    rows = [
        {
            "name": name,
            "class": entry.attribute,
            "about": entry.about,
            "likelihood": entry.likelihood,
        }
        for name, entry in MODELS.items()
    ]
    console.table(
        ("model", "what it is", "data and what its likelihood is"),
        [
            (name, e.about, ", ".join(f"{kind}: {word}" for kind, word in e.likelihood.items()))
            for name, e in MODELS.items()
        ],
    )
    console.say(
        "'steadyflow models NAME' lists a model's options.",
    )
    return rows


def _describe(name: str) -> dict[str, Any]:
    from steadyflow.cli.choices import model_options
    from steadyflow.cli.options import introduction
    from steadyflow.models import model_class

    options = model_options(name)
    about = introduction(model_class(name))
    console.say(f"{name}: {about}")
    console.table(
        ("option", "value", "default", "what it is"),
        [(" ".join(o.flags), o.metavar, o.shown_default or "-", o.help) for o in options],
    )
    console.say(f"'steadyflow train {name} SOURCE' trains it; the data decide its shape.")
    return {
        "name": name,
        "about": " ".join(about.split()),
        "options": [
            {"option": o.flags[0], "value": o.metavar, "default": o.default, "about": o.help}
            for o in options
        ],
    }
