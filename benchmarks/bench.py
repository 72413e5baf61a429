"""Every benchmark after another, into benchmarks/results.json and docs/benchmark-tables.md.

    python benchmarks/bench.py                        hours
    python benchmarks/bench.py --quick                each with a small budget, rougher
    python benchmarks/bench.py --only coupling ode --data path/to/data

Each runs as a process of its own, its peers in that same process. A peer that is not installed, a
data set that is not at hand and a benchmark that fails are named in the results; what was measured
earlier of benchmarks that are not run now is kept. --data is a folder with mnist/, adbench/,
uci_small/ and sbibm/.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
PAGE = HERE.parent / "docs" / "benchmark-tables.md"

# words of the full and of the quick run; {data} is the folder of --data
BENCHMARKS: dict[str, tuple[str, str]] = {
    "coupling": ("--budget 20", "--budget 2 --dims 8"),
    "far_inputs": ("--data bananas --steps 300", "--data bananas --steps 50 --seeds 1"),
    "autoregressive": ("--budget 4", "--budget 0.5 --dims 8"),
    "glow": ("memory", "memory --depths 4 8"),
    "tarflow": ("--tasks train score sample", "--tasks train score --channels 64 --rounds 2"),
    "ode": ("--rounds 25", "--rounds 5 --steps 300"),
    "few_steps": ("--steps 4000", "--steps 200"),
    "energy": ("--steps 800", "--sets ring --steps 100"),
    "stacked": (
        "--minutes 1.5",
        "--minutes 0.1 --stacks 2000 --draws 2000 --classifier-steps 100",
    ),
    "density": ("uci {data}", "uci {data} --sets red_wine --steps 30 --limit 0.5"),
    "posteriors": ("{data}/sbibm", "{data}/sbibm --tasks two_moons --simulations 500 --steps 50"),
    "whitening": ("", "--rows 20000 --rounds 2"),
    "iresnet": ("{data}/mnist", "{data}/mnist --steps 3"),
    "anomalies": ("{data}/adbench", "{data}/adbench --sets thyroid"),
    "autoencoders": (
        "{data}/mnist --minutes 15",
        "{data}/mnist --minutes 0.3 --limit 100 --draws 2",
    ),
    "replay": ("{data}/mnist", "{data}/mnist"),
}
# these want a run or embeddings of one's own, or are parts of others
APART = ("evaluations", "features", "vector_search", "peers", "bench")
LIMIT = {"full": 3600, "quick": 400}  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small budgets")
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    parser.add_argument(
        "--data", type=Path, help="folder with mnist/, adbench/, uci_small/ and sbibm/"
    )
    parser.add_argument("--limit", type=float, help="seconds that each may take")
    options = parser.parse_args()
    report = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"benchmarks": {}}
    report |= {"machine": machine(), "peers": peers()}
    missing = [name for name, version in report["peers"].items() if version is None]
    print(f"peers that are not installed: {', '.join(missing) or 'none'}", flush=True)
    for name in options.only:
        row = run(name, options)
        report["benchmarks"][name] = row
        RESULTS.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        PAGE.write_text(page(report))
        print(f"{name}: {row['status']}, {row['seconds']:.0f} s", flush=True)


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One benchmark: its command, how it ended, its tables."""
    words = BENCHMARKS[name][options.quick]
    row: dict[str, Any] = {"command": f"python benchmarks/{name}.py {words}", "seconds": 0.0}
    row |= {"when": datetime.now(UTC).isoformat(timespec="minutes"), "quick": options.quick}
    row |= {"status": "done", "tables": [], "output": ""}
    if "{data}" in words and options.data is None:
        return row | {"status": "not run: needs --data"}
    words = words.replace("{data}", str(options.data))
    limit = options.limit or LIMIT["quick" if options.quick else "full"]
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, HERE / f"{name}.py", *words.split()],
            capture_output=True,
            text=True,
            timeout=limit,
            env={**os.environ, "PYTHONPATH": f"{HERE.parent / 'src'}:{HERE}"},
        )
        out = done.stdout
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
            row["status"] = f"failed: {reason}"
    except subprocess.TimeoutExpired as late:
        out = (
            (late.stdout or b"").decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        )
        row["status"] = f"stopped after {limit:.0f} seconds; the tables are those printed by then"
    return row | {"seconds": time.monotonic() - began, "tables": tables(out), "output": out}


def tables(text: str) -> list[dict[str, Any]]:
    """The Markdown tables of a text: {'title', 'columns', 'rows'}."""
    found, title, lines = [], "", text.splitlines()
    i = 0
    while i < len(lines):
        if (
            i + 1 < len(lines)
            and lines[i].startswith("|")
            and re.match(r"^\|[-|: ]+\|$", lines[i + 1])
        ):
            table = {"title": title, "columns": cells(lines[i]), "rows": []}
            i += 2
            while i < len(lines) and lines[i].startswith("|"):
                table["rows"].append(cells(lines[i]))
                i += 1
            found.append(table)
            continue
        if lines[i].strip():
            title = lines[i].strip("# ").strip()
        i += 1
    return found


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def page(report: dict[str, Any]) -> str:
    """The page of the documentation: what each benchmark printed."""
    names = [f"{name} {version}" for name, version in report["peers"].items() if version]
    missing = [name for name, version in report["peers"].items() if version is None]
    parts = [
        "# The tables of the last run\n\nWritten by `make bench` from benchmarks/results.json, as "
        "they were printed; what they mean is in [](benchmarks).\n",
        f"Machine: {report['machine']}. Peers: {', '.join(names)}. Not installed: "
        f"{', '.join(missing) or 'none'}.\n",
    ]
    for name, row in sorted(report["benchmarks"].items()):
        quick = ", a small budget" if row["quick"] else ""
        parts.append(f"## {name}\n\n`{row['command']}` ({row['when']}{quick}): {row['status']}.\n")
        for table in row["tables"]:
            title = f"{table['title']}\n\n" if table["title"] else ""
            head = " | ".join(table["columns"])
            body = "\n".join("| " + " | ".join(cells) + " |" for cells in table["rows"])
            parts.append(f"{title}| {head} |\n{'|---' * len(table['columns'])}|\n{body}\n")
        if not row["tables"] and row["output"].strip():
            parts.append(f"```text\n{row['output'].strip()}\n```\n")
    return "\n".join(parts)


def peers() -> dict[str, str | None]:
    """The version of every library of the extra `bench`; None for one that is missing."""
    import tomllib

    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    found: dict[str, str | None] = {}
    for wanted in project["optional-dependencies"]["bench"]:
        name = re.split(r"[<>=\[ ]", wanted)[0]
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def machine() -> str:
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{platform.machine()}, {os.cpu_count()} cores{gpu}, {platform.system()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
