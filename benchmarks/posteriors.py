"""Posteriors by simulation on three tasks of sbibm, against its reference posteriors (C2ST).

    python benchmarks/posteriors.py FOLDER [--tasks two_moons slcp gaussian_linear]

FOLDER holds the tasks' .npz files (posterior_samples, observation). From parameters drawn from the
prior and data simulated from each, the default spline flow learns p(parameters | data) with
`steadyflow.fit`; the parameters' bounds are those of the prior. For each observation 10,000 draws
of it are compared with the 10,000 reference draws by a classifier (5 folds; 0.5 is perfect).
Published for NPE with 10,000 simulations, mean over ten observations: two_moons 0.606, slcp 0.901,
gaussian_linear 0.552 (Lueckmann et al. 2021).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

import steadyflow
from steadyflow import data
from steadyflow.evaluation import classifier_test


def two_moons(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """theta ~ U(-1, 1)^2; a crescent whose place theta tells."""
    theta = rng.uniform(-1, 1, (n, 2))
    angle, radius = rng.uniform(-math.pi / 2, math.pi / 2, n), rng.normal(0.1, 0.01, n)
    x = np.stack((radius * np.cos(angle) + 0.25, radius * np.sin(angle)), 1)
    x[:, 0] -= np.abs(theta.sum(1)) / math.sqrt(2)
    x[:, 1] += (theta[:, 1] - theta[:, 0]) / math.sqrt(2)
    return theta, x


def slcp(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """theta ~ U(-3, 3)^5; four draws of a Gaussian whose moments theta tells."""
    theta = rng.uniform(-3, 3, (n, 5))
    s1, s2, rho = theta[:, 2] ** 2, theta[:, 3] ** 2, np.tanh(theta[:, 4])
    noise = rng.normal(size=(n, 4, 2))
    first = theta[:, None, 0] + s1[:, None] * noise[..., 0]
    mixed = rho[:, None] * noise[..., 0] + np.sqrt(1 - rho**2)[:, None] * noise[..., 1]
    second = theta[:, None, 1] + s2[:, None] * mixed
    return theta, np.stack((first, second), 2).reshape(n, 8)


def gaussian_linear(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """theta ~ N(0, 0.1 I), x ~ N(theta, 0.1 I)."""
    theta = rng.normal(0, math.sqrt(0.1), (n, 10))
    return theta, theta + rng.normal(0, math.sqrt(0.1), (n, 10))


TASKS = {
    "two_moons": (two_moons, 1.0),
    "slcp": (slcp, 3.0),
    "gaussian_linear": (gaussian_linear, 0),
}
PUBLISHED = {"two_moons": 0.606, "slcp": 0.901, "gaussian_linear": 0.552}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--patience", type=int)
    parser.add_argument("--observations", type=int, default=5)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--options", type=json.loads, default={}, help="of the model, as JSON")
    asked = parser.parse_args()
    print("| task | C2ST of each observation | mean | published NPE | seconds of training |")
    print("|---|---|---|---|---|", flush=True)
    for task in asked.tasks:
        values, seconds = run(task, asked)
        shown = " ".join(f"{v:.3f}" for v in values)
        print(
            f"| {task} | {shown} | {np.mean(values):.3f} | {PUBLISHED[task]} | {seconds:.0f} |",
            flush=True,
        )


def run(task: str, asked: argparse.Namespace) -> tuple[list[float], float]:
    """The C2ST of each observation, and the seconds of training."""
    simulate, edge = TASKS[task]
    theta, x = simulate(asked.simulations, np.random.default_rng(asked.seed))
    bounds = [f"{i}={-edge}:{edge}" for i in range(theta.shape[1])] if edge else None
    began = time.perf_counter()
    result = steadyflow.fit(
        "spline-flow",
        data.from_arrays(theta, context=x, validation=0.1, test=0, bounds=bounds),
        model_options=asked.options,
        steps=asked.steps,
        learning_rate=asked.learning_rate,
        patience=asked.patience,
        seed=asked.seed,
        device="cpu",
        progress=False,
    )
    seconds = time.perf_counter() - began
    print(f"{task}: validation loss {result.best_validation_loss:.4f}", flush=True)
    with np.load(asked.folder / f"{task}.npz", allow_pickle=False) as file:
        references, seen = file["posterior_samples"], file["observation"].reshape(5, -1)
    values = []
    for reference, observation in list(zip(references, seen, strict=True))[: asked.observations]:
        given = torch.tensor(observation, dtype=torch.float32)
        torch.manual_seed(asked.seed)
        drawn = result.model.sample(asked.draws, given[None])
        truth = torch.tensor(reference[: asked.draws])
        values.append(classifier_test(truth, drawn).accuracy)
        print(f"{task}: {values[-1]:.3f}", flush=True)
    return values, seconds


if __name__ == "__main__":
    main()
