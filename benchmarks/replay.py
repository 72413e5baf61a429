"""Milliseconds of a training step on a GPU, launched by Python and replayed as a CUDA graph.

    python benchmarks/replay.py MNIST

Each model trains for 60 steps at its defaults, first with replay='off', then with 'auto'; the time
is the mean of the last 30 steps, clipping, optimiser and average included.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import lightning
import torch

import steadyflow
from steadyflow import data
from steadyflow.data import Dataset, Split

STEPS, TIMED = 60, 30


class Clock(lightning.Callback):
    """The time at the end of every step."""

    def __init__(self):
        self.times: list[float] = []

    def on_train_batch_end(self, *_):
        torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    @property
    def milliseconds(self) -> float:
        return 1e3 * (self.times[-1] - self.times[-TIMED]) / (TIMED - 1)


def measure(name: str, dataset: Dataset, replay: str, model_options: dict, **options) -> float:
    clock = Clock()
    steadyflow.fit(
        name,
        dataset,
        model_options=model_options,
        steps=STEPS,
        validate_every=10 * STEPS,
        progress=False,
        callbacks=[clock],
        replay=replay,
        **options,
    )
    return clock.milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mnist", help="folder with the IDX files of MNIST")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("needs an NVIDIA GPU")
    images = data.open(asked.mnist)
    few = Split(images.validation.x[:256], images.validation.y[:256])
    images = dataclasses.replace(images, validation=few)
    moons = data.open("moons", n=4000)
    mixed = {"precision": "bf16-mixed"}
    print("| model | data | batch | launched | replayed | ratio |\n|---|---|---|---|---|---|")
    for name, dataset, model_options, options in (
        ("glow", images, {"reversible": False}, mixed),
        ("glow", images, {"reversible": False}, {**mixed, "batch_size": 1024}),
        ("realnvp", images, {}, mixed),
        ("diffusion", images, {}, mixed),
        ("maf", moons, {}, {}),
        ("spline-flow", moons, {}, {}),
    ):
        off, on = (
            measure(name, dataset, replay, model_options, **options) for replay in ("off", "auto")
        )
        size = options.get("batch_size", 256)
        print(
            f"| {name} | {dataset.name} | {size} | {off:.1f} | {on:.1f} | {off / on:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
