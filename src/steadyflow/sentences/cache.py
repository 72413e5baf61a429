"""Vectors of sentences on disk, so that nothing is encoded twice.

    FOLDER/about.json     what the vectors are
    FOLDER/keys.bin       16 bytes a sentence, in the order of arrival
    FOLDER/vectors.bin    d float32 a sentence, in the same order

Both files only grow. A process that is killed while it writes leaves a torn last row, which the
next one cuts off: what was complete stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steadyflow.data.content import DataError
from steadyflow.storage import replace_file

KEY = 16  # bytes


class VectorCache:
    """The vectors of one encoder with one pooling.

    Args:
        folder: where they are; made if it is not there.
        about: plain values that say what the vectors are; a folder of others is refused.
        size: the length of a vector.

    Raises:
        DataError: if the folder holds other vectors.

    Example:
        >>> import tempfile
        >>> cache = VectorCache(tempfile.mkdtemp() + "/cache", {"encoder": "mine"}, size=2)
        >>> cache.put(["a", "b"], np.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> cache.missing(["b", "c", "c"]), cache.get(["b"]).tolist()
        (['c'], [[3.0, 4.0]])
    """

    def __init__(self, folder: str | Path, about: dict[str, Any], size: int):
        self.folder, self.size = Path(folder), size
        self._keys, self._vectors = self.folder / "keys.bin", self.folder / "vectors.bin"
        self._check({**about, "size": size})
        self._rows: dict[bytes, int] = {}
        self._read_keys()

    def __len__(self) -> int:
        return len(self._rows)

    def missing(self, sentences: Sequence[str]) -> list[str]:
        """The sentences that are not there, each once, in their order."""
        return [s for s in dict.fromkeys(sentences) if key(s) not in self._rows]

    def get(self, sentences: Sequence[str]) -> np.ndarray:
        """The vectors of sentences that are there: (n, d) float32."""
        if not sentences:
            return np.empty((0, self.size), np.float32)
        rows = [self._rows[key(s)] for s in sentences]
        vectors = np.memmap(self._vectors, np.float32, "r").reshape(-1, self.size)
        return vectors[rows]

    def put(self, sentences: Sequence[str], vectors: np.ndarray) -> None:
        """Appends vectors (n, d) of sentences that are not there yet."""
        with self._alone():
            self._read_keys()  # what another process has added meanwhile
            new = [i for i, s in enumerate(sentences) if key(s) not in self._rows]
            with open(self._vectors, "ab") as file:
                file.write(np.ascontiguousarray(vectors[new], np.float32).tobytes())
            with open(self._keys, "ab") as file:
                file.write(b"".join(key(sentences[i]) for i in new))
            self._read_keys()

    def _read_keys(self) -> None:
        """Learns of the complete rows that were added since."""
        if not (self._keys.exists() and self._vectors.exists()):
            return
        sizes = (self._keys.stat().st_size // KEY, self._vectors.stat().st_size // (4 * self.size))
        known, whole = len(self._rows), min(sizes)
        with open(self._keys, "rb") as file:
            file.seek(known * KEY)
            raw = file.read((whole - known) * KEY)
        self._rows |= {raw[i : i + KEY]: known + i // KEY for i in range(0, len(raw), KEY)}

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other writers out, and cuts off a row that was torn."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as lock:
            with contextlib.suppress(ImportError):
                import fcntl

                fcntl.flock(lock, fcntl.LOCK_EX)
            self._read_keys()
            for path, width in ((self._keys, KEY), (self._vectors, 4 * self.size)):
                with open(path, "ab") as file:
                    file.truncate(len(self._rows) * width)
            yield

    def _check(self, about: dict[str, Any]) -> None:
        path = self.folder / "about.json"
        if not path.exists():
            with replace_file(path) as aside:
                aside.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            return
        there = json.loads(path.read_text(encoding="utf-8"))
        if there != about:
            raise DataError(
                f"{self.folder} holds vectors of {there}, not of {about}: give another folder"
            )


def key(sentence: str) -> bytes:
    """Sixteen bytes that stand for a sentence."""
    return hashlib.blake2b(sentence.encode("utf-8", "surrogatepass"), digest_size=KEY).digest()
