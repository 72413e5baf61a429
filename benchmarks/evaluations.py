"""Quality over evaluations: the images of a trained diffusion or flow-matching model.

    python benchmarks/evaluations.py runs/flow-matching-mnist
    python benchmarks/evaluations.py runs/diffusion-digits --n 500 --out docs/images

For each sampler and each number of evaluations of the network, from the same noise:

- Fréchet distance between the draws and the test images in the 64 features of a small classifier
  that is trained here on the run's own training images, each feature with variance 1 (so it can
  not be compared with published FID); its floor is that of the validation images, which the
  classifier has not seen either. Lower is better.
- recognised: the share of the draws that the classifier takes for the class that was asked for,
  for class-conditional models; its floor is its accuracy on test images.
- own limit: the root mean squared difference to the sampler's own 200 evaluations (--limit), in
  standard deviations of the pixels.

With --out a picture: one row for each number of evaluations, the same noise in each column.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyflow.evaluation.access import at_rest
from steadyflow.models.probability_flow import ProbabilityFlowModel
from steadyflow.report.gallery import white_of
from steadyflow.training import Run

EVALUATIONS = (5, 10, 20, 50, 100)
# evaluations = each x steps - less
COSTS = {
    "heun": (2, 0),
    "midpoint": (2, 0),
    "rk4": (4, 0),
    "edm": (2, 1),
    **dict.fromkeys(("euler", "ddim", "dpm++2m", "dpm++3m", "ancestral"), (1, 0)),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a run of diffusion or flow-matching on images")
    parser.add_argument("--n", type=int, default=1000, help="draws for each number")
    parser.add_argument("--samplers", nargs="+", choices=list(COSTS), default=["dpm++2m", "heun"])
    parser.add_argument("--evaluations", type=int, nargs="+", default=list(EVALUATIONS))
    parser.add_argument("--limit", type=int, default=200, help="what is compared with")
    parser.add_argument("--guidance", type=float, default=1.0, help="other than 1 costs double")
    parser.add_argument("--epochs", type=int, default=10, help="of the classifier")
    parser.add_argument("--out", type=Path, help="folder for a picture and the numbers")
    options = parser.parse_args()
    torch.manual_seed(0)
    run = Run.open(options.run)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = run.model().to(device).eval()
    if not isinstance(model, ProbabilityFlowModel):
        parser.error(f"{options.run} holds a {type(model).__name__}")
    dataset = run.data()
    white = float(2 ** model.config["bits"] - 1)
    judge = Judge(dataset, white, device, options.epochs)
    real = dataset.test.x[: options.n]
    spare = dataset.validation.x[: options.n]
    print(f"{model.name}, {options.n} draws, guidance {options.guidance:g}; against real images")
    print(f"classifier: {judge.accuracy:.1%} of the test images")
    print(f"floor, {len(spare)} validation images: Fréchet {judge.distance(spare, real):.3f}\n")
    print("| sampler | evaluations | Fréchet | recognised | own limit | seconds |")
    print("|---|---|---|---|---|---|")
    found = []
    for sampler in options.samplers:
        limit, rows = None, []
        for count in sorted({*options.evaluations, options.limit}, reverse=True):
            each, less = COSTS[sampler]
            steps = max(1, (count + less) // each)
            began = time.monotonic()
            x, labels = draw(model, options.n, sampler, steps, options.guidance)
            seconds = time.monotonic() - began
            limit = x if limit is None else limit
            far = (x.double() - limit.double()).square().mean().sqrt() / spare.double().std()
            rows.append(
                {
                    "sampler": sampler,
                    "evaluations": each * steps - less,
                    "frechet": judge.distance(x, real),
                    "recognised": judge.recognised(x, labels),
                    "own_limit": float(far),
                    "seconds": seconds,
                    "images": x[:20],
                }
            )
        for row in reversed(rows):
            share = "" if row["recognised"] is None else f"{row['recognised']:.1%}"
            print(
                f"| {sampler} | {row['evaluations']} | {row['frechet']:.3f} | {share} "
                f"| {row['own_limit']:.3f} | {row['seconds']:.1f} |",
                flush=True,
            )
        found += reversed(rows)
    if options.out is not None:
        save(options.out, model.name, found, white_of(dataset), len(options.evaluations))


@torch.no_grad()
def draw(
    model: ProbabilityFlowModel, n: int, sampler: str, steps: int, guidance: float
) -> tuple[Tensor, Tensor | None]:
    """The same noise for every sampler and number of steps."""
    labels = None if model.num_classes is None else torch.arange(n) % model.num_classes
    device = next(model.parameters()).device
    parts = []
    with at_rest(model, seed=0):
        for start in range(0, n, 500):
            some = None if labels is None else labels[start : start + 500].to(device)
            size = min(500, n - start)
            made = model.sample(size, some, sampler=sampler, steps=steps, guidance=guidance)
            parts.append(made.cpu())
    return torch.cat(parts), labels


class Judge:
    """A small classifier of the training images, and distances between its features."""

    def __init__(self, dataset, white: float, device: torch.device, epochs: int):
        channels, height, width = dataset.event_shape
        self.white, self.device = white, device
        pools = 2 if min(height, width) >= 16 else 1
        layers: list[nn.Module] = []
        for i in range(pools):
            layers += [nn.Conv2d(channels if i == 0 else 32, 32, 3, padding=1), nn.SiLU()]
            layers += [nn.Conv2d(32, 32, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2)]
        size = 32 * (height // 2**pools) * (width // 2**pools)
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, 64)).to(device)
        self.head = nn.Linear(64, len(dataset.classes or [0])).to(device)
        self._train(dataset.train.x, dataset.train.y, epochs)
        self.scale = self._all(dataset.train.x[:5000]).double().std(0).clamp_min(1e-6)
        self.accuracy = self.recognised(dataset.test.x, dataset.test.y) or math.nan

    def _train(self, x: Tensor, y: Tensor, epochs: int) -> None:
        parameters = [*self.features.parameters(), *self.head.parameters()]
        size = min(256, len(x))
        steps = epochs * (len(x) // size)
        optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        for _ in range(epochs):
            for rows in torch.randperm(len(x))[: len(x) // size * size].split(size):
                values = self.head(F.silu(self._see(x[rows])))
                loss = F.cross_entropy(values, y[rows].to(self.device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()

    def _see(self, x: Tensor) -> Tensor:
        return self.features(x.to(self.device).float() / self.white - 0.5)

    @torch.no_grad()
    def _all(self, x: Tensor) -> Tensor:
        return torch.cat([self._see(part).cpu() for part in x.split(1000)])

    def recognised(self, x: Tensor, labels: Tensor | None) -> float | None:
        """The share that is taken for its class."""
        if labels is None:
            return None
        with torch.no_grad():
            values = self.head(F.silu(self._all(x).to(self.device))).cpu()
        return float((values.argmax(1) == labels).float().mean())

    def distance(self, x: Tensor, y: Tensor) -> float:
        """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of the features."""
        a, b = (self._all(part).double() / self.scale for part in (x, y))
        means = (a.mean(0) - b.mean(0)).square().sum()
        first, second = a.T.cov(), b.T.cov()
        values, axes = torch.linalg.eigh(first)
        root = axes * values.clamp_min(0).sqrt() @ axes.T
        cross = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
        return float(means + first.trace() + second.trace() - 2 * cross)


def save(folder: Path, name: str, found: list[dict], white: float | None, count: int) -> None:
    """One picture for each sampler, and all numbers as JSON."""
    from PIL import Image

    from steadyflow.report.mosaic import mosaic

    folder.mkdir(parents=True, exist_ok=True)
    for sampler in dict.fromkeys(row["sampler"] for row in found):
        rows = [row["images"] for row in found if row["sampler"] == sampler][: count + 1]
        pixels = mosaic(torch.stack(rows), white)
        Image.fromarray(pixels).save(folder / f"{name}-evaluations-{sampler}.png")
    plain = [{k: v for k, v in row.items() if k != "images"} for row in found]
    (folder / f"{name}-evaluations.json").write_text(json.dumps(plain, indent=1) + "\n")


if __name__ == "__main__":
    main()
