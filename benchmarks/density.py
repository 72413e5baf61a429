"""Test log-likelihood on real vectors: the default spline flow beside zuko's NSF, same budget.

    python benchmarks/density.py uci DATA --sets red_wine housing
    python benchmarks/density.py bsds300 DATA --device cuda --minutes 3

DATA is a folder with uci_small/ and bsds300/. `uci`: the five sets and ten folds of RNADE (Uria,
Murray & Larochelle 2013), columns standardised by the nine training folds, a tenth of which
decides when to stop; the mean over folds of the mean test log-likelihood of the standardised rows,
in nats. Columns are taken as they are: ties are not spread (in the wines they can be won by
spikes). `bsds300`: 8 x 8 grey patches, dequantised and centred, 63 variables, as for MAF.

Both models have five autoregressive splines of 8 bins and networks of two hidden layers of 128
(other widths with --width), and go through the same loop: Adam with warm-up, cosine decay and
clipping, averaged weights, the best validation. "zuko, plain Adam" is the same NSF at a constant
rate of 1e-3 and its last weights, as its own tutorials train it. The budget is --steps, or
--minutes for each model.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

UCI = ("red_wine", "white_wine", "parkinsons", "ionosphere", "housing")
CHUNK = 5000
HEAD = "| set | model | test log-likelihood, nats | over | training |\n|---|---|---|---|---|"


def ours(d: int, width: int) -> tuple[nn.Module, Callable]:
    from steadyflow import SplineFlow

    model = SplineFlow(event_shape=(d,), hidden_features=(width, width))
    return model, model.log_prob


def zuko_nsf(d: int, width: int) -> tuple[nn.Module, Callable]:
    import zuko

    model = zuko.flows.NSF(d, bins=8, transforms=5, hidden_features=(width, width))
    return model, lambda x: model().log_prob(x)


MODELS: dict[str, tuple[Callable, bool]] = {
    "steadyflow": (ours, True),
    "zuko": (zuko_nsf, True),
    "zuko, plain Adam": (zuko_nsf, False),
}


def trained(
    build: Callable, scheduled: bool, parts: dict[str, np.ndarray], asked: Any, seed: int
) -> dict[str, float]:
    """Trains a model; the mean test log-likelihood and its standard error."""
    torch.manual_seed(seed)
    mean, std = parts["train"].mean(0), parts["train"].std(0)
    x = {
        name: torch.tensor((rows - mean) / std, dtype=torch.float32, device=asked.device)
        for name, rows in parts.items()
    }
    model, log_prob = build(x["train"].shape[1], asked.width)
    model.to(asked.device)
    if hasattr(model, "initialize"):
        model.initialize(x["train"][:5000])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    average = copy.deepcopy(model)
    best, kept = math.inf, copy.deepcopy(model.state_dict())
    batch = min(asked.batch, len(x["train"]))
    began, step, order = time.perf_counter(), 0, torch.arange(0)
    while (done := _done(step, began, asked)) < 1:
        if len(order) < batch:
            order = torch.randperm(len(x["train"]), device=asked.device)
        rows, order = order[:batch], order[batch:]
        rate = asked.rate if scheduled else 1e-3
        if scheduled:
            rate *= min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        (-log_prob(x["train"][rows]).mean()).backward()
        if scheduled:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0 * x["train"].shape[1])
        optimizer.step()
        decay = min(0.999, (1 + step) / (10 + step))
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), model.parameters(), strict=True):
                mine.lerp_(theirs, 1 - decay)
        step += 1
        if scheduled and step % asked.validate == 0:
            average.load_state_dict({**model.state_dict(), **dict(average.named_parameters())})
            live = copy.deepcopy(model.state_dict())
            model.load_state_dict(average.state_dict())
            loss = -float(scores(log_prob, x["validation"]).mean())
            if loss < best:
                best, kept = loss, copy.deepcopy(model.state_dict())
            model.load_state_dict(live)
    seconds = time.perf_counter() - began
    if scheduled:
        model.load_state_dict(kept)
    values = scores(log_prob, x["test"]) - (np.log(std).sum() if asked.which != "uci" else 0)
    error = float(values.std() / math.sqrt(len(values)))
    return {"nats": float(values.mean()), "error": error, "steps": step, "seconds": seconds}


def _done(step: int, began: float, asked: Any) -> float:
    if asked.minutes is None:
        return step / asked.steps
    return (time.perf_counter() - began) / (60 * asked.minutes)


@torch.no_grad()
def scores(log_prob: Callable, x: torch.Tensor) -> np.ndarray:
    return torch.cat([log_prob(rows) for rows in x.split(CHUNK)]).double().cpu().numpy()


def uci(asked: Any) -> None:
    began = time.perf_counter()
    for name in asked.sets:
        with np.load(asked.data / "uci_small" / f"{name}.npz", allow_pickle=False) as file:
            x, fold = file["x"].astype(np.float64), file["fold"].ravel()
        found: dict[str, list[dict]] = {model: [] for model in asked.models}
        for k in range(10):
            if asked.limit and time.perf_counter() - began > 60 * asked.limit:
                break
            rest = np.random.default_rng(k).permutation(np.flatnonzero(fold != k))
            cut = len(rest) // 10
            parts = {"validation": x[rest[:cut]], "train": x[rest[cut:]], "test": x[fold == k]}
            for model in asked.models:
                found[model].append(trained(*MODELS[model], parts, asked, k))
                print(
                    json.dumps({"set": name, "fold": k, "model": model, **found[model][-1]}),
                    flush=True,
                )
        print(HEAD)
        for model, folds in found.items():
            nats = np.array([f["nats"] for f in folds])
            error = nats.std(ddof=1) / math.sqrt(len(nats)) if len(nats) > 1 else math.nan
            seconds = np.mean([f["seconds"] for f in folds])
            print(
                f"| {name} | {model} | {nats.mean():.2f} ± {error:.2f} | {len(nats)} folds | "
                f"{seconds:.0f} s |",
                flush=True,
            )


def bsds300(asked: Any) -> None:
    with np.load(asked.data / "bsds300" / "bsds300_patches8.npz", allow_pickle=False) as file:
        parts = {
            name: prepared(file[key], seed)
            for seed, (name, key) in enumerate(
                {"train": "train", "validation": "val", "test": "test"}.items()
            )
        }
    print(HEAD)
    for model in asked.models:
        result = trained(*MODELS[model], parts, asked, asked.seed)
        print(
            f"| bsds300 | {model} | {result['nats']:.2f} ± {result['error']:.2f} | "
            f"{result['steps']} steps | {result['seconds']:.0f} s |",
            flush=True,
        )


def prepared(patches: np.ndarray, seed: int) -> np.ndarray:
    """Dequantised, centred, without the last pixel: (N, 63). Uria (2013), Papamakarios (2017)."""
    x = patches.reshape(len(patches), 64).astype(np.float64)
    x = (x + np.random.default_rng(seed).random(x.shape)) / 256
    return (x - x.mean(1, keepdims=True))[:, :-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=["uci", "bsds300"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", choices=UCI, default=list(UCI))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--minutes", type=float, help="for each model, instead of steps")
    parser.add_argument("--limit", type=float, help="minutes after which no other fold begins")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--validate", type=int, default=50, help="steps between validations")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    {"uci": uci, "bsds300": bsds300}[asked.which](asked)


if __name__ == "__main__":
    main()
