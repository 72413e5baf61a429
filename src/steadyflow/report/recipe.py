"""The command that repeats a run, read off its config, and what to type next."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILLED_IN = ("event_shape", "num_classes", "context_features", "bits")  # by the data


def again(model: Any, data: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """What trains the model again: a command, or a line of Python for data that were in memory.

    Args:
        model: with `name` and `config`.
        data: the description of the data set in config.yaml.
        training: the training options in config.yaml.
    """
    if not data.get("in_memory"):
        return training_command(model, data, training)
    arguments = [repr(model.name), "data"]
    if model.config.get("num_classes") is not None:
        arguments.append("conditional=True")
    if options := _model_options(model):
        arguments.append(f"model_options={options}")
    arguments += [f"{name}={value!r}" for name, value in _training_options(training).items()]
    return f"steadyflow.fit({', '.join(arguments)})"


def training_command(model: Any, data: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """`steadyflow train ...` with everything that is not a default.

    Args:
        model: with `name` and `config`.
        data: the description of the data set in config.yaml.
        training: the training options in config.yaml.
    """
    words = ["steadyflow", "train", model.name, str(data.get("source", "DATA"))]
    if model.config.get("num_classes") is not None:
        words.append("--conditional")
    taken = {*_training_defaults(), *data.get("options", {}), *data.get("fractions", {})}
    for name, value in _model_options(model).items():
        words += _flag(f"model-{name}" if name in taken else name, value)
    for name, value in _data_options(data).items():
        words += _flag(name, value)
    for name, value in _training_options(training).items():
        words += _flag(name, value)
    return shlex.join(words)


def next_commands(run: str, kind: str, training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a user may want to type next, and what it does.

    Args:
        run: the run folder as one types it.
        kind: 'image' or 'vector'.
        training: the training options in config.yaml.
    """
    run = shlex.quote(run)
    images = kind == "image"
    commands = [
        (f"steadyflow sample {run} -n 100", f"draws 100 new {'images' if images else 'rows'}"),
        (f"steadyflow interpolate {run} --from 0 --to 1", "goes from one test example to another"),
        (f"steadyflow score {run}", "gives each example its log-likelihood"),
        (f"steadyflow check {run}", "tests the inverse and the log-determinant"),
        (f"steadyflow train --resume {run} {more_budget(training)}", "trains on, twice as long"),
    ]
    if images:
        bound = (f"steadyflow evaluate {run} --draws 10", "tightens the bound with more noise")
        commands.insert(1, bound)
    return commands


def more_budget(training: Mapping[str, Any]) -> str:
    """The flags of a budget twice as large as the run's."""
    given = {name: training.get(name) for name in ("epochs", "steps", "minutes")}
    words = [f"--{name} {2 * value:g}" for name, value in given.items() if value is not None]
    return " ".join(words) or "--steps 10000"


def typed(folder: str | Path) -> str:
    """A folder as one would type it: from the current folder if it lies below, else its name."""
    folder = Path(folder)
    if not folder.is_absolute():
        return str(folder)
    try:
        return str(folder.relative_to(Path.cwd()))
    except ValueError:
        return folder.name


def _model_options(model: Any) -> dict[str, Any]:
    """The constructor's arguments that are neither defaults nor decided by the data."""
    parameters = inspect.signature(type(model)).parameters
    defaults = {name: p.default for name, p in parameters.items() if name not in FILLED_IN}
    return _different(model.config, defaults)


def _data_options(data: Mapping[str, Any]) -> dict[str, Any]:
    given = {"data-seed": data.get("seed", 0), **data.get("fractions", {})}
    usual = {"data-seed": 0, "validation": 0.1, "test": 0.1}
    return {**_different(given, usual), **data.get("options", {})}


def _training_options(training: Mapping[str, Any]) -> dict[str, Any]:
    return _different(training, _training_defaults())


def _training_defaults() -> dict[str, Any]:
    from steadyflow.training import TrainingOptions

    return {field.name: field.default for field in dataclasses.fields(TrainingOptions)}


def _different(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Of the values that have a default, those that are not it; tuples count as lists."""
    plain = {name: _plain(values[name]) for name in values if name in defaults}
    return {name: value for name, value in plain.items() if value != _plain(defaults[name])}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
