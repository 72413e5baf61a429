"""Which pictures suit a model and its data, and what a good one looks like."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steadyflow import evaluation
from steadyflow.errors import UsageError
from steadyflow.evaluation import access
from steadyflow.evaluation.access import Model
from steadyflow.evaluation.latents import LatentGaussianity
from steadyflow.evaluation.round_trip import evenly
from steadyflow.report import diagnostics, images, planes, training

LATENTS = 1000  # held-out examples whose latents are looked at
TRIPS = 200  # held-out examples that are sent there and back
KNOWN = 20_000  # training examples that a draw is compared with

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture of a report.

    Attributes:
        file: its name in the run folder.
        title: what it shows.
        caption: what a good result looks like.
    """

    file: str
    title: str
    caption: str


def write_pictures(
    model: Model,
    dataset: Any,
    run_folder: str | Path,
    *,
    seed: int = 0,
    metrics: Sequence[Row] = (),
) -> list[Picture]:
    """Draws every picture that suits the model and the data.

    Args:
        model: trained.
        dataset: with kind, splits, classes, columns; held-out examples are the test split, or
            validation or train where that is empty.
        run_folder: where the files go.
        seed: of draws and choices.
        metrics: rows of metrics.csv, for the training curve.

    Returns:
        the pictures, in the order in which a reader should see them.
    """
    folder = Path(run_folder)
    _, split = held_out(dataset)
    found: list[Picture] = []
    if getattr(model, "context_features", None) is None:
        draw = _of_images if dataset.kind == "image" else _of_vectors
        found += draw(model, dataset, split, folder, seed)
        if access.has_latents(model):
            found += _of_latents(model, dataset, split, folder, seed)
    if training.has_curve(metrics):
        unit = "bits" if access.bits_of(model) is not None else "nats"
        unit = "" if model.likelihood == "none" or not model.loss_in_nats else unit
        training.training_curve(metrics, folder / "training.png", unit=unit)
        found.append(Picture("training.png", "Training", CAPTIONS["training"]))
    return found


def held_out(dataset: Any) -> tuple[str, Any]:
    """The name and the examples of the first split that is not empty: test, validation, train."""
    for name in ("test", "validation", "train"):
        split = getattr(dataset, name)
        if len(split.x):
            return name, split
    raise ValueError(f"{dataset.name} has no examples at all")


def white_of(dataset: Any) -> float | None:
    """The integer shown as white: the largest pixel of the training data (16 for `digits`)."""
    if dataset.kind != "image" or dataset.train.x.is_floating_point():
        return None
    return float(dataset.train.x.max()) or None


def _of_images(model: Model, dataset: Any, split: Any, folder: Path, seed: int) -> list[Picture]:
    look: dict[str, Any] = {"seed": seed, "white": white_of(dataset)}
    if not access.can_sample(model):
        return []
    known = dataset.train.x[evenly(len(dataset.train.x), KNOWN)]
    images.sample_grid(model, folder / "samples.png", classes=dataset.classes, **look)
    images.temperature_sweep(model, folder / "temperature.png", **look)
    drawn = ["samples", "temperature"]
    if getattr(model, "sigma", 0):
        images.denoising(model, folder / "denoised.png", **look)
        drawn.insert(1, "denoised")
    if access.has_latents(model) and len(split.x) >= 2:
        images.interpolation(model, split.x, split.y, folder / "interpolation.png", **look)
        drawn.append("interpolation")
    images.neighbours(model, known, folder / "neighbours.png", **look)
    between = "" if access.is_exact(model) else ENDS
    more = {"interpolation": between}
    return [_picture(name, more.get(name, "")) for name in [*drawn, "neighbours"]]


def _of_vectors(model: Model, dataset: Any, split: Any, folder: Path, seed: int) -> list[Picture]:
    if not access.can_sample(model):
        return []
    draw: Callable[..., Path] = planes.marginals
    name = "marginals"
    if tuple(dataset.event_shape) == (2,) and model.likelihood != "none":
        draw, name = planes.density, "density"
    x = split.x.float()
    draw(model, x, split.y, folder / f"{name}.png", columns=dataset.columns, seed=seed)
    return [_picture(name)]


