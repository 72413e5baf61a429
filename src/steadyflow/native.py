"""Small C kernels, compiled on the user's machine the first time they are wanted.

A kernel is one C file beside the Python that calls it. It is built with the machine's own C
compiler (`$CC`, or cc) for the machine's own instruction set, kept in the user's cache folder
under a name that hashes the source, the flags and everything the compiler says about itself and
its target, and loaded with ctypes. Where there is no compiler, or the build fails, `load` gives
None and the caller's plain torch code serves: a kernel is a matter of speed, never of results.
`STEADYFLOW_NATIVE=0` switches all of them off.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-ffp-contract=fast", "-shared", "-fPIC"]
TIMEOUT = 60  # seconds for one call of the compiler


def load(source: Path) -> ctypes.CDLL | None:
    """The compiled library of a C file, or None where it can not be had."""
    command = shlex.split(os.environ.get("CC", "cc"))
    if os.environ.get("STEADYFLOW_NATIVE", "1") == "0" or not shutil.which(command[0]):
        return None
    if sys.platform == "win32":
        return None
    for flags in ([*FLAGS, "-fopenmp"], FLAGS):
        try:
            return ctypes.CDLL(str(_build(source, [*command, *flags])))
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def _build(source: Path, command: list[str]) -> Path:
    target = _run([*command, "-dM", "-E", "-x", "c", os.devnull])
    name = hashlib.sha256(b"\0".join([source.read_bytes(), " ".join(command).encode(), target]))
    library = _cache() / f"{source.stem}-{name.hexdigest()[:24]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            aside = Path(folder) / library.name
            _run([*command, str(source), "-o", str(aside)])
            aside.replace(library)
    return library


def _run(command: list[str]) -> bytes:
    return subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT).stdout


def _cache() -> Path:
    """The user's own cache folder, closed to others: what lies in it is executed."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "steadyflow"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
        raise PermissionError(f"{folder} can be written by others")
    return folder
