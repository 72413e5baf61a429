"""Trains the small classifier whose features `steadyflow.evaluation.features` measures with.

    python benchmarks/features.py DATA --out src/steadyflow/evaluation/features.safetensors

DATA is a folder with mnist/ (four IDX files), cifar10_subset/cifar10_subset.npz and
faces/lfw_faces_gray_64.npz: 22 classes in one network, each image at 32 x 32 pixels, shifted by
up to two of them. It prints the accuracy on the test images of each set. Weights are saved in
float16.
"""

from __future__ import annotations

import argparse
import time

import safetensors.torch
import torch
import torch.nn.functional as F

from steadyflow import data
from steadyflow.evaluation.features import FeatureNet, prepare

SOURCES = (
    ("mnist", {}, 10),
    ("cifar10_subset/cifar10_subset.npz", {}, 10),
    ("faces/lfw_faces_gray_64.npz", {"label": "smile"}, 2),
)


def sets(folder: str, most: int):
    """Images and labels of all sources: for training together, for the test apart."""
    train, tests, first = [], [], 0
    for name, options, classes in SOURCES:
        found = data.open(f"{folder}/{name}", validation=0, **options)
        train.append((prepare(found.train.x[:most]), found.train.y[:most] + first))
        tests.append((name, prepare(found.test.x), found.test.y + first))
        first += classes
    images, labels = (torch.cat(parts) for parts in zip(*train, strict=True))
    return images, labels, tests, first


def shifted(x: torch.Tensor) -> torch.Tensor:
    """The batch moved by up to two pixels."""
    dy, dx = torch.randint(-2, 3, (2,)).tolist()
    return F.pad(x, (2, 2, 2, 2), mode="replicate")[..., 2 + dy : 34 + dy, 2 + dx : 34 + dx]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--out", required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--most", type=int, default=15_000, help="training images of each set")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=6.0, help="the schedule ends there")
    options = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels, tests, classes = sets(options.data, options.most)
    network = FeatureNet(classes).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    began, step, total = time.monotonic(), 0, options.epochs * (len(images) // options.batch)
    for epoch in range(options.epochs):
        order = torch.randperm(len(images))
        for rows in order.split(options.batch)[: len(images) // options.batch]:
            step += 1
            done = max(step / total, (time.monotonic() - began) / (60 * options.minutes))
            if done >= 1:
                break
            optimizer.param_groups[0]["lr"] = 3e-3 * min(1, step / 100) * (1 - done)
            scores = network(shifted(images[rows]).to(device))
            loss = F.cross_entropy(scores, labels[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}  loss {float(loss.detach()):.3f}  {step} steps", flush=True)
    network.eval()
    for name, x, y in tests:
        with torch.no_grad():
            found = torch.cat([network(part.to(device)).argmax(1).cpu() for part in x.split(500)])
        print(f"{name}: {float((found == y).float().mean()):.3f} of {len(y)} test images right")
    weights = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    safetensors.torch.save_file(weights, options.out)


if __name__ == "__main__":
    main()
