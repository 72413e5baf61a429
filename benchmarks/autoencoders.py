"""A plain VAE, Glow and an f-VAE of the same size, trained for the same time on the same images.

    python benchmarks/autoencoders.py mnist --minutes 15
    python benchmarks/autoencoders.py cifar10_subset.npz --minutes 15 --models vae glow fvae

Prints a Markdown table: parameters, steps, bits per dimension (bounds: of an importance-weighted
sum over draws of noise and latents), the kernel distance of draws to test images, and how sharp
draws are: the mean difference of neighbouring pixels, relative to that of test images. Draws of
autoencoders are the decoder's means; 'with noise' draws from its distribution, as the likelihood
has it. Leaves pictures of draws, reconstructions and interpolations, and metrics.csv of each.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import steadyflow
from steadyflow import data
from steadyflow.evaluation import evaluate, kernel_distance
from steadyflow.evaluation.access import at_rest, has_latents, is_exact, on_accelerator
from steadyflow.evaluation.round_trip import evenly
from steadyflow.report import diagnostics, images
from steadyflow.report.gallery import white_of

DRAWN = 2000  # images for the kernel distance and the sharpness
FLOW = {"flow_layers": 6, "flow_levels": 0}
VAE = {"posterior": "gaussian", "prior": "normal", "decoder": "logistic"}
FVAE = {"posterior": "gaussian", "decoder": "logistic", **FLOW}

# about 290,000 parameters each for grey images of 28 x 28, about 1,150,000 for colours of 32 x 32
SIZES: dict[str, dict[int, dict[str, Any]]] = {
    "glow": {
        1: {"levels": 2, "steps": 8, "hidden_channels": 96, "alpha": 1e-6},
        3: {"levels": 3, "steps": 8, "hidden_channels": 96, "reversible": False},
    },
    "vae": {
        1: {**VAE, "latent_channels": 8, "blocks": 4, "hidden_channels": 172},
        3: {**VAE, "blocks": 4, "hidden_channels": 224},
    },
    "fvae": {
        1: {**FVAE, "latent_channels": 8, "blocks": 4, "hidden_channels": 96, "flow_channels": 96},
        3: {**FVAE, "blocks": 4, "hidden_channels": 96, "flow_channels": 128},
    },
    "vae-gaussian": {
        1: {**VAE, "decoder": "gaussian", "latent_channels": 8, "hidden_channels": 178},
        3: {**VAE, "decoder": "gaussian", "hidden_channels": 232},
    },
    "fvae-gaussian": {
        1: {"squeezes": 1, "hidden_channels": 128, "flow_layers": 8, "flow_channels": 96},
        3: {**FLOW, "hidden_channels": 104, "flow_channels": 128},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="images, as 'steadyflow train' names them")
    parser.add_argument("--models", nargs="+", choices=SIZES, default=["vae", "glow", "fvae"])
    parser.add_argument("--minutes", type=float, default=15, help="of each training")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--precision", default="float32", help="of all: bf16-mixed")
    parser.add_argument("--draws", type=int, default=16, help="K of the bound")
    parser.add_argument("--limit", type=int, help="test images to evaluate; all without it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/autoencoders"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    dataset = data.open(options.source)
    test = dataset.test.x[evenly(len(dataset.test), DRAWN)]
    known = dataset.train.x[evenly(len(dataset.train), DRAWN)]
    white = white_of(dataset) or 255.0
    near = kernel_distance(known, test, white=white)
    print(f"training images, as far from test images as draws can be near: {near}\n")
    print(
        "| model | parameters | steps | bits per dimension, 1 draw | "
        f"{options.draws} draws | MMD² of draws | with noise | sharpness |\n" + "|---" * 8 + "|",
        flush=True,
    )
    for name in options.models:
        print(row(name, dataset, test, options), flush=True)


def row(name: str, dataset: Any, test: Tensor, options: argparse.Namespace) -> str:
    """Trains, measures and draws one model: a line of the table."""
    size = SIZES[name][dataset.event_shape[0]]
    with tempfile.TemporaryDirectory() as folder:
        done = steadyflow.fit(
            "glow" if name == "glow" else "fvae",
            dataset,
            model_options=size,
            minutes=options.minutes,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            precision=options.precision,
            validate_every=1000,
            seed=options.seed,
            progress=False,
            run=Path(folder) / name,
        )
        shutil.copy(Path(folder) / name / "metrics.csv", options.out / f"{name}.csv")
    model = on_accelerator(done.model)
    numbers: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": done.steps,
        "seconds": done.seconds,
    }
    cells = []
    for draws in (1, options.draws):
        found = evaluate(model, dataset.test, draws=draws, limit=options.limit, seed=options.seed)
        numbers[f"bits_{draws}"] = found.bits_per_dimension
        numbers[f"bits_{draws}_error"] = found.bits_per_dimension_error
        cells.append(f"{found.bits_per_dimension:.3f} ± {found.bits_per_dimension_error:.3f}")
    noisy = [] if is_exact(model) else [{"noise": True}]
    for how, given in zip(("", "_noisy"), [{}, *noisy], strict=False):
        drawn = draw(model, options.seed, **given)
        distance = kernel_distance(drawn, test, white=white_of(dataset) or 255.0)
        numbers[f"mmd{how}"], numbers[f"mmd{how}_error"] = distance.value, distance.standard_error
        cells.append(f"{distance.value:.4f} ± {distance.standard_error:.4f}")
        numbers[f"sharpness{how}"] = edges(drawn) / edges(test)
    cells += ["-"] * (4 - len(cells)) + [f"{numbers['sharpness']:.2f}"]
    pictures(model, dataset, options.out, name, options.seed)
    (options.out / f"{name}.json").write_text(json.dumps({**numbers, "options": size}, indent=1))
    return f"| {name} | {numbers['parameters']:,} | {done.steps:,} | " + " | ".join(cells) + " |"


def draw(model: Any, seed: int, **options: Any) -> Tensor:
    """Images drawn at temperature 1, (2000, channels, height, width)."""
    parts = []
    with at_rest(model, seed):
        for _ in range(math.ceil(DRAWN / 250)):
            parts.append(model.sample(250, **options).cpu())
    return torch.cat(parts)


def edges(x: Tensor) -> float:
    """The mean absolute difference of neighbouring pixels."""
    x = x.double()
    return float((x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean()) / 2)


def pictures(model: Any, dataset: Any, out: Path, name: str, seed: int) -> None:
    """Draws, reconstructions and ways between test images."""
    x, y = dataset.test.x, dataset.test.y
    look: dict[str, Any] = {"white": white_of(dataset)}
    for temperature in (0.8, 1.0):
        path = out / f"{name}-samples-{temperature:g}.png"
        grid = {"rows": 4, "columns": 12, "temperature": temperature, "seed": seed}
        images.sample_grid(model, path, **grid, **look)
    if has_latents(model) and not is_exact(model):
        diagnostics.reconstruction(model, x[:200], y, out / f"{name}-reconstruction.png", **look)
        path = out / f"{name}-interpolation.png"
        images.interpolation(model, x, y, path, pairs=4, seed=seed, **look)


if __name__ == "__main__":
    main()