def _of_latents(model: Model, dataset: Any, split: Any, folder: Path, seed: int) -> list[Picture]:
    pictures = []
    rows = evenly(len(split.x), LATENTS)
    context = access.context_of(model, None if split.y is None else split.y[rows])
    with contextlib.suppress(UsageError):  # too few examples with finite latents
        found = evaluation.latent_gaussianity(model, split.x[rows], context, seed=seed)
        diagnostics.latent_gaussianity(found, folder / "latents.png")
        pictures.append(_picture("latents", latents_in_words(found)))
    rows = evenly(len(split.x), TRIPS)
    y = None if split.y is None else split.y[rows]
    path = folder / "reconstruction.png"
    diagnostics.reconstruction(model, split.x[rows], y, path, white=white_of(dataset))
    known = "reconstruction" if access.is_exact(model) else "reconstruction of an autoencoder"
    return [*pictures, Picture(path.name, TITLES["reconstruction"], CAPTIONS[known])]


def latents_in_words(found: LatentGaussianity) -> str:
    """The summary of the latents in one sentence."""
    s = found.summary()
    return (
        f"Here the Kolmogorov-Smirnov distance is {s['median_ks']:.3f} in the median and "
        f"{s['largest_ks']:.3f} at most, over {s['dimensions']:,} latent variables of "
        f"{s['examples']:,} examples; {s['rejected_at_1_percent']:.0%} of the variables differ "
        "from the base by more than chance (1 % level)."
        + (f" {s['non_finite']:,} examples have no finite latents." if s["non_finite"] else "")
    )


def _picture(name: str, more: str = "") -> Picture:
    return Picture(f"{name}.png", TITLES[name], f"{CAPTIONS[name]} {more}".strip())


TITLES = {
    "samples": "Draws",
    "denoised": "The noise of training taken off",
    "temperature": "Temperature",
    "interpolation": "Between real images",
    "neighbours": "Are draws copies?",
    "density": "The learned density",
    "marginals": "Columns and pairs of columns",
    "latents": "Latents of held-out data",
    "reconstruction": "There and back",
    "training": "Training",
}

ENDS = "Of an autoencoder the images next to the real ones are what it makes of them."

CAPTIONS = {
    "samples": (
        "Images drawn from the model, not chosen. Good ones look like the data and differ from "
        "each other."
    ),
    "denoised": (
        "The model has learned images with normal noise, and draws such. Below each draw is the "
        "mean of the clean images that it may have been, one step along the gradient of the "
        "model's own log-density. Good ones are clean, and the same image."
    ),
    "temperature": (
        "Each column is one draw, its noise scaled by T. Below 1 draws become more typical and "
        "less varied; at 1 they follow the learned distribution itself. They should change "
        "smoothly, without sudden artefacts."
    ),
    "interpolation": (
        "The left and right images are real, those between are decoded from the great circle "
        "between their latents. Good ways pass through plausible images and change steadily."
    ),
    "neighbours": (
        "Each draw, the training image nearest to it, and above them their Euclidean distance "
        "(pixels on [0, 1]). A good model's draws are like what it was trained on, but not the "
        "same; a distance of 0 would be a copy."
    ),
    "density": (
        "Good results: the dark regions lie under the held-out points and nowhere else; draws "
        "look like the data; latents fill the circles (half of them within the first); "
        "ways between examples keep to where data are, as far as its gaps allow."
    ),
    "marginals": (
        "Histograms of single columns and scatter plots of pairs. Good draws (red) have the same "
        "shapes as held-out data (blue), in pairs too."
    ),
    "latents": (
        "If the model fits, latents of data it has not seen follow the base distribution: "
        "histogram and quantiles on the dark lines, points within the bands, norms under the chi "
        "curve. Differences are structure that the model has not learned."
    ),
    "reconstruction": (
        "Data are sent to latents and back. The map is exact, so what remains is rounding: good "
        "errors lie far left of one thousandth of the data's range."
    ),
    "reconstruction of an autoencoder": (
        "Data are sent to latents and back. The latents keep what the model found worth its rate: "
        "good reconstructions are easily recognised, and lose only what looks like noise."
    ),
    "training": (
        "Loss over the steps of training; lower is better. The validation curve should fall with "
        "the training curve and level off; if it rises again, the model has begun to memorise."
    ),
}
