"""Pairs of sentences with a similarity that people gave, from files.

A file is tab-separated text (.tsv or .tsv.gz) with a header that names at least `score`,
`sentence1` and `sentence2`; `task` and `split` are used if they are there. A task 'sts12.MSRpar'
belongs to the group 'sts12'.
"""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steadyflow.data.content import DataError
from steadyflow.errors import UsageError

NEEDED = ("score", "sentence1", "sentence2")


@dataclass(frozen=True)
class Pairs:
    """Pairs of sentences, and the vectors of which stand in one array.

    Attributes:
        name: of the group, such as 'sts12'.
        tasks: (n,) the sub-task of each pair.
        splits: (n,) the split of each pair.
        scores: (n,) what people said.
        first, second: (n,) the positions of the two sentences among `sentences`.
        sentences: every sentence of the group, all splits, once.
    """

    name: str
    tasks: np.ndarray
    splits: np.ndarray
    scores: np.ndarray
    first: np.ndarray
    second: np.ndarray
    sentences: list[str]

    def __len__(self) -> int:
        return len(self.scores)

    def split(self, name: str) -> Pairs:
        """Only the pairs of a split; the sentences stay.

        Raises:
            UsageError: if there are none.
        """
        kept = self.splits == name
        if not kept.any():
            there = ", ".join(sorted(set(self.splits)))
            raise UsageError(f"{self.name} has no split '{name}': it has {there}")
        return Pairs(
            self.name,
            self.tasks[kept],
            self.splits[kept],
            self.scores[kept],
            self.first[kept],
            self.second[kept],
            self.sentences,
        )


def read_pairs(path: str | Path) -> list[Pairs]:
    """The groups of a file, in their order.

    Raises:
        DataError: for a damaged file, a missing column, or a score that is no number, with its
            line.
    """
    path = Path(path)
    rows: dict[str, list[tuple[str, str, float, str, str]]] = {}
    for task, split, score, a, b in _rows(path):
        rows.setdefault(task.partition(".")[0], []).append((task, split, score, a, b))
    if not rows:
        raise DataError(f"{path} has a header but no pairs under it")
    return [_group(name, found) for name, found in rows.items()]


def read_sentences(path: str | Path) -> list[str]:
    """The distinct sentences of a file: pairs (.tsv), or text with one sentence a line."""
    path = Path(path)
    if path.name.endswith((".tsv", ".tsv.gz")):
        groups = read_pairs(path)
        return list(dict.fromkeys(s for group in groups for s in group.sentences))
    lines = (line.strip() for line in _text(path).splitlines())
    found = list(dict.fromkeys(line for line in lines if line))
    if not found:
        raise DataError(f"{path} has no sentences: one a line is expected")
    return found


def _group(name: str, rows: list[tuple[str, str, float, str, str]]) -> Pairs:
    tasks, splits, scores, a, b = zip(*rows, strict=True)
    position = {s: i for i, s in enumerate(dict.fromkeys((*a, *b)))}
    return Pairs(
        name,
        np.array(tasks),
        np.array(splits),
        np.array(scores),
        np.array([position[s] for s in a]),
        np.array([position[s] for s in b]),
        list(position),
    )


def _rows(path: Path) -> Iterator[tuple[str, str, float, str, str]]:
    lines = io.StringIO(_text(path), newline="")
    table = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\")
    names = next(table, [])
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise DataError(
            f"{path} has no column '{missing[0]}': a tab-separated file with the header "
            f"{' '.join(NEEDED)} is expected"
        )
    place = {name: names.index(name) for name in names}
    for number, row in enumerate(table, start=2):
        if not row:
            continue
        if len(row) != len(names):
            raise DataError(
                f"{path}: line {number} has {len(row)} cells but the header has {len(names)}"
            )
        task = row[place["task"]] if "task" in place else path.name.partition(".")[0]
        split = row[place["split"]] if "split" in place else "test"
        score = _number(row[place["score"]], path, number)
        yield task, split, score, row[place["sentence1"]], row[place["sentence2"]]


def _number(cell: str, path: Path, line: int) -> float:
    try:
        score = float(cell)
    except ValueError:
        score = float("nan")
    if not np.isfinite(score):
        raise DataError(f"{path}: line {line} has the score '{cell}', which is not a number")
    return score


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}): get it again") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not text in UTF-8 ({error.reason}): save it as such"
        ) from error


def sentences_of(groups: Iterable[Pairs]) -> list[str]:
    """The distinct sentences of several groups."""
    return list(dict.fromkeys(s for group in groups for s in group.sentences))


def pairs_from_arrays(path: str | Path) -> Pairs:
    """The pairs of a .npz with vectors: `a` and `b` rows of them, `score`; maybe `split`, `task`.

    Raises:
        DataError: if one of them is missing, or a row number is out of range.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in file if file[name].ndim == 1}
            rows = min((len(file[name]) for name in file if file[name].ndim == 2), default=0)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a .npz file, or it is damaged: {error}") from error
    missing = [name for name in ("a", "b", "score") if name not in held]
    if missing or not rows:
        raise DataError(
            f"{path} has no array '{(missing or ['vectors (n, d)'])[0]}': pairs of vectors are a "
            "and b (row numbers), score, and the vectors (n, d)"
        )
    first, second, scores = held["a"].astype(int), held["b"].astype(int), held["score"]
    if min(first.min(), second.min()) < 0 or max(first.max(), second.max()) >= rows:
        raise DataError(f"{path}: a and b must be row numbers from 0 to {rows - 1}")
    name = path.name.partition(".")[0]
    tasks, splits = (np.full(len(scores), text) for text in (name, "test"))
    tasks, splits = held.get("task", tasks), held.get("split", splits)
    return Pairs(name, tasks, splits, scores.astype(float), first, second, [""] * rows)
