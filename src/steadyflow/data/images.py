"""A folder of images.

    folder/a.png ...                       no labels
    folder/cat/a.png, folder/dog/...       the sub-folders are the classes
    folder/train/..., folder/test/...      either of these in each, and the splits are kept

Files that are not images by their name are passed over; an image that can not be read is an error.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from steadyflow.data.content import DataError, listed
from steadyflow.data.dataset import Pair, Pieces
from steadyflow.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
SPLIT_FOLDERS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
GRAY_MODES = {"1", "L", "LA"}
WIDE_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)  # Pillow's
ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 swap width and height


def is_image_folder(folder: Path) -> bool:
    """Whether there is an image in the folder, at any depth."""
    return folder.is_dir() and any(_images_below(folder))


def read(folder: Path, *, size: int | None = None, gray: bool = False) -> Pieces:
    """Reads all images of a folder.

    Args:
        folder: laid out in one of the three ways above.
        size: scale and crop the middle to size x size pixels; None: they must all be equal.
        gray: one channel for all; otherwise it is three as soon as one image has colours.
            What is transparent is laid on white.

    Returns:
        Images (N, C, H, W) uint8, the classes' names as labels; files in the order of their names.

    Raises:
        UsageError: for a size below 1.
        DataError: for an image that can not be read, sizes that differ, or an unclear layout.
    """
    if size is not None and size < 1:
        raise UsageError(f"size={size} pixels was given: give 1 or more")
    found = {name: _files(part) for name, part in _split_folders(folder).items()}
    headers = {file: _header(file) for files, _ in found.values() for file in files}
    shape = _common_shape(folder, headers, size, gray)
    pieces: dict[str, Pair] = {
        name: (_pixels(files, shape), None if labels is None else np.array(labels))
        for name, (files, labels) in found.items()
    }
    return Pieces(
        train=pieces["train"], validation=pieces.get("validation"), test=pieces.get("test")
    )


def _split_folders(folder: Path) -> dict[str, Path]:
    names = {child.name: child for child in _visible(folder) if child.is_dir()}
    if "train" not in names or not set(names) <= set(SPLIT_FOLDERS):
        return {"train": folder}
    splits = {SPLIT_FOLDERS[name]: child for name, child in names.items()}
    if len(splits) < len(names):
        raise DataError(f"{folder} has several folders for validation: leave one of them")
    return splits


def _files(folder: Path) -> tuple[list[Path], list[str] | None]:
    """The images of one split, and the name of the class of each."""
    direct = [file for file in _visible(folder) if file.suffix.lower() in SUFFIXES]
    classes = {
        child.name: list(_images_below(child)) for child in _visible(folder) if child.is_dir()
    }
    classes = {name: files for name, files in classes.items() if files}
    if direct and classes:
        raise DataError(
            f"{folder} has images both beside and inside its sub-folders {listed(classes)}: put "
            "all of them into sub-folders (one a class), or none"
        )
    if not direct and not classes:
        raise DataError(f"{folder} has no images in it ({', '.join(sorted(SUFFIXES))})")
    if direct:
        return direct, None
    pairs = [(file, name) for name, files in classes.items() for file in files]
    return [file for file, _ in pairs], [name for _, name in pairs]


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__")))


def _images_below(folder: Path) -> Iterator[Path]:
    for path in _visible(folder):
        if path.is_dir():
            yield from _images_below(path)
        elif path.suffix.lower() in SUFFIXES:
            yield path


def _header(file: Path) -> tuple[int, int, bool]:
    """Height, width and whether there are colours, without reading the pixels."""
    with _opened(file) as image:
        if image.mode in WIDE_MODES:
            raise DataError(
                f"{file} has more than 8 bits a channel (mode {image.mode}): convert it to 8 bits"
            )
        width, height = image.size
        turned = image.getexif().get(ORIENTATION, 1) >= 5
        return *((width, height) if turned else (height, width)), image.mode not in GRAY_MODES


def _common_shape(
    folder: Path, headers: dict[Path, tuple[int, int, bool]], size: int | None, gray: bool
) -> tuple[int, int, int]:
    channels = 3 if not gray and any(colours for _, _, colours in headers.values()) else 1
    if size is not None:
        return channels, size, size
    first, (height, width, _) = next(iter(headers.items()))
    for file, (other_height, other_width, _) in headers.items():
        if (height, width) != (other_height, other_width):
            raise DataError(
                f"{folder}: the images differ in size, {first.name} is {width} x {height} pixels "
                f"and {file.name} {other_width} x {other_height}: scale and crop all of them with "
                f"size={min(height, width, other_height, other_width)}"
            )
    return channels, height, width


def _pixels(files: list[Path], shape: tuple[int, int, int]) -> np.ndarray:
    pixels = np.empty((len(files), *shape), dtype=np.uint8)
    for row, file in zip(pixels, files, strict=True):
        row[...] = decode(file, shape)
    return pixels


def decode(file: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """The pixels of an image file, scaled and cropped to (C, H, W), uint8.

    Raises:
        DataError: if it can not be read.
    """
    from PIL import Image, ImageOps

    channels, height, width = shape
    with _opened(file) as image:
        image = ImageOps.exif_transpose(image)
        if "A" in image.mode or "transparency" in image.info:
            over = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), method=Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """An image whose pixels are read in the block; what Pillow raises becomes one sentence."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            yield image
    except DataError:
        raise
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise DataError(
            f"{file} is not an image that can be read, or it is damaged ({error}): get it again "
            "or remove it"
        ) from error
