"""report.html: one file that shows a run to somebody who was not there.

Pictures are embedded, styles are inside, nothing is fetched. What comes from a user (names of data
and of classes) is escaped.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from steadyflow import __version__
from steadyflow.evaluation import Evaluation
from steadyflow.evaluation.wording import measured
from steadyflow.report import recipe
from steadyflow.report.gallery import Picture
from steadyflow.report.style import DPI
from steadyflow.storage import replace_file

TEMPLATE = Path(__file__).with_name("template.html")
CSS_PIXELS = 96  # of an inch

Facts = list[tuple[str, str]]

WORDS = {
    "exact": "exact",
    "bound": "lower bound",
    "estimate": "estimate",
    "none": "no likelihood",
}


def write_report(
    run: Any,
    evaluation: Evaluation,
    pictures: Sequence[Picture] = (),
    *,
    model: Any = None,
    dataset: Any = None,
) -> Path:
    """Writes report.html into the run folder.

    Args:
        run: a `steadyflow.training.Run`: folder, config, model(), data().
        evaluation: of the held-out examples.
        pictures: whose files are in the run folder.
        model: the run's model, if it is loaded already.
        dataset: the run's data, if it is open already.

    Returns:
        the path of report.html.
    """
    folder = Path(run.folder)
    model = run.model() if model is None else model
    dataset = run.data() if dataset is None else dataset
    config = dict(run.config)
    described, training = config.get("data") or {}, config.get("training") or {}
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        model=type(model).__name__,
        data=dataset.name,
        version=__version__,
        headline=headline(evaluation, dataset.kind),
        word=WORDS.get(evaluation.likelihood, evaluation.likelihood),
        likelihood=evaluation.likelihood,
        evaluation=evaluation,
        numbers=numbers(evaluation),
        about=about(model, dataset),
        pictures=[_embedded(folder, picture) for picture in pictures],
        settings=[
            ("Model", _facts(model.config)),
            ("Data", _facts(described)),
            ("Training", _facts(training)),
        ],
        command=recipe.again(model, described or {"source": dataset.name}, training),
        next=recipe.next_commands(recipe.typed(folder), dataset.kind, training),
    )
    path = folder / "report.html"
    with replace_file(path) as aside:
        aside.write_text(html, encoding="utf-8")
    return path


def headline(evaluation: Evaluation, kind: str) -> tuple[str, str]:
    """The first number that a reader should see, and its unit."""
    if evaluation.likelihood == "none" and evaluation.accuracy is not None:
        return f"{evaluation.accuracy:.2%}", "accuracy: held-out examples whose class is predicted"
    if evaluation.log_likelihood is None:
        return ("not finite" if evaluation.non_finite else "none", "log-likelihood")
    if kind == "image":
        value, error = evaluation.bits_per_dimension, evaluation.bits_per_dimension_error
        return measured(value, error), "bits per dimension, lower is better"
    return (
        measured(evaluation.log_likelihood, evaluation.standard_error),
        "nats of log-likelihood per example, higher is better",
    )


def numbers(evaluation: Evaluation) -> Facts:
    """The table of the evaluation, name and value."""
    e = evaluation
    of = " of the density" if e.density_nats is None else ""
    rows: Facts = [("Examples", f"{e.examples:,} of {e.where}" if e.where else f"{e.examples:,}")]
    if e.log_likelihood is not None:
        rows += [
            ("Log-likelihood", f"{measured(e.log_likelihood, e.standard_error)} nats"),
            (
                f"Bits per dimension{of}",
                measured(e.bits_per_dimension, e.bits_per_dimension_error),
            ),
            (f"Nats per dimension{of}", f"{e.nats_per_dimension:.4f}"),
        ]
    if e.noise_error is not None:
        rows.append(("Of its error, the estimator's noise", f"± {e.noise_error:.2g} nats"))
    if e.accuracy is not None:
        rows.append(("Accuracy", f"{e.accuracy:.2%}"))
    if e.density_nats is not None:
        rows.append(("Log-density of pixels in [0, 1]", f"{e.density_nats:.2f} nats"))
    if e.non_finite:
        rows.append(("Examples without a finite likelihood", f"{e.non_finite:,}"))
    if e.round_trip is not None:
        trip = e.round_trip
        way = "Round trip" if trip.exact else "Reconstruction"
        rows += [
            (f"{way}, largest error", f"{trip.maximum:.1e} of the data's range"),
            (
                f"{way}, mean error",
                f"{trip.mean:.1e} ({trip.examples} examples, {trip.dtype})",
            ),
        ]
    if e.worst:
        rows.append(("Least likely examples", ", ".join(f"#{i}" for i in e.worst)))
    rows.append(("Noise draws per example, seed", f"{e.draws}, {e.seed}"))
    return [*rows, ("Time", f"{e.seconds:.1f} s")]


def about(model: Any, dataset: Any) -> Facts:
    """Model and data in a line of facts."""
    count = sum(parameter.numel() for parameter in model.parameters())
    shape = " × ".join(map(str, dataset.event_shape))
    facts = [
        ("parameters", f"{count:,}"),
        ("one example", f"{shape} {'pixels' if dataset.kind == 'image' else 'variables'}"),
        ("training examples", f"{len(dataset.train.x):,}"),
    ]
    if getattr(model, "num_classes", None) is not None:
        facts.append(("conditional on", f"{model.num_classes} classes"))
    return facts


def _facts(values: Any, prefix: str = "") -> Facts:
    """Nested plain values as rows; empty ones are left out."""
    rows: Facts = []
    for key, value in values.items() if isinstance(values, Mapping) else ():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            rows += _facts(value, f"{name}, ")
        elif value is not None and value != []:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            rows.append((name, shown))
    return rows


def _embedded(folder: Path, picture: Picture) -> dict[str, Any]:
    content = (folder / picture.file).read_bytes()
    width, height = struct.unpack(">II", content[16:24])  # a PNG's header
    return {
        "title": picture.title,
        "caption": picture.caption,
        "width": round(width * CSS_PIXELS / DPI * 1.1),
        "height": round(height * CSS_PIXELS / DPI * 1.1),
        "source": "data:image/png;base64," + base64.b64encode(content).decode("ascii"),
    }
