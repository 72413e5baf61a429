"""What a verb is given by name: a run, a saved model, one that comes along, one on the hub."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyflow import trained
from steadyflow.errors import UsageError

if TYPE_CHECKING:
    import torch

    from steadyflow.data import Dataset, Split
    from steadyflow.models import GenerativeModel
    from steadyflow.training import Run

SPLITS = ("train", "validation", "test", "all")


@dataclass
class Opened:
    """A trained model, and the run that it came from if there is one.

    Attributes:
        name: as it was given.
        model: in evaluation mode.
        run: None for a saved model without its run.
        data: what is recorded of the data of a model that comes along.
    """

    name: str
    model: GenerativeModel
    run: Run | None
    data: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where what is made of the model belongs: the run's folder, or the current one."""
        return Path(".") if self.run is None else Path(self.run.folder)

    @property
    def is_image(self) -> bool:
        """Whether its examples are images."""
        return len(self.model.event_shape) == 3

    def record(self) -> dict[str, Any]:
        """What was written down about the data; empty if nothing was."""
        return dict(self.data) if self.run is None else dict(self.run.config["data"])

    @property
    def has_data(self) -> bool:
        """Whether the data that the model was trained on are known, and can be opened again."""
        from steadyflow import data

        return self.run is not None or self.data.get("source") in data.names()

    def own_data(self) -> Dataset | None:
        """The data that the model was trained on; None where they are not at hand."""
        from steadyflow import data

        if self.run is not None or not self.has_data:
            return None if self.run is None else self.run.data()
        then = self.data
        return data.open(then["source"], seed=then["seed"], **then["fractions"], **then["options"])

    def white(self) -> float | None:
        """The pixel value that is shown as white; None for vectors and real-valued images."""
        from steadyflow.data import DataError
        from steadyflow.evaluation.access import bits_of
        from steadyflow.report.gallery import white_of

        bits = bits_of(self.model)
        if bits is not None and bits < 8:
            # the data need not use all values: those of the digits end at 16 of 31
            with contextlib.suppress(UsageError, DataError, OSError):
                if (own := self.own_data()) is not None:
                    return white_of(own)
        return None if bits is None else 2.0**bits - 1

    def classes(self) -> list[str] | None:
        """The names of the classes that the model was trained with."""
        names = self.record().get("classes")
        if names is None and self.model.num_classes is not None:
            return [str(i) for i in range(self.model.num_classes)]
        return names


def open_model(source: str) -> Opened:
    """Loads a trained model by name.

    Raises:
        UsageError: if nothing has this name.
        ValueError: if it is damaged, or something else.
    """
    folder = Path(source).expanduser()
    if (folder / "config.yaml").is_file():
        return from_run(folder, source)
    known = {} if folder.exists() or not trained.find(source) else trained.card(source)["data"]
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UsageError(
            f"{source} holds neither a run (config.yaml) nor a saved model (config.json)"
        )
    if not (folder.exists() or known or _may_be_on_the_hub(source)):
        raise UsageError(f"there is no run '{source}': {_nearest(folder)}")
    if folder.is_file():
        raise UsageError(f"'{source}' is a file: give a run folder, or a saved model's folder")
    from steadyflow.evaluation.access import on_accelerator
    from steadyflow.models import GenerativeModel

    return Opened(source, on_accelerator(GenerativeModel.from_pretrained(source)), None, known)


def from_run(folder: Path, source: str | None = None) -> Opened:
    """The trained model of a run folder."""
    from steadyflow.evaluation.access import on_accelerator
    from steadyflow.training import Run

    run = Run.open(folder)
    return Opened(source or str(folder), on_accelerator(run.model().eval()), run)


def open_run(source: str) -> Opened:
    """Like `open_model`, where a saved model alone is not enough."""
    opened = open_model(source)
    if opened.run is None:
        raise UsageError(f"'{source}' is a saved model without its run: give a run folder")
    return opened


