"""Quality over evaluations: flow matching, the same rectified, and a one-step student.

    python benchmarks/few_steps.py
    python benchmarks/few_steps.py --steps 500

Eight Gaussians. Quality is the Wasserstein-2 distance between 1000 draws and 1000 fresh points, by
exact assignment; the last row is that of real points. Lower is better. Every sampler is Euler's
method in the path's own time, so that evaluations are steps.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import steadyflow
from steadyflow.analytic import eight_gaussians

EVALUATIONS = (1, 2, 4, 8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=4000, help="of each training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    mixture = eight_gaussians(radius=4.0, variance=0.15)
    data = mixture.sample(20_000).float().numpy()
    fresh = [mixture.sample(1000).float() for _ in range(5)]
    print("| model |" + "".join(f" {n} |" for n in EVALUATIONS) + "\n|---", end="")
    print("|---" * len(EVALUATIONS) + "|")

    def trained(**model_options):
        return steadyflow.fit(
            "flow-matching",
            data,
            steps=options.steps,
            learning_rate=3e-3,
            progress=False,
            model_options=model_options,
        ).model

    def row(name: str, model, counts=EVALUATIONS) -> None:
        cells = []
        for n in EVALUATIONS:
            if n not in counts:
                cells.append("")
                continue
            drawn = [
                distance(model.sample(1000, sampler="euler", steps=n), real) for real in fresh
            ]
            mean = sum(drawn) / len(drawn)
            error = math.sqrt(sum((d - mean) ** 2 for d in drawn) / 4 / 5)
            cells.append(f"{mean:.2f} ± {error:.2f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        row("paired at random", teacher := trained(pairing="independent"))
        row("paired by transport", trained())
        teacher.save_pretrained(path := Path(folder) / "teacher")
        row("random, rectified", trained(objective="reflow", teacher=str(path)))
        row("random, distilled", trained(objective="distill", teacher=str(path)), (1,))
    real = [distance(a, b) for a in fresh[:2] for b in fresh[2:]]
    print(f"| real points | {sum(real) / len(real):.2f} |" + " |" * (len(EVALUATIONS) - 1))


def distance(a: Tensor, b: Tensor) -> float:
    """The Wasserstein-2 distance between as many points."""
    cost = torch.cdist(a.double(), b.double()).square().numpy()
    return math.sqrt(cost[linear_sum_assignment(cost)].mean())


if __name__ == "__main__":
    main()
