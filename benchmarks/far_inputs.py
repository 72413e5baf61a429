"""Inputs far from the training data: do they come back, and what does that cost in likelihood?

    python benchmarks/far_inputs.py
    python benchmarks/far_inputs.py --data moons --steps 2000 --seeds 3

Every library's affine coupling flow (8 layers, two hidden layers of 128) is trained on the same
standardised data in the same batches, by plain Adam at 1e-3. Then: the negative log-likelihood of
held-out data, and the largest error of encode and decode in float32 over 4096 points of the data,
of N(0, 3^2) and of N(0, 10^2) noise, each the worst of the seeds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import peers
import torch

POINTS, BATCH, LAYERS, WIDTH = 4096, 512, 8, 128


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=sorted(DATA), default=sorted(DATA))
    parser.add_argument("--steps", type=int, nargs="+", default=[300, 2000])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[*peers.OURS, *peers.PEERS])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for data in options.data:
        for steps in options.steps:
            print(table(data, steps, options.seeds, options.only), flush=True)


def bananas(n: int, rng: np.random.Generator) -> np.ndarray:
    """Eight variables: four pairs of a two-peaked one and a noisy parabola of it, rotated."""
    x = np.empty((n, 8))
    x[:, ::2] = rng.choice([-1.5, 1.5], (n, 4)) + 0.4 * rng.standard_normal((n, 4))
    x[:, 1::2] = 0.5 * x[:, ::2] ** 2 + 0.4 * rng.standard_normal((n, 4))
    mean, std = np.tile([0.0, 1.205], 4), np.tile([1.552, 0.742], 4)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))
    return (x - mean) / std @ rotation


def moons(n: int, rng: np.random.Generator) -> np.ndarray:
    """Two half circles with noise of 0.05."""
    t, upper = rng.uniform(0, math.pi, n), rng.integers(0, 2, n)[:, None]
    first = np.stack((np.cos(t), np.sin(t)), 1)
    x = np.where(upper, first, [1, 0.5] - first) + 0.05 * rng.standard_normal((n, 2))
    return (x - [0.5, 0.25]) / [0.87, 0.50]


DATA: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "bananas": bananas,
    "moons": moons,
}


def table(data: str, steps: int, seeds: int, names: list[str]) -> str:
    """One Markdown table: a row a library."""
    lines = [
        f"### {data}, {steps} steps, {seeds} seeds\n",
        "| | nats, held-out | round trip: data | N(0, 3^2) | N(0, 10^2) | its log_prob |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        try:
            results = [measure(name, data, steps, seed) for seed in range(seeds)]
        except ImportError as error:
            lines.append(f"| {name} | not installed ({error}) |")
            continue
        loss = np.array([r[0] for r in results])
        trips = np.array([r[1] for r in results])
        finite = np.mean([r[2] for r in results])
        cells = [f"{loss.mean():.3f} ± {loss.std() / math.sqrt(seeds):.3f}"]
        cells += [f"{worst:.0e}" for worst in trips.max(0)]  # NaN is the largest
        cells.append("finite" if finite == 1 else f"{finite:.1%} finite")
        lines.append(f"| {peers.label(name)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def measure(name: str, data: str, steps: int, seed: int) -> tuple[float, list[float], float]:
    """Held-out loss, largest round-trip errors and the fraction of finite log-probabilities."""
    rng = np.random.default_rng(seed)
    train, test = (DATA[data](n, rng).astype("float32") for n in (20000, POINTS))
    d = test.shape[1]
    torch.manual_seed(seed)
    subject = (peers.OURS | peers.PEERS)[name](d, LAYERS, WIDTH)
    for _ in range(steps):
        subject.train(subject.array(train[rng.integers(0, len(train), BATCH)]))
    subject.mode(False)
    noise = rng.standard_normal((POINTS, d)).astype("float32")
    loss = -float(host(subject.log_prob(subject.array(test))).mean())
    trips = [round_trip(subject, x) for x in (test, 3 * noise, 10 * noise)]
    far = host(subject.log_prob(subject.array(10 * noise)))
    return loss, trips, float(np.isfinite(far).mean())


def round_trip(subject: peers.Subject, x: np.ndarray) -> float:
    """The largest |decode(encode(x)) - x|; infinite where the library gives up."""
    try:
        back = host(subject.decode(subject.encode(subject.array(x))))  # type: ignore[misc]
    except (AssertionError, RuntimeError, ValueError):
        return math.inf
    return float(np.abs(back - x).max())


def host(value: Any) -> np.ndarray:
    """As a NumPy array."""
    return np.asarray(value.detach() if isinstance(value, torch.Tensor) else value)


if __name__ == "__main__":
    main()