def examples(
    opened: Opened, source: str | None, split: str | None, options: dict[str, Any]
) -> tuple[Split, Dataset, str]:
    """The examples that a verb works on.

    Args:
        opened: the model.
        source: other data than the run's own, or None.
        split: 'train', 'validation', 'test' or 'all'; None takes the run's test examples, and of
            other data its own test examples or, if it brings none, everything.
        options: those of `data.open` that were given.

    Returns:
        the examples, the data set that they are of, and how to call them.
    """
    if split is not None and split not in SPLITS:
        from steadyflow.errors import unknown

        raise unknown("split", split, SPLITS)
    own = source is None or (
        source == opened.record().get("source") and not options and opened.has_data
    )
    if own:
        dataset = _own_data(opened, options)
    else:
        whole = {"validation": 0, "test": 0} if split in (None, "all") else {}
        dataset = _other(opened, str(source), {**whole, **options})
    if split is None:
        split = "test" if own or len(dataset.test) else "all"
    chosen = _everything(dataset) if split == "all" else getattr(dataset, split)
    if not len(chosen):
        raise UsageError(f"{dataset.name} has no {split} examples: choose another --split")
    return chosen, dataset, f"{dataset.name} ({'all' if split == 'all' else split} examples)"


def some(split: Split, numbers: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Some examples by their numbers, and their labels.

    Raises:
        UsageError: if there is no such example.
    """
    for number in numbers:
        if not 0 <= number < len(split):
            raise UsageError(f"there is no example {number}: there are {len(split)}, from 0")
    if not numbers:
        raise UsageError("at least one example's number is needed")
    rows = list(numbers)
    return split.x[rows], None if split.y is None else split.y[rows]


def _own_data(opened: Opened, options: dict[str, Any]) -> Dataset:
    if not opened.has_data:
        known = opened.record().get("source")
        trained_on = f", which was trained on {known}" if known else ""
        raise UsageError(
            f"'{opened.name}' is a model without its data{trained_on}: give --data SOURCE"
        )
    if options:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in options)
        raise UsageError(f"{flags} needs --data SOURCE: the run's own data is opened as recorded")
    own = opened.own_data()
    assert own is not None
    return own


def _other(opened: Opened, source: str, options: dict[str, Any]) -> Dataset:
    """Other data, opened the way the run's own was where that makes sense."""
    from steadyflow import data

    record = opened.record()
    recorded = {k: v for k, v in record.get("options", {}).items() if k not in ("n", "columns")}
    try:
        dataset = data.open(source, **{**recorded, **options})
    except UsageError as error:
        if not re.search("does not apply|for images|unknown column", str(error)):
            raise
        dataset = data.open(source, **options)
    columns = record.get("columns")
    if columns and dataset.columns and dataset.columns != columns and "columns" not in options:
        dataset = data.open(source, **{**recorded, **options, "columns": columns, "drop": None})
    if tuple(dataset.event_shape) != tuple(opened.model.event_shape):
        raise UsageError(
            f"{opened.name} was trained on examples of shape {tuple(opened.model.event_shape)}, "
            f"but those of {source} have shape {tuple(dataset.event_shape)}"
        )
    return _same_classes(opened, dataset) if opened.model.num_classes else dataset


def _same_classes(opened: Opened, dataset: Dataset) -> Dataset:
    """Numbers the classes as the model does."""
    import torch

    known, found = opened.classes() or [], dataset.classes
    if found is None or found == known:
        return dataset
    strange = [name for name in found if name not in known]
    if strange:
        raise UsageError(f"{opened.name} does not know the class '{strange[0]}' ({dataset.name})")
    codes = torch.tensor([known.index(name) for name in found])
    for split in (dataset.train, dataset.validation, dataset.test):
        split.y = None if split.y is None else codes[split.y]
    dataset.classes = known
    return dataset


def _everything(dataset: Dataset) -> Split:
    import torch

    from steadyflow.data import Split

    splits = [s for s in (dataset.train, dataset.validation, dataset.test) if len(s)]
    labels = [s.y for s in splits if s.y is not None]
    return Split(torch.cat([s.x for s in splits]), torch.cat(labels) if labels else None)


def _may_be_on_the_hub(source: str) -> bool:
    local = source.startswith((".", "~", "/", "runs/")) or Path(source).parent.is_dir()
    return not local and re.fullmatch(r"[\w.-]+/[\w.-]+", source) is not None


def _nearest(folder: Path) -> str:
    places = [p for p in (folder.parent, Path("runs")) if p.is_dir()]
    names = {child.name: child for place in places for child in place.iterdir() if child.is_dir()}
    names |= {name: Path(name) for name in trained.names()}
    near = difflib.get_close_matches(folder.name, names, n=1, cutoff=0.5)
    if near:
        return f"did you mean {names[near[0]]}?"
    return (
        "give the folder that 'steadyflow train' wrote, a name of 'steadyflow models --trained', "
        "or a model of the hub (owner/name)"
    )
