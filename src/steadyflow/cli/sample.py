"""`steadyflow sample`: new examples from a trained model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steadyflow.cli import console
from steadyflow.errors import UsageError, unknown

if TYPE_CHECKING:
    import torch

    from steadyflow.cli.opened import Opened

BATCH = 256


def sample(
    run: str,
    *,
    n: int = 64,
    temperature: float = 1.0,
    label: str | None = None,
    seed: int = 0,
    out: str | None = None,
) -> dict[str, Any]:
    """Draws new examples: a picture of images, a table of vectors.

    Args:
        run: a run folder, a saved model's folder, or a model on the hub.
        n: how many.
        temperature: below 1 the draws are more typical and less varied.
        label: the class, for a model that was trained with --conditional; all classes in turn
            without it.
        seed: of the draws; the same seed gives the same ones.
        out: a .png, .npy, .npz or .csv file, or a folder for one image file each; samples-SEED.png
            or .csv in the run folder without it.
    """
    from steadyflow.cli import files
    from steadyflow.cli.opened import open_model

    if n < 1:
        raise UsageError(f"-n must be at least 1, but {n} was given")
    opened = open_model(run)
    default = opened.folder / f"samples-{seed}.{'png' if opened.is_image else 'csv'}"
    path = files.check_ending(out or default, opened.is_image, opened.model.dimensions)
    labels = _labels(opened, label, n)
    x = draw(opened, n, labels, temperature, seed)
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
    }


def draw(
    opened: Opened, n: int, labels: torch.Tensor | None, temperature: float, seed: int
) -> torch.Tensor:
    """Draws in batches, so that many examples need no more memory than a few."""
    import torch

    from steadyflow.evaluation.access import at_rest

    parts = []
    with at_rest(opened.model, seed), console.progress("drawing") as progress:
        for start in range(0, n, BATCH):
            stop = min(start + BATCH, n)
            some = None if labels is None else labels[start:stop]
            parts.append(opened.model.sample(stop - start, some, temperature=temperature).cpu())
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
