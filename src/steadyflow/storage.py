"""Files and folders that are either the old ones or the new ones, never half of each.

What is saved is written aside, flushed to the disk and renamed over its final name. A full disk, a
Ctrl-C or a killed process leaves what was there before.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; when the block succeeds it becomes `path`.

    Raises:
        OSError: if it can not be written (no space, no permission); `path` is then untouched.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "answer.txt"
        >>> with replace_file(target) as aside:
        ...     _ = aside.write_text("42")
        >>> target.read_text()
        '42'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        _flush(aside)
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def replace_folder(path: str | Path) -> Iterator[Path]:
    """Yields an empty temporary folder beside `path`; when the block succeeds it becomes `path`.

    A folder can not be replaced in one step, so the old one is first renamed aside; a process
    killed between the two renames leaves it as ``.<name>.old``, which `recover_folder` puts back.

    Raises:
        OSError: if it can not be written, or `path` is a file; what was there is then untouched.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file: choose another name for the folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    old = path.with_name(f".{path.name}.old")
    try:
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                _flush(file)
        os.chmod(aside, 0o777 & ~_umask())
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(path, old)
        os.replace(aside, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        recover_folder(path)


def recover_folder(path: str | Path) -> None:
    """Puts back the old folder if a replacement was cut off between its two renames."""
    path = Path(os.path.realpath(path))
    old = path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        os.replace(old, path)


def remove_leftovers(folder: str | Path) -> None:
    """Removes what processes that were killed while they wrote have left aside in a folder.

    For a folder that nobody else is writing to.
    """
    for path in Path(folder).glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _flush(file: Path) -> None:
    with open(file, "rb+") as handle:
        os.fsync(handle.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
