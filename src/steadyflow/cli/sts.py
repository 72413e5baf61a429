"""`steadyflow sts`: how well cosines of sentence vectors agree with people, method by method."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steadyflow.cli import console
from steadyflow.errors import UsageError
from steadyflow.storage import replace_file

if TYPE_CHECKING:
    import numpy as np

    from steadyflow.sentences.encoding import Encoder
    from steadyflow.sentences.pairs import Pairs
    from steadyflow.sentences.table import Row

POOLINGS = ("mean", "first-last")
METHODS = ("raw", "center", "whiten", "whiten:256", "whiten:128", "soft", "half:128", "abtt")


def sts(
    data: str,
    *,
    more: tuple[str, ...] = (),
    encoder: str | None = None,
    pooling: tuple[str, ...] = POOLINGS,
    methods: tuple[str, ...] = METHODS,
    fit: str = "target",
    split: str = "test",
    aggregate: Literal["wmean", "mean", "all"] = "wmean",
    bootstrap: int = 1000,
    seeds: tuple[int, ...] = (0,),
    flow_steps: int = 1000,
    max_tokens: int = 64,
    batch_size: int = 64,
    cache: str | None = None,
    out: str | None = None,
    spectrum: str | None = None,
    chart: str | None = None,
) -> dict[str, Any]:
    """Scores sentence vectors on pairs that people have judged: raw, whitened, flow.

    Spearman's correlation times 100 with its standard error, for every pooling and method. Methods
    are fitted on sentences and never on scores.

    Args:
        data: a file of pairs: .tsv or .tsv.gz with score, sentence1, sentence2 (and task, split),
            or .npz with a, b, score (and task, split) and ready vectors.
        more: further files of the same kind.
        encoder: the folder of an encoder, or its name on the Hugging Face hub; for .tsv files.
        pooling: 'mean', 'cls', 'first-last', 'layers:2,3'; for .npz files the names of the arrays.
        methods: raw, center, zscore, whiten:K, zca:K, oas:K, soft:E, half:K, rotate:K, abtt:D,
            flow:K, bert-flow; K directions, or a share of the variance.
        fit: 'target' fits on the sentences of each set itself; else a file of other sentences,
            pairs or one a line (.npz or .npy vectors, for .npz files).
        split: the pairs that are scored.
        aggregate: how sub-tasks are put together; never compare one with another.
        bootstrap: draws for the standard errors.
        seeds: of the flows.
        flow_steps: steps of the flows, at most.
        max_tokens: longer sentences are cut.
        batch_size: sentences that are encoded at a time.
        cache: a folder that keeps the vectors, so that nothing is encoded twice.
        out: a .md or .json file to write the table into.
        spectrum: a .png file to draw the spectra of the first set into.
        chart: a .png file to draw the averages of the table into.
    """
    if out is not None and Path(out).suffix not in (".md", ".json"):
        raise UsageError(f"--out takes a .md or .json file, but '{out}' was given")
    from steadyflow.sentences.methods import Method
    from steadyflow.sentences.table import Protocol, markdown, sts_rows

    chosen = [Method.named(name) for name in methods]
    how = Protocol(split, aggregate, bootstrap, seeds, {"steps": flow_steps})
    source = _source([data, *more], encoder, max_tokens, batch_size, cache)
    rows: list[Row] = []
    spectra = {}
    for name, vectors, corpus in source.vectors(pooling, fit):
        if spectrum is not None:
            spectra[name] = _isotropy(vectors[source.groups[0].name])
        with console.progress(f"scoring {name}") as progress:
            rows += sts_rows(
                source.groups,
                vectors,
                chosen,
                pooling=name,
                corpus=corpus,
                protocol=how,
                progress=progress,
            )
    lines = [*_about(rows, source.groups, split, aggregate, seeds), "", markdown(rows)]
    _show(rows, lines[:-2])
    answer: dict[str, Any] = {
        "data": [data, *more],
        "encoder": encoder,
        "split": split,
        "aggregate": aggregate,
    }
    answer |= {"fit": fit, "rows": [row.plain() for row in rows]}
    if out is not None:
        text = console.as_json(answer) if out.endswith(".json") else "\n".join(lines)
        with replace_file(out) as aside:
            aside.write_text(text + "\n", encoding="utf-8")
        console.say(f"written: {out}")
    if spectrum is not None:
        from steadyflow.report.spectrum import spectrum as draw

        console.say(f"spectra: {draw(spectra, spectrum)}")
    if chart is not None:
        from steadyflow.report.agreement import chart as draw_chart

        console.say(f"chart: {draw_chart(rows, chart)}")
    return json.loads(console.as_json(answer))


class _Texts:
    """Pairs of sentences, and an encoder."""

    def __init__(self, data: Sequence[str], encoder: Encoder):
        from steadyflow.sentences.pairs import read_pairs

        self.groups: list[Pairs] = [group for path in data for group in read_pairs(path)]
        self.encoder = encoder

    def vectors(self, poolings: Sequence[str], fit: str) -> Any:
        """Each pooling with the vectors of every group, and those of the corpus."""
        from steadyflow.sentences.pairs import read_sentences, sentences_of

        others = [] if fit == "target" else read_sentences(fit)
        with console.progress("encoding") as progress:
            self.encoder.encode_all([*sentences_of(self.groups), *others], poolings, progress)
        for pooling in poolings:
            of = {g.name: self.encoder.encode(g.sentences, pooling) for g in self.groups}
            corpus = (Path(fit).name, self.encoder.encode(others, pooling)) if others else None
            yield pooling, of, corpus


class _Arrays:
    """Pairs of vectors that are there already."""

    def __init__(self, data: Sequence[str]):
        from steadyflow.sentences.pairs import pairs_from_arrays

        self.data = data
        self.groups: list[Pairs] = [pairs_from_arrays(path) for path in data]

    def vectors(self, poolings: Sequence[str], fit: str) -> Any:
        """Each array with its name, and the corpus if there is one."""
        import numpy as np

        from steadyflow.whitening.rows import batches

        def whole(path: str, key: str) -> np.ndarray:
            parts = list(batches(path, key=None if path.endswith(".npy") else key))
            return np.concatenate(parts).astype(np.float32)

        for pooling in poolings:
            of = {
                group.name: whole(path, pooling)
                for group, path in zip(self.groups, self.data, strict=True)
            }
            corpus = None if fit == "target" else (Path(fit).name, whole(fit, pooling))
            yield pooling, of, corpus


def _source(
    data: Sequence[str],
    encoder: str | None,
    max_tokens: int,
    batch_size: int,
    cache: str | None,
) -> _Texts | _Arrays:
    ready = [path.endswith(".npz") for path in data]
    missing = next((path for path in data if not Path(path).is_file()), None)
    if missing is not None:
        raise UsageError(f"there is no file {missing}")
    if all(ready):
        return _Arrays(data)
    if any(ready):
        raise UsageError("give .npz files with vectors or .tsv files with sentences, not both")
    if encoder is None:
        raise UsageError("sentences need --encoder: the folder of one, or its name on the hub")
    from steadyflow.sentences.encoding import Encoder

    return _Texts(
        data, Encoder(encoder, max_tokens=max_tokens, batch_size=batch_size, cache=cache)
    )


def _isotropy(x: np.ndarray) -> Any:
    from steadyflow.whitening.isotropy import Isotropy

    return Isotropy.of(x)


def _about(
    rows: Sequence[Row],
    groups: Sequence[Pairs],
    split: str,
    aggregate: str,
    seeds: Sequence[int],
) -> list[str]:
    """What must be known to read the table."""
    sets = ", ".join(
        f"{g.name} ({len(g.split(split)):,} pairs, {len(g.sentences):,} sentences)" for g in groups
    )
    several = any(len(set(group.split(split).tasks.tolist())) > 1 for group in groups)
    lines = [f"Spearman x 100 ± standard error on the {split} pairs of {sets}."]
    if several:
        lines.append(f"Sub-tasks put together by '{aggregate}'.")
    if any(row.fit == "target" for row in rows):
        lines.append("'target': fitted on the evaluated sentences, without scores (transductive).")
    if any(row.seeds for row in rows):
        lines.append(f"Flows: mean over the seeds {', '.join(map(str, seeds))}.")
    notes = {
        f"Note on {row.pooling}, {name}: {note}."
        for row in rows
        for name, found in row.notes.items()
        for note in found
        if "few" in note or "left out" in note
    }
    return [*lines, *sorted(notes)]


def _show(rows: Sequence[Row], about: Sequence[str]) -> None:
    from steadyflow.sentences.table import sizes

    names = list(rows[0].cells)
    average = ["average"] if len(names) > 1 else []
    console.table(
        ("pooling", "method", "k", "fitted on", *names, *average),
        [
            (
                row.pooling,
                row.method,
                sizes(row),
                row.fit,
                *row.cells.values(),
                *([row.average] if average else []),
            )
            for row in rows
        ],
    )
    console.say(*about)
