"""Energies and GANs on toys in the plane: modes, their balance, and how sharp the draws are.

    python benchmarks/energy.py
    python benchmarks/energy.py --sets spirals --models exact+likelihood --pictures FOLDER

Twenty-five Gaussians (a grid of spacing 2, standard deviation 0.05), eight Gaussians (radius 2.83,
0.354) and two spirals, 50,000 points each. Every model makes the same number of steps. Of 10,000
draws: modes with at least a fifth of their share within 4 standard deviations; the
Kullback-Leibler divergence of the nearest modes from the true weights (0.001 for real points); the
share within 4 standard deviations of a mode; the energy distance to fresh points (two spirals).
Of fresh points: -log p of the flow that generates and of the normalised energy, in nats.
'+ chain' are draws of the energy: 50 steps of independence Metropolis-Hastings from the generator.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import steadyflow
from steadyflow.analytic import Mixture, eight_gaussians
from steadyflow.data.toys import toy
from steadyflow.models.adversarial import energy_distance

DRAWS = 10_000
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "GAN": ("gan", {}),
    "none": ("energy", {"entropy": "none"}),
    "reconstruction": ("energy", {"entropy": "reconstruction"}),
    "mutual-information": ("energy", {"entropy": "mutual-information"}),
    "exact": ("energy", {"likelihood_weight": 0.0, "sampler": "generator"}),
    "exact+likelihood": ("energy", {"sampler": "generator"}),
    "likelihood": (
        "spline-flow",
        {
            "architecture": "coupling",
            "transforms": 4,
            "bins": 16,
            "hidden_features": [64, 64],
        },
    ),
}
# Adam as the paper has it, for generators without a likelihood: (0.9, 0.999) turns in circles
GAME = {"betas": (0.5, 0.9), "learning_rate": 1e-3}
FLOW = {"learning_rate": 4e-3}


def grid() -> Mixture:
    """Twenty-five Gaussians."""
    line = torch.arange(-4, 5, 2, dtype=torch.float64)
    means = torch.cartesian_prod(line, line)
    return Mixture(torch.ones(25), means, torch.full((25,), 0.05**2))


MIXTURES = {
    "grid": grid(),
    "ring": eight_gaussians(radius=4 / 2**0.5, variance=1 / 8),
}
SETS = (*MIXTURES, "spirals")


def points(name: str, n: int, seed: int) -> Tensor:
    """Points of a set, (n, 2) float32."""
    if name == "spirals":
        return torch.from_numpy(toy("two-spirals", n, seed))
    return MIXTURES[name].sample(n, torch.Generator().manual_seed(seed)).float()


def judge(name: str, x: Tensor) -> dict[str, float]:
    """What draws are worth, by name."""
    found = {"distance": float(energy_distance(x[:4000], points(name, 4000, 10**6)))}
    if name not in MIXTURES:
        return found
    mixture = MIXTURES[name]
    nearest = torch.cdist(x.double(), mixture.means).min(1)
    within = nearest.values < 4 * float(mixture.variances[0, 0].sqrt())
    count = len(mixture.means)
    shares = torch.bincount(nearest.indices, minlength=count) / len(x)
    sharp = torch.bincount(nearest.indices[within], minlength=count) / len(x)
    found["modes"] = int((sharp >= 0.2 / count).sum())
    found["kl"] = float(torch.special.xlogy(shares, shares * count).sum())
    found["share"] = float(within.double().mean())
    return found


def measure(job: tuple[str, str, int, int, int, str | None]) -> dict[str, Any]:
    """Trains one model on one set and judges it."""
    torch.set_num_threads(1)
    name, how, seed, steps, layers, folder = job
    kind, options = MODELS[how]
    if kind == "spline-flow":
        options = {**options, "transforms": layers}
    if kind == "energy":
        options = {**options, "generator_layers": layers}
    data = points(name, 50_000, seed).numpy()
    rates = FLOW if how.startswith("exact") or how == "likelihood" else GAME
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = steadyflow.fit(
            kind,
            data,
            data_options={"test": 0, "validation": 0.02},
            model_options=options,
            steps=steps,
            seed=seed,
            progress=False,
            **rates,
        ).model
    row: dict[str, Any] = {"set": name, "model": how, "seed": seed, "steps": steps}
    row["layers"] = layers
    row["seconds"] = time.process_time() - began
    torch.manual_seed(seed)
    fresh = points(name, 5000, 10**6 + 1)
    with torch.no_grad():
        row["draws"] = judge(name, model.sample(DRAWS))
        if kind == "spline-flow":
            row["generator_nll"] = -float(model.log_prob(fresh).mean())
        if how.startswith("exact"):
            row["generator_nll"] = -float(model.generator.log_prob(fresh).mean())
            row["nll"] = -float(model.log_prob(fresh).mean())
            log_z = model.log_normalizer()
            row["log_z"] = str(log_z)
            row["ess"] = log_z.effective_sample_size / log_z.draws
            model.sampler = "independence"
            row["chain"] = judge(name, model.sample(DRAWS))
    if folder is not None and seed == 0:
        model.save_pretrained(Path(folder) / f"{name}-{how}")
    return row


def table(rows: list[dict[str, Any]], name: str) -> str:
    """The rows of one set, mean and standard error over the seeds."""
    columns = ["distance"] if name not in MIXTURES else ["modes", "kl", "share", "distance"]
    head = ["model", *columns, "-log p, generator", "-log q, energy", "ESS", "CPU ms a step"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for how in MODELS:
        own = [row for row in rows if row["set"] == name and row["model"] == how]
        for part, label in (("draws", how), ("chain", f"{how} + chain")):
            if not own or part not in own[0]:
                continue
            cells = [label, *(_cell([row[part][c] for row in own]) for c in columns)]
            cells += [_cell([row[k] for row in own if k in row]) for k in _KEYS]
            cells.append(_cell([1000 * row["seconds"] / row["steps"] for row in own]))
            lines.append("| " + " | ".join(cells) + " |")
    if name in MIXTURES:
        real = judge(name, points(name, DRAWS, 10**6 + 2))
        entropy = -float(MIXTURES[name].log_prob(points(name, 5000, 10**6 + 1)).mean())
        shown = [f"{real[c]:.3f}" for c in columns]
        lines.append(f"| real points | {' | '.join(shown)} | {entropy:.3f} | {entropy:.3f} | | |")
    return "\n".join(lines)


_KEYS = ("generator_nll", "nll", "ess")


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    mean = np.mean(values)
    if len(values) == 1:
        return f"{mean:.3f}"
    return f"{mean:.3f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}"


def draw_pictures(folder: Path, sets: list[str], models: list[str]) -> None:
    """For each set a sheet: the energy and the draws of every model."""
    from steadyflow.report.planes import frame
    from steadyflow.report.style import BLUE, HEAT, panels, sheet

    for name in sets:
        found = []
        for how in models:
            if (folder / f"{name}-{how}").is_dir():
                found += [(how, False)] + [(how, True)] * how.startswith("exact")
        low, high = frame(points(name, 2000, 1), 0.2)
        lines = [torch.linspace(float(a), float(b), 300) for a, b in zip(low, high, strict=True)]
        net = torch.cartesian_prod(*lines)
        with sheet(folder / f"{name}.png", 2.3 * len(found), 4.9, layout="constrained") as figure:
            axes = panels(figure, 2, len(found))
            for k, (how, chain) in enumerate(found):
                top, bottom = axes[k], axes[len(found) + k]
                model = steadyflow.load(folder / f"{name}-{how}")
                if chain:
                    model.sampler = "independence"
                torch.manual_seed(0)
                with torch.no_grad():
                    if hasattr(model, "energy"):
                        value = -model.energy(net)
                    elif hasattr(model, "discriminator"):
                        value = model.discriminator(model.normalized(net))[:, 0]
                    else:
                        value = model.log_prob(net)
                    drawn = model.sample(2000)
                # the deepest 25 nats: beyond, nothing is ever drawn
                seen = value.clamp_min(float(value.max()) - 25).reshape(300, 300).T
                box = (low[0], high[0], low[1], high[1])
                top.imshow(seen, origin="lower", extent=box, cmap=HEAT, aspect="auto")
                top.grid(False)
                top.set_title(how + (" + chain" if chain else ""))
                bottom.plot(*drawn.T.numpy(), ".", color=BLUE, markersize=1.5, alpha=0.5)
                for part in (top, bottom):
                    part.set(xlim=box[:2], ylim=box[2:], xticks=[], yticks=[])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--layers", type=int, default=4, help="of the flows")
    parser.add_argument("--workers", type=int, default=1, help="trainings side by side")
    parser.add_argument("--pictures", type=Path, help="where models, pictures and rows go")
    asked = parser.parse_args()
    folder = asked.pictures
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (name, how, seed, asked.steps, asked.layers, None if folder is None else str(folder))
        for seed in asked.seeds
        for name in asked.sets
        for how in asked.models
    ]
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(asked.workers, get_context("spawn")) as pool:
        for row in pool.map(measure, jobs):
            rows.append(row)
            print(json.dumps(row), flush=True)
            if folder is not None:
                with open(folder / "rows.jsonl", "a") as file:
                    file.write(json.dumps(row) + "\n")
    for name in asked.sets:
        print(f"\n{name}\n\n{table(rows, name)}", flush=True)
    if folder is not None:
        draw_pictures(folder, asked.sets, asked.models)


if __name__ == "__main__":
    main()
