"""A checkpoint: nested plain values and tensors in one safetensors file.

The tensors are stored as such; everything around them is JSON in the file's metadata:

    {"a": [1, tensor], 0: (2.5, None)}   ->   tensors {"a.0": ...}, metadata {"structure":
        {"dict": [["a", {"list": [1, {"tensor": "a.1"}]}], [0, {"tuple": [2.5, null]}]]}}

Nothing is pickled, so opening a stranger's checkpoint runs no code.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
from torch import Tensor

from steadyflow.storage import replace_file

FORMAT = "steadyflow checkpoint 1"


def save(tree: Mapping[str, Any], path: str | Path) -> None:
    """Writes a checkpoint aside and renames it over `path`.

    Args:
        tree: dicts, lists and tuples of tensors, numbers, strings, booleans and None.
        path: the file.

    Raises:
        TypeError: if the tree holds anything else, with its place.
        OSError: if it can not be written; what was at `path` is then intact.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "checkpoint.safetensors"
        >>> save({"weights": torch.ones(2), "steps": {0: (1, None)}}, path)
        >>> load(path)
        {'weights': tensor([1., 1.]), 'steps': {0: (1, None)}}
    """
    tensors: dict[str, Tensor] = {}
    structure = _encode(tree, "", tensors)
    metadata = {"format": FORMAT, "structure": json.dumps(structure)}
    with saving(path), replace_file(path) as aside:
        safetensors.torch.save_file(tensors, str(aside), metadata)


def load(path: str | Path, key: str | None = None) -> dict[str, Any]:
    """Reads what `save` wrote, on the CPU.

    Args:
        path: the file.
        key: read what is under this key only.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError("it is some other safetensors file")
            structure = json.loads(metadata["structure"])
            structure = structure if key is None else dict(structure["dict"])[key]
            return _decode(structure, file.get_tensor)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged or not a checkpoint of steadyflow ({error}): the run can not be "
            "resumed from it; its model/ can still be used, or start a new run"
        ) from error


@contextlib.contextmanager
def saving(path: str | Path) -> Iterator[None]:
    """Turns what goes wrong while saving into one sentence.

    Raises:
        OSError: naming the path and the reason.
    """
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(
            f"could not save {path}: {reason}; what was saved before is intact: make room or "
            "give another folder, and continue with --resume"
        ) from error


def _encode(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[place] = value.detach().cpu().contiguous().clone()
        return {"tensor": place}
    if isinstance(value, Mapping):
        return {
            "dict": [
                [_plain(key, place), _encode(item, f"{place}.{key}".strip("."), tensors)]
                for key, item in value.items()
            ]
        }
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(v, f"{place}.{i}", tensors) for i, v in enumerate(value)]}
    return _plain(value, place)


def _plain(value: Any, place: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"a checkpoint holds tensors and plain values, but '{place}' is a {type(value).__name__}"
    )


def _decode(value: Any, tensor: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensor(content)
    if kind == "dict":
        return {key: _decode(item, tensor) for key, item in content}
    items = [_decode(item, tensor) for item in content]
    return tuple(items) if kind == "tuple" else items
