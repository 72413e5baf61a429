"""Trained weights that come along: one folder each, small enough to ship.

    NAME/config.json, NAME/model.safetensors      a saved model
    NAME/card.json                                what it is, its data, its command, its numbers

Wherever a trained model is asked for, its NAME will do: ``steadyflow sample digits-realnvp``. A
folder of the same name here and now comes first. `steadyflow.trained.shipping` makes such a
folder of a run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
CARD = "card.json"


def names() -> list[str]:
    """The names of all trained models."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{CARD}"))


def find(name: str | Path) -> Path | None:
    """The folder of a trained model, or None if there is none of this name."""
    return FOLDER / str(name) if str(name) in names() else None


def card(name: str) -> dict[str, Any]:
    """What is known of a trained model.

    Returns:
        'about', 'model', 'data' (as a run's config.yaml records it), 'command', 'minutes',
        'evaluation' (as `steadyflow evaluate --json` gives it), 'half' (whether the weights were
        rounded to sixteen bits) and 'bytes'.
    """
    content = json.loads((FOLDER / name / CARD).read_text(encoding="utf-8"))
    return {"name": name, **content, "bytes": sum(p.stat().st_size for p in _files(name))}


def _files(name: str) -> list[Path]:
    return [path for path in (FOLDER / name).iterdir() if path.is_file()]
