"""`steadyflow models`: what can be trained, and what can be chosen about each."""

from __future__ import annotations

from typing import Any

from steadyflow.cli import console


def models(name: str | None = None, *, trained: bool = False) -> Any:
    """Lists the models, or the options of one of them.

    Args:
        name: a model, to see its options with their defaults; with --trained a trained one.
        trained: list the trained models that come along, with their data and numbers.
    """
    if trained:
        return _list_trained() if name is None else _describe_trained(name)
    return _list() if name is None else _describe(name)


def _list_trained() -> list[dict[str, Any]]:
    from steadyflow import trained

    cards = [trained.card(name) for name in trained.names()]
    console.table(
        ("name", "model", "data", "test likelihood", "MB", "what it is"),
        [
            (c["name"], c["model"], c["data"]["source"], _number(c), _size(c), c["about"])
            for c in cards
        ],
    )
    console.say(
        "Each can be used by its name: 'steadyflow sample NAME'.",
        "'steadyflow models NAME --trained' says how it was made.",
    )
    return cards


def _describe_trained(name: str) -> dict[str, Any]:
    from steadyflow import trained
    from steadyflow.errors import unknown

    if name not in trained.names():
        raise unknown("trained model", name, trained.names())
    card = trained.card(name)
    minutes = "" if card["minutes"] is None else f"{card['minutes']} minutes"
    console.facts(
        {
            "name": name,
            "what it is": card["about"],
            "data": card["data"]["source"],
            "test likelihood": f"{_number(card)}, {card['evaluation']['examples']:,} examples",
            "it is": card["evaluation"]["meaning"],
            "made by": f"{card['command']}",
            "training took": minutes,
            "weights": f"{_size(card)} MB{', rounded to 16 bits' if card['half'] else ''}",
        }
    )
    return card


def _number(card: dict[str, Any]) -> str:
    from steadyflow.evaluation.wording import measured

    found = card["evaluation"]
    if found["log_likelihood"] is None:
        return found["likelihood"]
    if found["density_nats"] is not None:
        bits = measured(found["bits_per_dimension"], found["bits_per_dimension_error"])
        return f"{bits} bits per dimension ({found['likelihood']})"
    nats = measured(found["log_likelihood"], found["standard_error"])
    return f"{nats} nats ({found['likelihood']})"


def _size(card: dict[str, Any]) -> str:
    return f"{card['bytes'] / 1e6:.2f}"


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
