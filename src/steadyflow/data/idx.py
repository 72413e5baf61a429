"""MNIST's file format: IDX, with or without gzip.

    two zero bytes, one byte for the type (8: uint8), one for the number of axes,
    the length of each axis as a big-endian 32-bit integer, then the values

LeCun, Cortes & Burges, "The MNIST database of handwritten digits". A folder holds
``train-images-idx3-ubyte`` and ``t10k-images-idx3-ubyte`` with their ``labels-idx1`` files.
"""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

import numpy as np

from steadyflow.data.content import DataError
from steadyflow.data.dataset import Pair, Pieces

FILE = re.compile(r"(?P<stem>.*?)(?P<what>images|labels)(?P<dot>[-.])idx[13]-ubyte(\.gz)?$")
UINT8 = 8


def is_idx(path: Path) -> bool:
    """Whether a file is named as MNIST's are, or a folder holds such images."""
    if path.is_dir():
        return bool(_image_files(path))
    return FILE.match(path.name) is not None


def read(path: Path) -> Pieces:
    """Reads a folder of IDX files, or one file of images with its labels if they lie beside it.

    Returns:
        Images (N, 1, H, W) uint8; the file ``t10k-...`` or ``test-...`` of a folder is its test.

    Raises:
        DataError: if a file is damaged or of another format, or if the folder holds several
            training files.
    """
    if not path.is_dir():
        return Pieces(train=_with_labels(path))
    files = _image_files(path)
    test = [file for file in files if re.search(r"t10k|test", file.name)]
    train = [file for file in files if file not in test]
    if len(train) > 1 or len(test) > 1:
        names = ", ".join(file.name for file in files)
        raise DataError(f"{path}: several sets of images ({names}): give the path of one file")
    if not train:
        return Pieces(train=_with_labels(test[0]))
    return Pieces(train=_with_labels(train[0]), test=_with_labels(test[0]) if test else None)


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Reads one file as a uint8 array of `axes` axes.

    Raises:
        DataError: if it is cut off or of another format.
    """
    data = _bytes(path)
    if len(data) < 4 or data[:2] != b"\0\0":
        raise DataError(
            f"{path} is not an IDX file: it starts with {data[:4]!r} instead of two zero bytes, "
            "a type and a number of axes"
        )
    if data[2] != UINT8 or data[3] != axes:
        what = "images" if axes == 3 else "labels"
        raise DataError(
            f"{path} holds values of type {data[2]} with {data[3]} axes, but {what} have type "
            f"{UINT8} (uint8) and {axes} axes: give the file of {what}"
        )
    start = 4 + 4 * axes
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    expected = start + int(np.prod(shape, dtype=object))
    if len(data) != expected:
        raise DataError(
            f"{path} should have {expected} bytes for its shape {tuple(shape)} but has "
            f"{len(data)}: it is damaged, get it again"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def _bytes(path: Path) -> bytes:
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}): get it again") from error


def _with_labels(path: Path) -> Pair:
    match = FILE.match(path.name)
    if match is None or match["what"] == "labels":
        raise DataError(f"{path} is a file of labels: give the file of images beside it")
    name = f"{match['stem']}labels{match['dot']}idx1-ubyte"
    found = [path.with_name(name + end) for end in ("", ".gz")]
    labels = next((file for file in found if file.exists()), None)
    return read_idx(path, 3)[:, None], None if labels is None else read_idx(labels, 1)


def _image_files(folder: Path) -> list[Path]:
    """The files of images, one of each name if it is there with and without gzip."""
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        match = FILE.match(file.name)
        if match and match["what"] == "images":
            files.setdefault(file.name.removesuffix(".gz"), file)
    return list(files.values())
