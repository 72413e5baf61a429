"""One function over many files: here, on several processes, or on an existing Dask cluster.

The scale-out is Dask's, never our own: its scheduler runs on a laptop as on SLURM, Kubernetes or
YARN, in pure Python, and a cluster that is there already is joined by its address. (Ray would do
as well, but wants a daemon and hundreds of megabytes for what is one `map`.) The files are where
every worker can read them; what travels is the function, the names and small results.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

from steadyflow.errors import UsageError, require

R = TypeVar("R")
Progress = Callable[[int, int], None]  # files done, of all


def map_files(
    function: Callable[[str], R],
    files: Sequence[str],
    *,
    workers: int = 0,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> list[R]:
    """function(file) for every file.

    Args:
        function: can be pickled, as a function of a module or a `functools.partial` of one is.
        files: their names, as the workers know them.
        workers: processes of this machine; 0 works here, one file after another.
        scheduler: the address of a Dask scheduler, such as 'tcp://host:8786', instead of workers.
        progress: called with (files done, files in all).

    Returns:
        the results, in the order of the files.

    Raises:
        UsageError: for workers and a scheduler together, or a scheduler that does not answer.
        ImportError: without Dask, with the line that installs it.
        Exception: the first that the function raises; the files that wait are given up.

    Example:
        >>> map_files(len, ["a", "bc"])
        [1, 2]
    """
    if workers < 0 or (workers and scheduler):
        raise UsageError("give a number of workers, or the address of a scheduler")
    results: dict[str, R] = {}
    with contextlib.closing(_results(function, files, workers, scheduler)) as found:
        for done, (file, result) in enumerate(found, start=1):
            results[file] = result
            if progress is not None:
                progress(done, len(files))
    return [results[file] for file in files]


def _results(
    function: Callable[[str], R], files: Sequence[str], workers: int, scheduler: str | None
) -> Generator[tuple[str, R], None, None]:
    if not workers and scheduler is None:
        for file in files:
            yield file, function(file)
        return
    dask = require("distributed", "distributed", "several workers")
    with _client(dask, min(workers, len(files)), scheduler) as client:
        futures = client.map(function, list(files), pure=False)
        names = dict(zip(futures, files, strict=True))
        try:
            for future in dask.as_completed(futures):
                yield names[future], future.result()
        finally:
            client.cancel(futures)


@contextlib.contextmanager
def _client(dask: Any, workers: int, scheduler: str | None) -> Iterator[Any]:
    if scheduler is not None:
        try:
            client = dask.Client(scheduler, timeout=20)
        except (OSError, ValueError, TimeoutError) as error:
            raise UsageError(f"no Dask scheduler answers at '{scheduler}' ({error})") from error
        with client:
            yield client
        return
    with (
        dask.LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster,
        dask.Client(cluster) as client,
    ):
        yield client
