"""`steadyflow quality`: how good drawn images are, beside held-out ones."""

from __future__ import annotations

from typing import Any

from steadyflow.cli import choices, console
from steadyflow.cli.options import Option
from steadyflow.cli.parsing import Parsed
from steadyflow.errors import UsageError


def groups(words: list[str]) -> dict[str, list[Option]]:
    """The options of the data, for --data."""
    return {"data": choices.data_options()}


def quality(
    run: str,
    *,
    n: int = 2000,
    temperature: float = 1.0,
    seed: int = 0,
    data: str | None = None,
    split: str | None = None,
    inception: str | None = None,
    options: Parsed,
) -> dict[str, Any]:
    """Compares drawn images with held-out and training images, in numbers.

    Kernel distances on pixels and on a small bundled classifier's features, and how near draws lie
    to training images. The distances can be compared with one another, not with published ones.

    Args:
        run: a run folder, or a saved model together with --data.
        n: how many images to draw, and to compare them with at most.
        temperature: of the draws.
        seed: of the draws; the same seed gives the same ones.
        data: compare with other data than the run's own.
        split: what stands for held-out images; the test examples without it.
        inception: a file of Inception v3's weights for torch-fidelity, to get FID as well.
        options: filled in by the command line.
    """
    import torch

    from steadyflow.cli.opened import examples, open_model
    from steadyflow.cli.sample import draw
    from steadyflow.evaluation.quality import image_quality
    from steadyflow.evaluation.round_trip import evenly

    opened = open_model(run)
    if not opened.is_image:
        raise UsageError(f"{run} is a model of vectors: quality is measured on images")
    chosen, dataset, where = examples(opened, data, split, options.given["data"])
    labels = None
    if opened.model.num_classes is not None:
        if chosen.y is None:
            raise UsageError(f"{run} needs classes to draw as they come, but {where} has none")
        pick = torch.Generator().manual_seed(seed)
        labels = chosen.y[torch.randint(len(chosen), (n,), generator=pick)]
    drawn = draw(opened, n, labels, temperature, seed, {})
    found = image_quality(
        drawn,
        chosen.x[evenly(len(chosen), n)],
        dataset.train.x[evenly(len(dataset.train), 20_000)],
        white=opened.white() or 1.0,
        seed=seed,
        inception=inception,
    )
    console.say(f"{opened.name} at temperature {temperature:g}, {where}", str(found))
    return {"run": run, "data": dataset.name, "temperature": temperature, **found.to_dict()}
