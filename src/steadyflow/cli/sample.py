"""`steadyflow sample`: new examples from a trained model."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyflow.cli import choices, console
from steadyflow.cli.options import Option, read
from steadyflow.cli.parsing import Command, Parsed, positionals
from steadyflow.errors import UsageError, unknown

if TYPE_CHECKING:
    import torch

    from steadyflow.cli.opened import Opened

BATCH = 256


def groups(words: list[str]) -> dict[str, list[Option]]:
    """What the model that the words name can be asked of its draws."""
    from steadyflow.cli.opened import open_model

    named = positionals(Command("", "", read(sample, leave_out=["options"])), words)
    for word in named:
        # a wrong name is answered when all words are read, and by the words for it
        with contextlib.suppress(Exception):
            return {"drawing": choices.sampling_options(type(open_model(word).model))}
    return {"drawing": []}


def sample(
    run: str,
    *,
    n: int = 64,
    temperature: float = 1.0,
    sweep: Sequence[float] | None = None,
    label: str | None = None,
    seed: int = 0,
    out: str | None = None,
    options: Parsed,
) -> dict[str, Any]:
    """Draws new examples: a picture of images, a table of vectors.

    'steadyflow sample RUN --help' adds what can be chosen about the draws of that run's model.

    Args:
        run: a run folder, a saved model's folder, or a model on the hub.
        n: how many.
        temperature: below 1 the draws are more typical and less varied.
        sweep: instead, a picture of the same draws at each of these temperatures, one row each;
            temperature.png in the run folder if --out is not given.
        label: the class, for a model that was trained with --conditional; all classes in turn
            without it.
        seed: of the draws; the same seed gives the same ones.
        out: a .png, .npy, .npz or .csv file, or a folder for one image file each; samples-SEED.png
            or .csv in the run folder without it.
        options: filled in by the command line.
    """
    from steadyflow.cli import files
    from steadyflow.cli.opened import open_model

    if n < 1:
        raise UsageError(f"-n must be at least 1, but {n} was given")
    opened = open_model(run)
    if sweep is not None:
        return _sweep(opened, sweep, min(n, 10), seed, out)
    default = opened.folder / f"samples-{seed}.{'png' if opened.is_image else 'csv'}"
    path = files.check_ending(out or default, opened.is_image, opened.model.dimensions)
    labels = _labels(opened, label, n)
    chosen = options.given["drawing"]
    x = draw(opened, n, labels, temperature, seed, chosen)
    names = opened.classes()
    written = files.Examples(
        x.cpu().numpy(),
        white=opened.white(),
        labels=None if labels is None or names is None else [names[i] for i in labels.tolist()],
        columns=opened.record().get("columns"),
    )
    files.write(path, written)
    console.say(f"{n} examples drawn at temperature {temperature:g}: {path}")
    return {
        "run": run,
        "out": str(path),
        "n": n,
        "shape": list(x.shape),
        "temperature": temperature,
        "label": label,
        "seed": seed,
        **chosen,
    }


def _sweep(
    opened: Opened, temperatures: Sequence[float], n: int, seed: int, out: str | None
) -> dict[str, Any]:
    """The picture of the same draws at several temperatures."""
    from steadyflow.report.images import temperature_sweep

    if not opened.is_image or (out is not None and Path(out).suffix != ".png"):
        raise UsageError("--sweep draws a picture of images: a .png file, of a model of images")
    path = temperature_sweep(
        opened.model,
        out or opened.folder / "temperature.png",
        temperatures=list(temperatures),
        columns=n,
        seed=seed,
        white=opened.white(),
    )
    console.say(f"{n} draws at {len(temperatures)} temperatures: {path}")
    return {"run": opened.name, "out": str(path), "n": n, "temperatures": list(temperatures)}


def draw(
    opened: Opened,
    n: int,
    labels: torch.Tensor | None,
    temperature: float,
    seed: int,
    chosen: dict[str, Any],
) -> torch.Tensor:
    """Draws in batches, so that many examples need no more memory than a few."""
    import torch

    from steadyflow.evaluation.access import at_rest

    parts = []
    with at_rest(opened.model, seed), console.progress("drawing") as progress:
        for start in range(0, n, BATCH):
            stop = min(start + BATCH, n)
            some = None if labels is None else labels[start:stop]
            drawn = opened.model.sample(stop - start, some, temperature=temperature, **chosen)
            parts.append(drawn.cpu())
            if progress is not None:
                progress(stop, n)
    return torch.cat(parts)


def _labels(opened: Opened, label: str | None, n: int) -> torch.Tensor | None:
    import torch

    names = opened.classes()
    if opened.model.num_classes is None:
        if label is not None:
            raise UsageError(
                f"{opened.name} was trained without classes, so it can not draw '{label}': "
                "train with --conditional, or leave --label out"
            )
        return None
    if label is None:
        return torch.arange(n) % opened.model.num_classes
    known = names or []
    if label in known:
        return torch.full((n,), known.index(label))
    if label.isdecimal() and int(label) < opened.model.num_classes:
        return torch.full((n,), int(label))
    raise unknown("class", label, known)
