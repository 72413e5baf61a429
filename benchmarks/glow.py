"""Glow side by side: memory and time of a training step, and of sampling, on a CPU.

    python benchmarks/glow.py                       ours
    python benchmarks/glow.py --peer-python PYTHON  and normflows, in an environment that has it

MNIST-sized images (1 x 32 x 32, random pixels), 2 levels of K steps of flow, width 128, batch 64,
affine couplings, PLU, Adam. Every measurement is a fresh process of one thread; time is its own
CPU time (the machine may be shared), the median of the steps; growth is the peak resident memory
of the steps over that before them, when weights, gradients and Adam's state were there already.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

SIDE, BATCH, WIDTH, LEVELS = 32, 64, 128, 2


def ours(steps: int, reversible: bool):
    import torch

    from steadyflow import Glow

    torch.manual_seed(0)
    model = Glow(
        event_shape=[1, SIDE, SIDE],
        levels=LEVELS,
        steps=steps,
        hidden_channels=WIDTH,
        reversible=reversible,
    )
    return model, model.loss, lambda: model.sample(BATCH, temperature=0.7), model.initialize


def normflows(steps: int, reversible: bool):
    import normflows as nf
    import torch

    torch.manual_seed(0)
    flows = [
        [nf.flows.GlowBlock(channels, WIDTH, use_lu=True) for _ in range(steps)]
        + [nf.flows.Squeeze()]
        for channels in (8, 4)
    ]
    bases = [nf.distributions.DiagGaussian((8, 8, 8)), nf.distributions.DiagGaussian((2, 16, 16))]
    model = nf.MultiscaleFlow(bases, flows, [nf.flows.Merge()], class_cond=False)

    def loss(x):
        return model.forward_kld((x + torch.rand(x.shape)) / 256 - 0.5) / (SIDE * SIDE)

    def sample():
        with torch.no_grad():
            return model.sample(BATCH)

    return model, loss, sample, loss


SYSTEMS = {"ours": ours, "normflows": normflows}


def measure(system: str, steps: int, reversible: bool, repeats: int) -> dict:
    """One system at one depth, in this process."""
    import torch

    torch.set_num_threads(1)
    model, loss, sample, initialize = SYSTEMS[system](steps, reversible)
    x = torch.randint(256, (BATCH, 1, SIDE, SIDE), dtype=torch.uint8)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step(batch):
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()

    # two examples load the kernels and allocate gradients and Adam's state
    initialize(x[:2])
    step(x[:2])
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    seconds = [cpu_time(lambda: step(x)) for _ in range(repeats)]
    growth = memory("VmHWM") - before
    sampling = [cpu_time(sample) for _ in range(repeats)]
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "step": sorted(seconds)[repeats // 2],
        "sample": sorted(sampling)[repeats // 2],
        "growth": growth,
        "parameters": parameters,
    }


def cpu_time(call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def memory(field: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise LookupError(field)


def in_a_process(python: str, *arguments: object) -> dict:
    command = [python, __file__, "--measure", *map(str, arguments)]
    environment = {"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--rounds", type=int, default=2, help="the best of so many is shown")
    parser.add_argument("--repeats", type=int, default=3, help="steps in each process")
    parser.add_argument("--peer-python", help="an interpreter with torch and normflows")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        system, steps, reversible, repeats = options.measure
        print(json.dumps(measure(system, int(steps), reversible == "True", int(repeats))))
        return
    rows = [(sys.executable, "ours", True), (sys.executable, "ours", False)]
    if options.peer_python:
        rows.append((options.peer_python, "normflows", False))
    titles = ("CPU s/step", "growth MiB", "sample 64 s", "parameters")
    print(f"{'system':18} {'K':>3}" + "".join(f"{title:>13}" for title in titles))
    for depth in options.depths:
        found: dict[tuple, list[dict]] = {row: [] for row in rows}
        for _ in range(options.rounds):  # interleaved, so that all meet the same neighbours
            for row in rows:
                python, system, reversible = row
                found[row].append(in_a_process(python, system, depth, reversible, options.repeats))
        for (_, system, reversible), results in found.items():
            name = system + (" reversible" if reversible else "")
            best = {key: min(result[key] for result in results) for key in results[0]}
            print(
                f"{name:18} {depth:3} {best['step']:12.3f} {best['growth']:12.0f} "
                f"{best['sample']:12.3f} {best['parameters']:12,}",
                flush=True,
            )


if __name__ == "__main__":
    main()
