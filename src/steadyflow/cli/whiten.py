"""`steadyflow whiten`: fits a whitening to embeddings of any number, and applies it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steadyflow.cli import console
from steadyflow.cli.options import Option, read
from steadyflow.cli.parsing import Parsed
from steadyflow.errors import UsageError, unknown

if TYPE_CHECKING:
    from steadyflow.models.whitening import Whitening
    from steadyflow.whitening import Moments

ACTIONS = ("fit", "apply", "merge")


def groups(words: list[str]) -> dict[str, list[Option]]:
    """The options of the whitening, for fit and merge."""
    from steadyflow.whitening.solution import WhiteningOptions

    return {} if "apply" in words else {"whitening": read(WhiteningOptions)}


def whiten(
    action: str,
    source: str,
    *,
    out: str | None = None,
    run: str | None = None,
    more: tuple[str, ...] = (),
    key: str | None = None,
    columns: tuple[str, ...] = (),
    dtype: Literal["float32", "float16", "float64"] = "float32",
    normalize: bool = False,
    spectrum: str | None = None,
    workers: int = 0,
    scheduler: str | None = None,
    options: Parsed | None = None,
) -> dict[str, Any]:
    """Fits a whitening to embeddings in one pass, applies one, or merges several.

    'whiten fit x.npy --out w' reads x once, in batches; 'whiten apply x.npy --run w --out z.npy'
    writes the whitened vectors; 'whiten merge a --more b c --out w' makes of whitenings that were
    fitted on parts the one of all.

    Args:
        action: 'fit', 'apply' or 'merge'.
        source: embeddings, a .npy, .npz or .parquet file or a folder of them; for merge, the
            folder that a fit has left.
        out: the folder of the whitening, or for apply the .npy or .parquet file of the vectors.
        run: for apply, the folder that a fit has left.
        more: for fit, further files; for merge, further folders.
        key: the array of an npz.
        columns: the columns of a Parquet file.
        dtype: of the vectors that apply writes.
        normalize: scale the vectors that apply writes to length 1.
        spectrum: a .png file to draw the spectrum of the fitted embeddings into.
        workers: fit several files on so many processes, through Dask.
        scheduler: fit several files on the Dask scheduler of this address.
        options: filled in by the command line.
    """
    if action not in ACTIONS:
        raise unknown("action", action, ACTIONS)
    if out is None:
        what = "the file of the vectors" if action == "apply" else "the folder of the whitening"
        raise UsageError(f"whiten {action} needs --out, {what}")
    reading = {"key": key, "columns": list(columns) or None}
    if action == "apply":
        return _apply(source, out, run, reading, dtype, normalize)
    asked = {} if options is None else options.groups["whitening"]
    if action == "merge":
        moments, error = _merged([source, *more]), None
    else:
        moments, error = _read([source, *more], workers, scheduler, reading)
    answer = _save(moments, asked, out, spectrum, source, reading)
    if error is not None:
        from steadyflow.data import DataError

        raise DataError(f"{error}; the {moments.n} rows before it were fitted, and are in {out}")
    return answer


def _read(
    sources: list[str], workers: int, scheduler: str | None, reading: dict[str, Any]
) -> tuple[Moments, Exception | None]:
    """The moments of the files; of what came before the damage, and the error, if there is one."""
    from steadyflow.data import DataError
    from steadyflow.whitening.rows import batches, fit_files

    with console.progress("fitting") as progress:
        if workers or scheduler:
            return fit_files(
                sources, workers=workers, scheduler=scheduler, progress=progress, **reading
            ), None
        moments, total = None, _total(sources, reading)
        try:
            for source in sources:
                for batch in batches(source, **reading):
                    moments = _updated(moments, batch)
                    if progress is not None and total:
                        progress(moments.n, total)
        except DataError as error:
            if moments is None or moments.n < 2:
                raise
            return moments, error
    if moments is None:
        raise UsageError(f"{', '.join(sources)}: there are no rows to fit on")
    return moments, None


def _updated(moments: Moments | None, batch: Any) -> Moments:
    from steadyflow.whitening import Moments

    return (Moments(batch.shape[1]) if moments is None else moments).update(batch)


def _total(sources: list[str], reading: dict[str, Any]) -> int | None:
    from steadyflow.whitening.rows import count_rows

    counts = [count_rows(source, reading["key"]) for source in sources]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _merged(folders: list[str]) -> Moments:
    from steadyflow.models.whitening import MOMENTS
    from steadyflow.whitening import Moments

    first, *rest = [Moments.load(Path(folder) / MOMENTS) for folder in folders]
    for other in rest:
        first.merge(other)
    return first


def _save(
    moments: Moments,
    asked: dict[str, Any],
    out: str,
    picture: str | None,
    source: str,
    reading: dict[str, Any],
) -> dict[str, Any]:
    from steadyflow.models.whitening import Whitening

    if Path(out).is_file():
        raise UsageError(f"{out} is a file: give a folder for the whitening")
    model = Whitening(event_shape=[moments.size], **asked).double().fit(moments)
    model.save_pretrained(out)
    solution = model.solution
    assert solution is not None
    console.say(
        f"{moments.n:,} vectors of {moments.size} numbers, {solution.kept} directions kept: {out}"
    )
    answer: dict[str, Any] = {
        "out": out,
        "rows": moments.n,
        "size": moments.size,
        "components": solution.kept,
        "rank": solution.rank,
        "shrinkage": solution.shrinkage,
        "notes": list(solution.notes),
    }
    console.say(*(f"note: {note}" for note in solution.notes))
    if picture is not None or not Path(source).is_dir():
        answer |= _isotropy(source, reading, picture)
    return answer


def _isotropy(source: str, reading: dict[str, Any], picture: str | None) -> dict[str, Any]:
    """What the first vectors say about isotropy; for merges, which have none, nothing."""
    from steadyflow.whitening.isotropy import Isotropy
    from steadyflow.whitening.rows import batches

    try:
        first = next(batches(source, batch_size=20_000, **reading))
    except (UsageError, StopIteration):
        return {}
    if len(first) < 2:
        return {}
    found = Isotropy.of(first)
    console.say(found.advice())
    if picture is not None:
        from steadyflow.report.spectrum import spectrum

        console.say(f"spectrum: {spectrum({'embeddings': found}, picture)}")
    return {"isotropy": found.summary()}


def _apply(
    source: str, out: str, run: str | None, reading: dict[str, Any], dtype: str, normalize: bool
) -> dict[str, Any]:
    from steadyflow.models import GenerativeModel
    from steadyflow.models.whitening import Whitening
    from steadyflow.whitening.rows import batches
    from steadyflow.whitening.writing import writer

    if run is None:
        raise UsageError("whiten apply needs --run, the folder that 'steadyflow whiten fit' left")
    model = GenerativeModel.from_pretrained(run)
    if not isinstance(model, Whitening):
        raise UsageError(f"{run} holds a {model.name}, not a whitening")
    solution = model.solution
    if solution is None:
        raise UsageError(f"{run} has no moments: fit it again with 'steadyflow whiten fit'")
    done, total = 0, _total([source], reading)
    with console.progress("whitening") as progress, writer(out, solution.out_features) as write:
        for batch in batches(source, **reading):
            write(_whitened(model, batch, dtype, normalize))
            done += len(batch)
            if progress is not None and total:
                progress(done, total)
    console.say(f"{done:,} vectors of {solution.out_features} numbers ({dtype}): {out}")
    return {"out": out, "rows": done, "size": solution.out_features, "dtype": dtype}


def _whitened(model: Whitening, batch: Any, dtype: str, normalize: bool) -> Any:
    from steadyflow.whitening.transformer import unit_rows

    assert model.solution is not None
    if batch.shape[1] != model.solution.size:
        raise UsageError(
            f"the vectors have {batch.shape[1]} numbers, but the whitening was fitted on vectors "
            f"of {model.solution.size}: it belongs to another encoder"
        )
    z = model.solution.transform(batch)
    return (unit_rows(z) if normalize else z).astype(dtype)
