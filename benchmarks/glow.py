"""Glow side by side: memory and time of a training step, sampling, bits at equal steps, on a CPU.

    python benchmarks/glow.py memory
    python benchmarks/glow.py time --depth 8
    python benchmarks/glow.py train MNIST --steps 250

The other libraries are optional: normflows, and rosinality/glow-pytorch, whose model.py is named
by --rosinality. All build the same flow: images 1 x 32 x 32 of 8 bits (MNIST, padded), 2 levels of
K steps, width 128, affine couplings, PLU; batches of 64, Adam.

memory: each measurement is a fresh process of one thread. Growth is the peak resident memory of
two steps over that before them, when weights and Adam's state were there already, less what the
gradients themselves take. The allocator is told to give freed blocks back at once, so that what is
resident is what is in use.

time: one process, one thread, all systems in turn; CPU time, medians, and the median of the ratio
to the fastest other library in the same round.

train: one process, the same batches for all, Adam at 1e-3 after 200 steps of warm-up, gradients
clipped at 50. Bits are counted over all 1024 padded pixels.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDE, BATCH, WIDTH, LEVELS = 32, 64, 128, 2
DIMENSIONS = SIDE * SIDE
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**14), "MALLOC_MMAP_MAX_": str(2**20)}
SYSTEMS = ("steadyflow", "steadyflow-reversible", "normflows", "rosinality")


@dataclasses.dataclass
class Subject:
    """What can be measured of a flow.

    Attributes:
        model: its weights.
        loss: uint8 images (batch, 1, 32, 32) to nats per dimension of [0, 256).
        sample: draws BATCH images at temperature 0.7, without gradients.
        start: takes the first batch.
    """

    model: Any
    loss: Callable[[Any], Any]
    sample: Callable[[], Any]
    start: Callable[[Any], Any]


def steadyflow(steps: int, options: argparse.Namespace, reversible: bool = False) -> Subject:
    from steadyflow import Glow

    model = Glow(
        event_shape=[1, SIDE, SIDE],
        levels=LEVELS,
        steps=steps,
        hidden_channels=WIDTH,
        reversible=reversible,
    )
    return Subject(model, model.loss, lambda: model.sample(BATCH, None, 0.7), model.initialize)


def normflows(steps: int, options: argparse.Namespace) -> Subject:
    import normflows as nf
    import torch

    flows = [
        [nf.flows.GlowBlock(channels, WIDTH, use_lu=True) for _ in range(steps)]
        + [nf.flows.Squeeze()]
        for channels in (8, 4)
    ]
    bases = [nf.distributions.DiagGaussian((8, 8, 8)), nf.distributions.DiagGaussian((2, 16, 16))]
    model = nf.MultiscaleFlow(bases, flows, [nf.flows.Merge()], class_cond=False)

    def loss(x: Any) -> Any:
        return model.forward_kld(dequantized(x)) / DIMENSIONS + math.log(256)

    def sample() -> Any:
        with torch.no_grad():
            return model.sample(BATCH, temperature=0.7)

    return Subject(model, loss, sample, loss)


def rosinality(steps: int, options: argparse.Namespace) -> Subject:
    import torch

    if options.rosinality is None:
        raise ImportError("--rosinality was not given")
    spec = importlib.util.spec_from_file_location("rosinality", options.rosinality)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.AffineCoupling.__init__.__defaults__ = (WIDTH, True)  # its only way to another width
    model = module.Glow(1, steps, LEVELS, affine=True, conv_lu=True)
    shapes = [(2, SIDE // 2, SIDE // 2), (8, SIDE // 4, SIDE // 4)]

    def loss(x: Any) -> Any:
        log_p, log_det, _ = model(dequantized(x))
        return -(log_p + log_det).mean() / DIMENSIONS + math.log(256)

    def sample() -> Any:
        with torch.no_grad():
            return model.reverse([0.7 * torch.randn(BATCH, *shape) for shape in shapes])

    return Subject(model, loss, sample, loss)


def dequantized(x: Any) -> Any:
    import torch

    return (x + torch.rand(x.shape)) / 256 - 0.5


def build(system: str, steps: int, options: argparse.Namespace) -> Subject:
    import torch

    torch.manual_seed(0)
    if system.startswith("steadyflow"):
        return steadyflow(steps, options, reversible=system.endswith("reversible"))
    return {"normflows": normflows, "rosinality": rosinality}[system](steps, options)


def stepper(subject: Subject, rate: float, clip: float = 0.0) -> Callable[[Any], float]:
    """One step of Adam on a batch, as a function that gives the loss."""
    import torch

    optimizer = torch.optim.Adam(subject.model.parameters(), lr=rate, fused=True)

    def step(x: Any, warm: float = 1.0) -> float:
        optimizer.param_groups[0]["lr"] = rate * warm
        optimizer.zero_grad()
        loss = subject.loss(x)
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(subject.model.parameters(), clip)
        optimizer.step()
        return float(loss.detach())

    return step


def seconds(call: Callable[[], Any], device: str) -> float:
    """CPU seconds of a call, or on a GPU those until it is done."""
    import torch

    if device == "cpu":
        began = time.process_time()
        call()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - began


# memory


def memory(options: argparse.Namespace) -> None:
    systems = present(options)
    print(f"| growth of a step, MiB | {' | '.join(f'K = {k}' for k in options.depths)} |")
    print("|---|" + "---|" * len(options.depths), flush=True)
    for system in systems:
        cells = []
        for depth in options.depths:
            found = [in_a_process(system, depth, options) for _ in range(options.rounds)]
            cells.append(f"{min(found):.0f}")
        print(f"| {system} | {' | '.join(cells)} |", flush=True)


def in_a_process(system: str, depth: int, options: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "growth", system, str(depth), "--device", options.device]
    if options.rosinality:
        command += ["--rosinality", options.rosinality]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **ALLOCATOR}
    done = subprocess.run(command, capture_output=True, text=True, env=settings)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(json.loads(done.stdout.splitlines()[-1]))


def growth(options: argparse.Namespace) -> None:
    """The growth of the memory of this process in two steps, in MiB."""
    import torch

    torch.set_num_threads(1)
    subject = build(options.system, options.depth, options)
    subject.model.to(options.device)
    x = torch.randint(256, (BATCH, 1, SIDE, SIDE), dtype=torch.uint8, device=options.device)
    step = stepper(subject, 1e-4)
    subject.start(x[:2])
    step(x[:2])  # two examples load the kernels and allocate Adam's state
    subject.model.zero_grad()
    if options.device == "cuda":
        print(json.dumps(growth_on_gpu(subject, step, x)))
        return
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    for _ in range(2):
        step(x)
    print(json.dumps(resident("VmHWM") - before - gradients(subject)))


def growth_on_gpu(subject: Subject, step: Callable[[Any], float], x: Any) -> float:
    """The same in the memory of the GPU, as torch counts it."""
    import torch

    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        step(x)
    return (torch.cuda.max_memory_allocated() - before) / 2**20 - gradients(subject)


def gradients(subject: Subject) -> float:
    """What the gradients take, in MiB."""
    found = (p.grad for p in subject.model.parameters())
    return sum(grad.nbytes for grad in found if grad is not None) / 2**20


def resident(field: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise LookupError(field)


# time


def clock(options: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    subjects = {name: build(name, options.depth, options) for name in present(options)}
    x = torch.randint(256, (BATCH, 1, SIDE, SIDE), dtype=torch.uint8, device=options.device)
    work: dict[str, dict[str, Callable[[], Any]]] = {}
    for name, subject in subjects.items():
        subject.model.to(options.device)
        subject.start(x)
        step = stepper(subject, 1e-4)
        work[name] = {"training step": lambda step=step: step(x), "sample 64": subject.sample}
    for what in ("training step", "sample 64"):
        rounds = [
            {name: seconds(work[name][what], options.device) for name in subjects}
            for _ in range(options.rounds)
        ][1:]
        others = [n for n in subjects if not n.startswith("steadyflow")]
        medians = {n: statistics.median(r[n] for r in rounds) for n in subjects}
        best = min(others or ["steadyflow"], key=medians.__getitem__)
        print(f"\n| {what}, K = {options.depth} | seconds | of {best} |\n|---|---|---|")
        for name in subjects:
            low, middle, high = statistics.quantiles([r[name] / r[best] for r in rounds], n=4)
            ratio = f"{middle:.2f} ({low:.2f} to {high:.2f})"
            print(f"| {name} | {medians[name]:.3f} | {ratio} |", flush=True)


# training


def train(options: argparse.Namespace) -> None:
    import torch
    import torch.nn.functional as F

    from steadyflow import data

    torch.set_num_threads(1)
    mnist = data.open(options.source)
    images, held_out = (F.pad(split.x, (2, 2, 2, 2)) for split in (mnist.train, mnist.test))
    held_out = held_out[: options.test]
    subjects = {name: build(name, options.depth, options) for name in present(options)}
    steps = {name: stepper(s, 1e-3, options.clip) for name, s in subjects.items()}
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(options.seed))
    spent, bad = dict.fromkeys(subjects, 0.0), dict.fromkeys(subjects, 0)
    for subject in subjects.values():
        subject.start(images[order[:256]])
    for i in range(options.steps):
        rows = order[(torch.arange(BATCH) + i * BATCH) % len(order)]
        for name, step in steps.items():
            torch.manual_seed(i)  # the same noise for all
            began = time.process_time()
            loss = step(images[rows], min(1.0, (i + 1) / 200))
            spent[name] += time.process_time() - began
            bad[name] += not math.isfinite(loss)
        if (i + 1) % options.every == 0:
            for name, subject in subjects.items():
                mean, error = bits(subject, held_out)
                print(
                    f"step {i + 1:5}  {name:22} {mean:.3f} ± {error:.3f} bits/dim  "
                    f"{spent[name] / (i + 1):.3f} CPU s/step  {bad[name]} not finite",
                    flush=True,
                )


def bits(subject: Subject, x: Any) -> tuple[float, float]:
    """Mean bits per dimension of images, and its standard error over batches of 100."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        values = [float(subject.loss(part)) / math.log(2) for part in x.split(100)]
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def present(options: argparse.Namespace) -> list[str]:
    """The systems that are asked for and installed."""
    found = []
    for name in options.systems:
        try:
            build(name, 1, options)
            found.append(name)
        except ImportError as error:
            print(f"without {name}: {error}", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    for name, function in (("memory", memory), ("time", clock), ("train", train)):
        verb = verbs.add_parser(name)
        verb.set_defaults(function=function)
        verb.add_argument("--systems", nargs="+", default=SYSTEMS)
        verb.add_argument("--rosinality", help="path of its model.py")
        if name == "memory":
            verb.add_argument("--depths", type=int, nargs="+", default=[8, 16, 32, 64])
        else:
            verb.add_argument("--depth", type=int, default=8)
        if name == "train":
            verb.add_argument("source", help="MNIST's four IDX files")
            verb.add_argument("--steps", type=int, default=250)
            verb.add_argument("--every", type=int, default=50)
            verb.add_argument("--test", type=int, default=2000)
            verb.add_argument("--clip", type=float, default=50.0)
            verb.add_argument("--seed", type=int, default=0)
        else:
            verb.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
            verb.add_argument("--rounds", type=int, default=1 if name == "memory" else 9)
    hidden = verbs.add_parser("growth")
    hidden.set_defaults(function=growth)
    hidden.add_argument("system")
    hidden.add_argument("depth", type=int)
    hidden.add_argument("--device", default="cpu")
    hidden.add_argument("--rosinality")
    options = parser.parse_args()
    options.function(options)


if __name__ == "__main__":
    main()
