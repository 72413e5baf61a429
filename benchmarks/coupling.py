"""Affine coupling flows side by side: log_prob, training step and sampling on one CPU thread.

    python benchmarks/coupling.py
    python benchmarks/coupling.py --dims 8 --budget 5 --compile steadyflow zuko normflows

8 layers, conditioners with two hidden layers of 128, batches of 512. All libraries run in this one
process in turn, many rounds, so that whatever else the machine does meets them alike. Times are
CPU time of the process, which is pinned to one core with one thread: medians, with the quartiles
of the ratio to steadyflow in the same round. Each library has its best settings: compiled where it
compiles (flowjax), fused Adam, no gradients where none are needed, oneDNN matrix products.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

LAYERS, WIDTH = 8, 128
TURN = 0.1  # seconds in which a library runs, again and again, before it is the next one's turn


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dims", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for each table row")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument(
        "--compile",
        nargs="*",
        default=["steadyflow"],
        metavar="LIBRARY",
        help="torch libraries that get a second row, through torch.compile",
    )
    options = parser.parse_args()
    _hold_to(options.threads)  # before any library starts threads

    import torch

    torch.set_num_threads(options.threads)
    print(f"{machine()}, {options.threads} thread(s), torch {torch.__version__}\n")
    for d in options.dims:
        print(table(d, options), flush=True)


def _hold_to(threads: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    os.environ["XLA_FLAGS"] = (
        f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()} "
        f"intra_op_parallelism_threads={threads}"
    )


def table(d: int, options: argparse.Namespace) -> str:
    """One Markdown table: a row a library, with the ratio of its time to ours."""
    import numpy as np
    import peers

    names = {**peers.OURS, **peers.PEERS, "the conditioners alone": peers.floor}
    subjects, missing = peers.build(names, {*options.compile}, d, LAYERS, WIDTH)
    x = np.random.default_rng(0).standard_normal((options.batch, d)).astype("float32")
    tasks: dict[str, dict[str, Callable]] = {"log_prob": {}, "training step": {}, "sample": {}}
    for name, s in subjects.items():
        batch = s.array(x)
        tasks["log_prob"][name] = lambda s=s, batch=batch: s.wait(s.log_prob(batch))
        tasks["training step"][name] = lambda s=s, batch=batch: s.wait(s.train(batch))
        tasks["sample"][name] = lambda s=s: s.wait(s.sample(options.batch))
    columns = {}
    for task, runs in tasks.items():
        for subject in subjects.values():
            subject.mode(task == "training step")
        columns[task] = race(runs, subjects, options)
    lines = [f"### D = {d}\n", f"| ms | {' | '.join(tasks)} |", "|---|" + "---|" * len(tasks)]
    for name in subjects:
        cells = [cell(name, times) for times in columns.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [f"\n{name}: {why}" for name, why in missing.items()]
    return "\n".join(lines) + "\n"


def race(
    runs: dict[str, Callable[[], Any]], subjects: dict[str, Any], options: argparse.Namespace
) -> dict[str, list[float]]:
    """Milliseconds of each run in each round."""
    import torch

    now = time.process_time if options.threads == 1 else time.perf_counter

    def turn(name: str) -> float:
        torch.set_float32_matmul_precision(subjects[name].precision)
        runs[name]()  # brings the caches back from the one before
        count, start, until = 0, now(), time.perf_counter() + TURN
        while time.perf_counter() < until or count < 3:
            runs[name]()
            count += 1
        return 1e3 * (now() - start) / count

    for name in runs:  # compiles
        torch.set_float32_matmul_precision(subjects[name].precision)
        for _ in range(3):
            runs[name]()
    times: dict[str, list[float]] = {name: [] for name in runs}
    start = time.perf_counter()
    while time.perf_counter() - start < options.budget or len(times[next(iter(runs))]) < 15:
        for name in runs:
            times[name].append(turn(name))
    return times


def cell(name: str, times: dict[str, list[float]]) -> str:
    """The median time and, for others, its ratio to ours with the quartiles."""
    median = statistics.median(times[name])
    first = next(iter(times))
    if name == first:
        return f"**{median:.2f}**"
    low, middle, high = statistics.quantiles(
        [a / b for a, b in zip(times[name], times[first], strict=True)], n=4
    )
    return f"{median:.2f} ({middle:.2f}x, {low:.2f} to {high:.2f})"


def machine() -> str:
    """The CPU's name as the system gives it, and the number of cores."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as f:
            known = dict(line.split(":", 1) for line in f if ":" in line)
        known = {k.strip(): v.strip() for k, v in known.items()}
        model = f"{known['model name']} (family {known['cpu family']}, model {known['model']})"
    except (OSError, KeyError):
        pass
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {sys.version.split()[0]}"


if __name__ == "__main__":
    main()
