"""Mode counting on stacked digits: three random digits as the three channels of one image.

    python benchmarks/stacked.py                              # 8 x 8 digits, on a CPU
    python benchmarks/stacked.py --source MNIST --minutes 5   # a folder with the four IDX files

There are 1,000 modes, all as frequent. A classifier of single digits, trained on the training
images, names the three digits of each of 26,000 draws: how many of the modes are there, and the
Kullback-Leibler divergence of their shares from those of the data. Metz et al., "Unrolled
Generative Adversarial Networks" (2017), sec. 3.3; Kumar et al. (2019), table 1: 1,000 modes and
0.03 for the mutual-information entropy. Real images give what the last line says: the divergence
of a finite sample is not zero, and the classifier not perfect.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import steadyflow
from steadyflow import data
from steadyflow.networks.adversarial import ConvCritic

CHANNELS = 3
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mutual-information": ("energy", {"entropy": "mutual-information"}),
    "reconstruction": ("energy", {"entropy": "reconstruction"}),
    "none": ("energy", {"entropy": "none"}),
    "GAN": ("gan", {}),
}


def stacked(x: Tensor, y: Tensor, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random triples of images (N, 1, h, w): (n, 3, h, w), and their modes from 0 to 999."""
    chosen = torch.randint(len(x), (n, CHANNELS), generator=torch.Generator().manual_seed(seed))
    powers = torch.tensor([100, 10, 1])
    return x[chosen, 0], (y[chosen] * powers).sum(1)


class Classifier:
    """Names the digits of single images.

    Args:
        x: (N, 1, h, w) integer images.
        y: (N,) labels.
        top: the value of white.
        steps: of training.
        device: where.
    """

    def __init__(self, x: Tensor, y: Tensor, top: float, steps: int, device: str):
        torch.manual_seed(0)
        self.top, self.device = top, device
        self.network: nn.Module = ConvCritic(x.shape[1:], 10, 16).to(device)
        optimizer = torch.optim.Adam(self.network.parameters(), 1e-3)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / steps)
            rows = torch.randint(len(x), (128,))
            moved = torch.roll(x[rows], tuple(torch.randint(-1, 2, (2,)).tolist()), (2, 3))
            loss = F.cross_entropy(self.network(self._scaled(moved)), y[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def __call__(self, x: Tensor) -> Tensor:
        """The digits of (N, 1, h, w), (N,)."""
        with torch.no_grad():
            parts = [self.network(self._scaled(part)).argmax(1).cpu() for part in x.split(5000)]
        return torch.cat(parts)

    def modes(self, x: Tensor) -> Tensor:
        """The modes of (N, 3, h, w), (N,)."""
        digits = [self(x[:, i : i + 1]) for i in range(CHANNELS)]
        return 100 * digits[0] + 10 * digits[1] + digits[2]

    def _scaled(self, x: Tensor) -> Tensor:
        return x.to(self.device).float() / self.top


def count(modes: Tensor, truth: Tensor) -> dict[str, float]:
    """Modes that occur, and KL(shares || those of the data)."""
    counts = torch.bincount(modes, minlength=1000).double()
    shares = counts / counts.sum()
    return {
        "modes": int((counts > 0).sum()),
        "kl": float(torch.special.xlogy(shares, shares / truth).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", default="digits")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--minutes", type=float, default=1.5, help="of each training")
    parser.add_argument("--channels", type=int, default=8, help="of the networks")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--penalty", type=float)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--stacks", type=int, default=50_000, help="training examples")
    parser.add_argument("--draws", type=int, default=26_000)
    parser.add_argument("--classifier-steps", type=int, default=1500)
    parser.add_argument("--out", type=Path, help="a folder for pictures and numbers")
    asked = parser.parse_args()
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = data.open(asked.source)
    train, test = source.train, source.test
    top = float(train.x.max())
    classifier = Classifier(train.x, train.y, top, asked.classifier_steps, device)
    accuracy = float((classifier(test.x) == test.y).double().mean())
    frequent = torch.bincount(train.y, minlength=10).double() / len(train.y)
    truth = torch.einsum("a,b,c->abc", frequent, frequent, frequent).flatten()
    print(f"classifier: {accuracy:.4f} of {len(test.y)} test images", flush=True)
    x, _ = stacked(train.x, train.y, asked.stacks, 0)
    real = count(classifier.modes(stacked(test.x, test.y, asked.draws, 1)[0]), truth)
    print("| model | modes of 1,000 | KL | steps |\n|---|---|---|---|", flush=True)
    for name in asked.models:
        kind, options = MODELS[name]
        began = time.perf_counter()
        given = {**options, "hidden_channels": asked.channels, "bits": source.bits}
        if asked.penalty is not None:
            given["penalty"] = asked.penalty
        result = steadyflow.fit(
            kind,
            data.from_arrays(x.numpy(), name="stacked digits", bits=source.bits, test=0),
            model_options=given,
            minutes=asked.minutes,
            batch_size=asked.batch_size,
            learning_rate=asked.learning_rate,
            betas=(0.5, 0.9),
            validate_every=1000,
            progress=False,
            device=device,
        )
        model = result.model.to(device)
        torch.manual_seed(0)
        drawn = torch.cat([model.sample(1000).cpu() for _ in range(asked.draws // 1000)])
        found = count(classifier.modes(drawn), truth)
        print(f"| {name} | {found['modes']} | {found['kl']:.3f} | {result.steps} |", flush=True)
        if asked.out is not None:
            from steadyflow.cli import files

            files.write(
                asked.out / f"{name}.png", files.Examples(drawn[:48].numpy(), white=top, across=12)
            )
            row = {"model": name, **found, "steps": result.steps, "accuracy": accuracy}
            row["seconds"] = time.perf_counter() - began
            with open(asked.out / "rows.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")
    print(f"| real test images | {real['modes']} | {real['kl']:.3f} | |", flush=True)


if __name__ == "__main__":
    main()
