"""The run folder: everything that a training leaves.

    config.yaml               model, data, training options, versions: enough to repeat it
    model/                    the best weights (config.json, model.safetensors)
    checkpoint.safetensors    the last state of training, for --resume
    metrics.csv               see `steadyflow.training.history`
    evaluation.json, *.png, report.html     written by the other verbs

Every verb of the command line but `train` takes a run folder.
"""

from __future__ import annotations

import difflib
import shutil
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from steadyflow import data
from steadyflow.errors import UsageError
from steadyflow.storage import recover_folder, replace_file
from steadyflow.training import history

if TYPE_CHECKING:
    from steadyflow.data import Dataset
    from steadyflow.models.model import GenerativeModel

CONFIG, MODEL = "config.yaml", "model"
CHECKPOINT, METRICS = "checkpoint.safetensors", "metrics.csv"


class Run:
    """A run folder; `Run.create` makes one and `Run.open` opens one.

    Attributes:
        folder: its path.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @classmethod
    def create(cls, folder: str | Path, config: dict[str, Any], *, overwrite: bool = False) -> Run:
        """Makes a run folder with its config.yaml.

        Args:
            folder: a path that does not exist yet, or an empty folder.
            config: plain values; see `Run.config`.
            overwrite: delete a run that is there. Never deletes a folder that is not a run.

        Raises:
            UsageError: if there is something already.
        """
        run = cls(folder)
        cls.check_free(folder, overwrite=overwrite)
        if overwrite and run.folder.exists():
            shutil.rmtree(run.folder)
        run.folder.mkdir(parents=True, exist_ok=True)
        run.write_config(config)
        return run

    @classmethod
    def check_free(cls, folder: str | Path, *, overwrite: bool = False) -> None:
        """Whether `create` would succeed.

        Raises:
            UsageError: if not.
        """
        path = Path(folder)
        if path.is_file():
            raise UsageError(f"{path} is a file: give another folder for the run")
        if not path.exists() or not any(path.iterdir()):
            return
        if not (path / CONFIG).is_file():
            raise UsageError(
                f"{path} holds other files and is not a run: give another folder for the run"
            )
        if not overwrite:
            raise UsageError(
                f"{path} holds a run already: continue it with --resume, replace it with "
                "--overwrite, or give another folder"
            )

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Opens a run folder.

        Raises:
            UsageError: if there is none, with the nearest one that exists.
            ValueError: if its config.yaml is damaged.
        """
        run = cls(folder)
        if not (run.folder / CONFIG).is_file():
            what = (
                f"{folder} is not a run: it has no {CONFIG}"
                if run.folder.exists()
                else f"there is no run {folder}"
            )
            raise UsageError(what + _nearest(run.folder))
        recover_folder(run.path(MODEL))
        _ = run.config
        return run

    @cached_property
    def config(self) -> dict[str, Any]:
        """What config.yaml says: 'model', 'data', 'training', 'steadyflow', 'torch', 'command'."""
        path = self.path(CONFIG)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            whole = _is_whole(content)
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            raise ValueError(f"{path} was not written by steadyflow, or is damaged")
        return content

    def write_config(self, config: dict[str, Any]) -> None:
        """Replaces config.yaml."""
        with replace_file(self.path(CONFIG)) as aside:
            aside.write_text(
                yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8"
            )
        self.__dict__.pop("config", None)

    def path(self, name: str) -> Path:
        """The path of a file in the folder."""
        return self.folder / name

    def model(self) -> GenerativeModel:
        """The model with its best weights, in eval mode.

        Raises:
            FileNotFoundError: if training stopped before there was any.
        """
        from steadyflow.models import GenerativeModel

        if not self.path(MODEL).is_dir():
            raise FileNotFoundError(
                f"{self.folder} has no trained model yet: continue it with --resume"
            )
        return GenerativeModel.from_pretrained(self.path(MODEL))

    def data(self) -> Dataset:
        """The data that the run was trained on, opened again and compared.

        Raises:
            UsageError: if it can not be opened again, because it was in memory.
            DataError: if it has changed.
        """
        then = self.config["data"]
        if then.get("in_memory"):
            raise UsageError(
                f"{self.folder} was trained on data in memory ('{then['source']}'), which can not "
                "be opened again: give the data"
            )
        dataset = data.open(
            then["source"], seed=then["seed"], **then["fractions"], **then["options"]
        )
        dataset.require_unchanged(then)
        return dataset

    def metrics(self) -> list[history.Row]:
        """The rows of metrics.csv, with numbers as numbers."""
        return history.read(self.path(METRICS)) if self.path(METRICS).exists() else []


def describe(
    model: GenerativeModel, dataset: Dataset, training: dict[str, Any], command: str | None = None
) -> dict[str, Any]:
    """What config.yaml records of a training."""
    import torch

    import steadyflow

    return {
        "steadyflow": steadyflow.__version__,
        "torch": str(torch.__version__),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "seed": training["seed"],
        "model": {"name": model.name, "config": model.config},
        "data": {**dataset.description(), "in_memory": not _has_a_source(dataset.name)},
        "training": training,
    }


def _is_whole(config: dict[str, Any]) -> bool:
    """Whether everything is there that will be read, and is of its kind."""
    model, data_, training = config["model"], config["data"], config["training"]
    return (
        isinstance(model["name"], str)
        and isinstance(model["config"], dict)
        and isinstance(training, dict)
        and isinstance(data_["source"], str)
        and isinstance(data_["seed"], int)
        and isinstance(data_["fractions"], dict)
        and isinstance(data_["options"], dict)
        and isinstance(data_.get("classes") or [], list)
        and isinstance(data_.get("columns") or [], list)
    )


def _has_a_source(name: str) -> bool:
    """Whether data of this name can be opened again (and are then compared)."""
    return name in data.names() or name.startswith("hub:") or Path(name).expanduser().exists()


def _nearest(folder: Path) -> str:
    """A hint with the run that was probably meant: beside the folder, or inside it."""
    inside = sorted(folder.glob(f"*/{CONFIG}")) if folder.is_dir() else []
    beside = sorted(folder.parent.glob(f"*/{CONFIG}")) if folder.parent.is_dir() else []
    near = difflib.get_close_matches(folder.name, [p.parent.name for p in beside], n=1)
    if inside:
        return f"; did you mean {inside[-1].parent}?"
    if near:
        return f"; did you mean {folder.parent / near[0]}?"
    return "; train one with: steadyflow train MODEL DATA --run FOLDER"
