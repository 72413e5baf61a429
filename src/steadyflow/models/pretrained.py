"""Saved models: a folder of two files, what a model was built with and its weights.

    config.json          {"model": name, "config": the constructor's arguments}
    model.safetensors    the tensors of `state_dict()`

Neither can hold code: to open a stranger's model runs nothing of theirs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from steadyflow import trained
from steadyflow.storage import recover_folder, replace_file, replace_folder

if TYPE_CHECKING:
    from steadyflow.models.model import GenerativeModel

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save(model: GenerativeModel, folder: str | Path, state: Mapping[str, Tensor]) -> None:
    """Writes both files, all or nothing; see `GenerativeModel.save_pretrained`."""
    folder = Path(folder)
    if folder.is_dir() and not _only_a_model(folder):
        with replace_file(folder / CONFIG) as config, replace_file(folder / WEIGHTS) as weights:
            _write(model, config, weights, state)
        return
    with replace_folder(folder) as aside:
        _write(model, aside / CONFIG, aside / WEIGHTS, state)


def load(source: str | Path, kind: type[GenerativeModel]) -> GenerativeModel:
    """Builds a saved model, which has to be of a kind; see `GenerativeModel.from_pretrained`."""
    from steadyflow.models import model_class

    folder = _find(source)
    name, config = _read_config(folder / CONFIG)
    model_type = model_class(name)
    if not issubclass(model_type, kind):
        raise ValueError(f"{folder} holds a {model_type.__name__}, not a {kind.__name__}")
    try:
        model = model_type(**config)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / CONFIG} does not fit {model_type.__name__}: {error}"
        ) from error
    _load_weights(model, folder / WEIGHTS)
    model._read(folder)
    return model.eval()


def _only_a_model(folder: Path) -> bool:
    """Whether the folder may be replaced as a whole: our two files, and nobody stands in it."""
    names = {file.name for file in folder.iterdir()}
    return names == {CONFIG, WEIGHTS} and not folder.samefile(Path.cwd())


def _write(model: GenerativeModel, config: Path, weights: Path, state: Mapping[str, Tensor]):
    tensors = {k: v.detach().contiguous().cpu() for k, v in state.items()}
    content = {"model": model.name, "config": model.config}
    config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    safetensors.torch.save_file(tensors, str(weights), {"format": "pt"})


def _find(source: str | Path) -> Path:
    """The folder of a saved model: one here, one that comes along, or one of the hub."""
    folder = Path(source)
    recover_folder(folder)
    if folder.is_dir():
        return folder
    if shipped := trained.find(source):
        return shipped
    if str(source).count("/") != 1 or folder.is_absolute() or str(source).startswith("."):
        raise FileNotFoundError(f"there is no model folder '{source}'")
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(str(source), allow_patterns=[CONFIG, WEIGHTS])
        )
    except Exception as error:
        raise FileNotFoundError(
            f"'{source}' is neither a folder here nor a model that the hub would give: {error}"
        ) from error


def _read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """The name of the model and the arguments of its constructor."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is not a saved model: it has no {CONFIG}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        name, config = content["model"], content["config"]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"{path} was not written by steadyflow, or is damaged") from None
    if not isinstance(name, str) or not isinstance(config, dict):
        raise ValueError(f"{path} was not written by steadyflow, or is damaged")
    return name, config


def _load_weights(model: GenerativeModel, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is not a saved model: it has no {WEIGHTS}")
    try:
        weights = safetensors.torch.load_file(str(path))
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error
    kinds = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    if len(kinds) == 1:  # sixteen bits are for the disk, a density needs thirty-two
        model.to(torch.promote_types(kinds.pop(), torch.float32))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path} does not fit its {CONFIG}: {reason}") from error
    try:
        model.verify()
    except ValueError as error:
        raise ValueError(f"{path} can not be used: {error}") from error
