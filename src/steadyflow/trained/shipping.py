"""Makes a trained model that comes along out of a run, with its numbers measured as it is shipped.

python -m steadyflow.trained.shipping runs/digits digits-realnvp --about "Handwritten digits"
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from steadyflow.models.pretrained import WEIGHTS
from steadyflow.storage import replace_file
from steadyflow.trained import CARD, FOLDER

SMALLEST = 256  # numbers in a tensor that is worth rounding


def ship(
    run: str,
    name: str,
    *,
    about: str,
    half: bool = True,
    limit: int | None = None,
    folder: str | Path = FOLDER,
) -> Path:
    """Writes the folder of a trained model.

    Args:
        run: the run folder.
        name: what the model will be called.
        about: one line that says what it is.
        half: round the large weights to sixteen bits; the numbers are measured after that.
        limit: at most so many test examples are evaluated.
        folder: where the trained models are.

    Returns:
        the folder.
    """
    from steadyflow.evaluation import evaluate
    from steadyflow.models import GenerativeModel
    from steadyflow.training import Run

    opened = Run.open(run)
    made = Path(folder) / name
    opened.model().save_pretrained(made)
    if half:
        _round(made / WEIGHTS)
    model = GenerativeModel.from_pretrained(made)
    dataset = opened.data()
    where = f"{_plain_name(dataset.name)} (test examples)"
    found = evaluate(model, dataset.test, limit=limit, where=where)
    metrics = opened.metrics()
    content = {
        "about": about,
        "model": model.name,
        "data": _without_paths(opened.config["data"]),
        "command": _portable(str(opened.config["command"]), opened.config["data"]["source"]),
        "minutes": round(float(metrics[-1]["elapsed"]) / 60, 1) if metrics else None,
        "half": half,
        "evaluation": found.to_dict(),
    }
    with replace_file(made / CARD) as aside:
        aside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return made


def _round(path: Path) -> None:
    """Large tensors of 32 bits to 16, if all of them fit."""
    tensors = safetensors.torch.load_file(str(path))
    with replace_file(path) as aside:
        rounded = {key: _rounded(value) for key, value in tensors.items()}
        safetensors.torch.save_file(rounded, str(aside), {"format": "pt"})


def _rounded(value: Tensor) -> Tensor:
    largest = torch.finfo(torch.float16).max
    if value.dtype != torch.float32 or value.numel() < SMALLEST or value.abs().max() > largest:
        return value
    return value.half()


def _plain_name(source: str) -> str:
    return Path(source).name if "/" in source else source


def _without_paths(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "source": _plain_name(data["source"])}


def _portable(command: str, source: str) -> str:
    """The command without this machine's own folders."""
    return re.sub(r" --(run \S+|overwrite|no-report)", "", command).replace(
        source, _plain_name(source)
    )


def main() -> None:
    """The command line of `ship`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("name")
    parser.add_argument("--about", required=True, help="one line that says what it is")
    parser.add_argument("--full", action="store_true", help="keep 32 bits")
    parser.add_argument("--limit", type=int, help="test examples to evaluate; all without it")
    given = parser.parse_args()
    made = ship(given.run, given.name, about=given.about, half=not given.full, limit=given.limit)
    size = sum(path.stat().st_size for path in made.iterdir())
    content = json.loads((made / CARD).read_text())["evaluation"]
    bits = content["bits_per_dimension"] or math.nan
    print(f"{made}: {size / 1e6:.2f} MB, {bits:.4f} bits per dimension ({content['likelihood']})")


if __name__ == "__main__":
    main()
