"""Residual flows side by side with the code of Chen et al. (2019), on MNIST.

    python benchmarks/iresnet.py MNIST                  ours
    python benchmarks/iresnet.py MNIST --peer FOLDER    and a checkout of rtqichen/residual-flows

Both train a few steps on the same batches at the same size (4 + 4 blocks of convolutions, 64
channels, 4 blocks of matrices, 1 x 28 x 28, batch 32, one thread) with their defaults. Then: CPU
time of a step and of the Lipschitz constraint in it, growth of the process in a step, evaluation
of 200 test images (time, standard deviation of the estimator for one image, and the time for the
same standard error), inverse of 64 images (time, largest error in grey levels), and the float64
norms of all layers. Time is CPU time of the process: the machine may be shared.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glow import ALLOCATOR, resident

SIDE, BATCH, WIDTH, BLOCKS, DENSE = 28, 32, 64, 4, 4
PIXELS, ALPHA = SIDE * SIDE, 1e-6


@dataclass
class System:
    """One library: what is measured of it."""

    loss: Callable[[Any], Any]  # images on [0, 1) to nats per dimension
    after: Callable[[], None]  # what its training loop does after a step
    density: Callable[[Any], Any]  # log p of images on [0, 1), (batch,), unbiased
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    norms: Callable[[], list[float]]  # float64 norms of the layers as they act
    initialize: Callable[[Any], Any]
    module: Any


def ours(_: str) -> System:
    from steadyflow import IResNet
    from steadyflow.networks.lipschitz import LipschitzLayer

    model = IResNet(
        event_shape=[1, SIDE, SIDE],
        scales=2,
        blocks=BLOCKS,
        hidden_channels=WIDTH,
        dense_blocks=DENSE,
        alpha=ALPHA,
        bits=8,
    )
    flow = model.flow

    def density(y):
        z, log_det = flow.bijection(y)
        return flow.base.log_prob(z) + log_det

    def norms():
        layers = [m for m in model.modules() if isinstance(m, LipschitzLayer)]
        return [layer.true_norm(1e-4) for layer in layers]

    return System(
        loss=lambda y: -density(y).mean() / PIXELS,
        after=lambda: None,  # measured when the weights are next used
        density=density,
        encode=flow.bijection.to_latent,
        decode=flow.bijection.to_data,
        norms=norms,
        initialize=flow.bijection.initialize,
        module=model,
    )


def residual_flows(folder: str) -> System:
    sys.path.insert(0, folder)
    import resflows.layers as layers
    import torch
    import torch.nn.functional as F
    from resflows.layers.base import lipschitz, mixed_lipschitz
    from resflows.resflow import ResidualFlow

    kinds = (
        lipschitz.SpectralNormConv2d,
        lipschitz.SpectralNormLinear,
        mixed_lipschitz.InducedNormConv2d,
        mixed_lipschitz.InducedNormLinear,
    )
    model = ResidualFlow(
        (BATCH, 1, SIDE, SIDE),
        n_blocks=[BLOCKS, BLOCKS],
        intermediate_dim=WIDTH,
        factor_out=False,
        init_layer=layers.LogitTransform(ALPHA),
        actnorm=True,
        coeff=0.98,
        vnorms="2222",
        sn_atol=1e-3,
        sn_rtol=1e-3,
        n_power_series=None,
        n_dist="poisson",
        n_exact_terms=2,
        activation_fn="swish",
        fc_end=True,
        fc_idim=128,
        preact=True,
        neumann_grad=True,
        grad_in_forward=True,
        first_resblock=True,
    )

    def density(y):
        z, change = model(y, 0)
        base = -0.5 * (z**2 + math.log(2 * math.pi)).flatten(1).sum(1)
        return base - change.flatten()

    def after():
        with torch.no_grad():
            for part in model.modules():
                if isinstance(part, kinds):
                    part.compute_weight(update=True)

    def norm(part):
        weight = part.compute_weight(update=False).detach().double()
        if weight.dim() == 2:
            return float(torch.linalg.matrix_norm(weight, 2))
        if weight.shape[-1] == 1:
            return float(torch.linalg.matrix_norm(weight.flatten(1), 2))
        from steadyflow.solvers import leading_singular

        pad = weight.shape[-1] // 2
        size = part.spatial_dims if hasattr(part, "spatial_dims") else (SIDE, SIDE)
        start = torch.randn(weight.shape[1], *[int(n) for n in size][-2:], dtype=torch.float64)
        return leading_singular(
            lambda v: F.conv2d(v[None], weight, padding=pad)[0],
            lambda u: F.conv_transpose2d(u[None], weight, padding=pad)[0],
            start,
            1e-4,
            steps=20,
            max_steps=400,
        ).value

    return System(
        loss=lambda y: -density(y).mean() / PIXELS,
        after=after,
        density=density,
        encode=model,
        decode=lambda z: model(z, inverse=True),
        norms=lambda: [norm(m) for m in model.modules() if isinstance(m, kinds)],
        initialize=lambda y: model(y, 0),
        module=model,
    )


SYSTEMS = {"ours": ours, "residual-flows": residual_flows}


def measure(name: str, mnist: str, peer: str, steps: int) -> dict[str, float]:
    import torch

    from steadyflow import data

    torch.set_num_threads(1)
    torch.manual_seed(0)
    dataset = data.open(mnist)
    noise = torch.Generator().manual_seed(1)

    def real(pixels):
        return (pixels.float() + torch.rand(pixels.shape, generator=noise)) / 256

    system = SYSTEMS[name](peer)
    with torch.no_grad():
        system.initialize(real(dataset.train.x[:256]))
    optimizer = torch.optim.Adam(system.module.parameters(), 1e-3, (0.9, 0.99))
    times, constraint = [], []
    before = peak = 0.0
    for i in range(steps):
        x = real(dataset.train.x[BATCH * i : BATCH * (i + 1)])
        if i == min(3, steps - 1):
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
            before = resident("VmRSS")
        began = time.process_time()
        optimizer.zero_grad()
        loss = system.loss(x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(system.module.parameters(), 1.0)
        optimizer.step()
        middle = time.process_time()
        system.after()
        times.append(time.process_time() - began)
        constraint.append(time.process_time() - middle)
        peak = resident("VmHWM")
    system.module.eval()
    found = {
        "loss": float(loss.detach()) / math.log(2) + 8,
        "step": sorted(times)[len(times) // 2],
        "constraint": sorted(constraint)[len(times) // 2],
        "growth": peak - before,
    }
    with torch.no_grad():
        y = real(dataset.test.x[:200])
        began = time.process_time()
        first = system.density(y)
        found["evaluate"] = time.process_time() - began
        second = system.density(y)
        found["deviation"] = float((first - second).double().std()) / math.sqrt(2)
        found["bits"] = 8 - float(first.mean()) / PIXELS / math.log(2)
        y = y[:64]
        z = system.encode(y)
        began = time.process_time()
        back = system.decode(z)
        found["inverse"] = time.process_time() - began
        found["error"] = float((back.view_as(y) - y).abs().max()) * 256
        norms = system.norms()
        found |= {
            "layers": len(norms),
            "largest": max(norms),
            "above": sum(norm > 0.98 * (1 + 1e-4) for norm in norms),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("mnist", help="a folder with the IDX files")
    parser.add_argument("--peer", default="", help="a checkout of rtqichen/residual-flows")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.mnist, options.peer, options.steps)))
        return
    names = ["ours", "residual-flows"] if options.peer else ["ours"]
    rows: dict[str, dict[str, float]] = {}
    for name in names:
        command = [
            sys.executable,
            str(Path(__file__)),
            options.mnist,
            "--steps",
            str(options.steps),
        ]
        command += ["--peer", options.peer, "--measure", name]
        settings = {**os.environ, **ALLOCATOR}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=settings)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            continue
        rows[name] = json.loads(done.stdout.strip().splitlines()[-1])
    table(rows)


TITLES = {
    "step": "CPU s of a training step",
    "constraint": "of them after the step, for the constraint",
    "growth": "growth in a step, MiB",
    "evaluate": "evaluation of 200 images, CPU s",
    "deviation": "estimator noise of an image, nats",
    "equal": "CPU s for the noise of residual-flows",
    "inverse": "inverse of 64 images, CPU s",
    "error": "largest error of it, grey levels",
    "above": "layers above their bound",
    "largest": "largest norm",
    "bits": "bits per dimension then",
}


def table(rows: dict[str, dict[str, float]]) -> None:
    noise = rows.get("residual-flows", next(iter(rows.values())))["deviation"]
    for row in rows.values():
        row["equal"] = row["evaluate"] * (row["deviation"] / noise) ** 2
    print("| | " + " | ".join(rows) + " |")
    print("|---" * (len(rows) + 1) + "|")
    for key, title in TITLES.items():
        print(f"| {title} | " + " | ".join(f"{row[key]:.3g}" for row in rows.values()) + " |")


if __name__ == "__main__":
    main()
