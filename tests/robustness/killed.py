"""Trains in child processes that are killed at random moments; run by test_killed.py.

    python killed.py FOLDER KILLS SEED

One process imports everything once; every child is forked from it, trains on and saves at every
step, and is ended by SIGKILL after a random time. After each kill the parent opens what is left.
"""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from steadyflow.errors import UsageError
from steadyflow.training import Run, callbacks, checkpoint, fit, load, resume
from steadyflow.training.run import CHECKPOINT, MODEL

torch.set_num_threads(1)
callbacks.CHECKPOINT_SECONDS = 0.0  # at every step
ENDLESS = {
    "steps": 10**9,
    "validate_every": 1,
    "batch_size": 32,
    "progress": False,
    "log_every": 1,
}


def work(folder: Path) -> None:
    if (folder / CHECKPOINT).exists():
        resume(folder)
        return
    # killed before the first checkpoint: begin again
    small = {"hidden_features": 8, "hidden_layers": 1}
    data = {"n": 100}
    fit(
        "nice",
        "moons",
        run=folder,
        overwrite=True,
        model_options=small,
        data_options=data,
        **ENDLESS,
    )


def main(folder: Path, kills: int, seed: int) -> None:
    context = multiprocessing.get_context("fork")
    chance = random.Random(seed)
    found = []
    for _ in range(kills):
        child = context.Process(target=work, args=(folder,))
        child.start()
        if not found or found[-1]["step"] is None:
            while child.is_alive() and not (folder / CHECKPOINT).exists():
                time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 1.5))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        found.append(look(folder))
    step = found[-1]["step"]
    done = resume(folder, steps=step + 3)
    litter = [p.name for p in folder.iterdir() if p.name.startswith(".")]
    rows = [row["step"] for row in Run.open(folder).metrics()]
    print(json.dumps({"kills": found, "resumed": done.steps, "rows": rows, "litter": litter}))


def look(folder: Path) -> dict:
    """What a killed training has left: how far it is, and whether its model can be used."""
    if not (folder / CHECKPOINT).exists():
        return {"step": None, "model": None}
    state = checkpoint.load(folder / CHECKPOINT)
    try:
        model = load(folder)
    except (UsageError, FileNotFoundError):
        return {"step": state["steadyflow"]["step"], "model": None}
    finite = bool(model.log_prob(torch.zeros(3, 2)).isfinite().all())
    return {
        "step": state["steadyflow"]["step"],
        "model": finite,
        "folder": (folder / MODEL).is_dir(),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
