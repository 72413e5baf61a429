"""TarFlow beside the authors' own code: training, likelihood and sampling, in one process.

    python benchmarks/tarflow.py path/to/ml-tarflow/transformer_flow.py

The authors' code is not part of this package: get https://github.com/apple/ml-tarflow and give the
path of its transformer_flow.py; without one only our own rows are measured. Both sides have the
same sizes (4 blocks of 4 layers, heads of 64 channels) and do the same work: integer images, their
noise, the flow, its loss, backward and fused AdamW. They take turns, many rounds, so that whatever
else the machine does meets them alike: times are medians, with the quartiles of the ratio of the
authors' time to ours in the same round. With one CPU thread times are CPU time of the process.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

BLOCKS, LAYERS, PATCH = 4, 4, 4
SETTINGS = ("fp32", "bf16", "compile", "bf16+compile")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("official", nargs="?", help="transformer_flow.py of apple/ml-tarflow")
    parser.add_argument("--tasks", nargs="+", default=["train", "score", "sample", "long"])
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--settings", nargs="+", default=["fp32", "bf16"], choices=SETTINGS)
    parser.add_argument("--batch", type=int, default=128, help="of training and likelihood")
    parser.add_argument("--samples", type=int, nargs="+", default=[64], help="batches of sampling")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--model", help="a trained TarFlow (a run, or mnist-tarflow): its samplers are compared"
    )
    parser.add_argument("--tolerance", type=float, default=1e-3, help="of the parallel samplers")
    options = parser.parse_args()

    import torch

    torch.set_num_threads(options.threads)
    print(f"{_machine(options)}, torch {torch.__version__}, {options.rounds} rounds\n")
    for task in options.tasks:
        for line in TASKS[task](options):
            print(line, flush=True)
        print(flush=True)


def train(options: argparse.Namespace) -> Any:
    """Steps of training, and the memory they take."""
    yield _title("training step, ms", options)
    for channels in options.channels:
        for setting in options.settings:
            runs = {
                side: functools.partial(_step, built, options.batch, setting, options.device)
                for side, built in _sides(channels, options).items()
            }
            steps = {side: make() for side, make in runs.items()}
            yield _row(f"{channels} channels, {setting}", race(steps, options))
        memory = {
            side: _memory(side, channels, options)
            for side in ("steadyflow", "official")
            if side == "steadyflow" or options.official
        }
        cells = " | ".join(f"{value:.0f} MB" for value in memory.values())
        yield f"| {channels} channels, memory of a fp32 step | {cells} | |"


def score(options: argparse.Namespace) -> Any:
    """Log-likelihoods, without gradients."""
    yield _title("log-likelihood, ms", options)
    for channels in options.channels:
        runs = {
            side: functools.partial(built.score, _pixels(options.batch, 28, options.device))
            for side, built in _sides(channels, options).items()
        }
        yield _row(f"{channels} channels, fp32", race(runs, options))


def sample(options: argparse.Namespace) -> Any:
    """Sampling with the cache, 49 tokens."""
    yield _title("sampling with the cache, ms", options)
    for channels in options.channels:
        for n in options.samples:
            yield _sampling(28, channels, n, options)


def long(options: argparse.Namespace) -> Any:
    """Sampling with the cache, longer sequences."""
    yield _title("sampling with the cache, ms", options)
    for side, n in ((64, 8), (128, 2)):
        yield _sampling(side, 128, n, options)


def samplers(options: argparse.Namespace) -> Any:
    """The four samplers and 'auto' on a trained model, beside the authors' cache."""
    import torch

    from steadyflow import TarFlow, load

    model: Any = load(options.model)
    assert isinstance(model, TarFlow)
    model = model.eval().to(options.device)
    config = model.config
    # the authors' heads have 64 channels; theirs are blocks of LAYERS layers on grey images
    alike = config["channels"] % 64 == 0 and config["patch_size"] in (None, PATCH)
    side = config["event_shape"][1]
    official = _official(options, config["channels"], side) if alike else None
    names = ("cached", "windowed", "jacobi", "auto")
    columns = [*names, *(["authors' cache"] if official else [])]
    yield (
        f"| ms, {config['channels']} channels, tolerance {options.tolerance:g} | "
        + " | ".join(columns)
        + " | sweeps of each block (jacobi) | largest difference |"
    )
    yield "|---|" + "---|" * (len(columns) + 2)
    for n in options.samples:
        z = torch.randn(n, *model.event_shape, device=options.device)
        labels = None if model.num_classes is None else torch.arange(n) % model.num_classes
        decode = functools.partial(model.decode_with_report, z, labels)
        runs: dict[str, Callable[[], Any]] = {
            name: functools.partial(decode, sampler=name, tolerance=options.tolerance)
            for name in names
        }
        exact, rough = decode(), decode(sampler="jacobi", tolerance=options.tolerance)
        difference = (exact.x - rough.x).abs().max().item()
        if official:
            runs["authors' cache"] = functools.partial(official.sample, n)
        times = race(runs, options)
        cells = [f"{statistics.median(times[name]):.1f}" for name in runs]
        sweeps = ", ".join(str(block.sweeps) for block in rough.blocks)
        yield f"| {n} | " + " | ".join(cells) + f" | {sweeps} | {difference:.1e} |"


TASKS = {"train": train, "score": score, "sample": sample, "long": long, "samplers": samplers}


class Ours:
    """steadyflow's model, with the pixels as they are (the authors' code leaves them so)."""

    def __init__(self, channels: int, side: int, device: str):
        from steadyflow import TarFlow

        self.model = TarFlow(
            event_shape=(1, side, side),
            patch_size=PATCH,
            channels=channels,
            blocks=BLOCKS,
            layers_per_block=LAYERS,
            gaussianize=False,
        ).to(device)

    def loss(self, x: Any) -> Any:
        return self.model.loss(x)

    def score(self, x: Any) -> Any:
        import torch

        with torch.no_grad():
            return self.model.log_prob(x)

    def sample(self, n: int) -> Any:
        return self.model.sample(n)


class Official:
    """The authors' model, with the noise and the loss of their scripts."""

    def __init__(self, module: Any, channels: int, side: int, device: str):
        self.model = module.Model(1, side, PATCH, channels, BLOCKS, LAYERS).to(device)
        self.device = device

    def loss(self, x: Any) -> Any:
        z, _, log_det = self.model(self._noisy(x))
        return self.model.get_loss(z, log_det)

    def score(self, x: Any) -> Any:
        import torch

        with torch.no_grad():
            z, _, log_det = self.model(self._noisy(x))
            return log_det - 0.5 * z.square().mean((1, 2))

    def sample(self, n: int) -> Any:
        import torch

        with torch.no_grad():
            tokens = (self.model.num_patches, PATCH * PATCH)
            return self.model.reverse(torch.randn(n, *tokens, device=self.device))

    def _noisy(self, x: Any) -> Any:
        import torch

        return (x + torch.rand(x.shape, device=x.device)) / 128 - 1


def race(runs: dict[str, Callable[[], Any]], options: argparse.Namespace) -> dict[str, list]:
    """Milliseconds of each run in each round."""
    import torch

    on_gpu = options.device == "cuda"
    now = time.process_time if options.threads == 1 and not on_gpu else time.perf_counter
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            if on_gpu:
                torch.cuda.synchronize()
            began = now()
            run()
            if on_gpu:
                torch.cuda.synchronize()
            times[name].append(1e3 * (now() - began))
    return times


def _sides(channels: int, options: argparse.Namespace, side: int = 28) -> dict[str, Any]:
    found: dict[str, Any] = {"steadyflow": Ours(channels, side, options.device)}
    official = _official(options, channels, side)
    return found | ({"official": official} if official else {})


def _official(options: argparse.Namespace, channels: int, side: int) -> Official | None:
    if options.official is None:
        return None
    spec = importlib.util.spec_from_file_location("official_tarflow", options.official)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Official(module, channels, side, options.device)


def _step(built: Any, batch: int, setting: str, device: str) -> Callable[[], Any]:
    """A step of training."""
    import torch

    x = _pixels(batch, 28, device)
    optimizer = torch.optim.AdamW(built.model.parameters(), lr=1e-4, fused=True)
    loss = torch.compile(built.loss) if "compile" in setting else built.loss

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled="bf16" in setting):
            value = loss(x)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return step


def _sampling(side: int, channels: int, n: int, options: argparse.Namespace) -> str:
    runs = {
        name: functools.partial(built.sample, n)
        for name, built in _sides(channels, options, side).items()
    }
    name = f"{channels} channels, {(side // PATCH) ** 2} tokens, {n} images"
    return _row(name, race(runs, options))


def _memory(side: str, channels: int, options: argparse.Namespace) -> float:
    """Megabytes that three steps of training add to those of a new process."""
    if options.device == "cuda":
        return _measure_memory(side, channels, options)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure_memory, (side, channels, options))


def _measure_memory(side: str, channels: int, options: argparse.Namespace) -> float:
    import torch

    torch.set_num_threads(options.threads)
    built = _sides(channels, options)[side]
    step = _step(built, options.batch, "fp32", options.device)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = _most_resident()
    for _ in range(3):
        step()
    return _most_resident() - before


def _most_resident() -> float:
    """The most memory that this process has had, in megabytes (Linux)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 2**10


def _pixels(batch: int, side: int, device: str) -> Any:
    import torch

    return torch.randint(256, (batch, 1, side, side), dtype=torch.uint8, device=device)


def _title(what: str, options: argparse.Namespace) -> str:
    more = " | authors' code | ratio (quartiles) |" if options.official else " |"
    return f"| {what} | steadyflow{more}\n|---|---|" + ("---|---|" if options.official else "")


def _row(name: str, times: dict[str, list[float]]) -> str:
    ours = times["steadyflow"]
    cells = [f"{statistics.median(ours):.1f}"]
    if "official" in times:
        ratios = [b / a for a, b in zip(ours, times["official"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        cells.append(f"{statistics.median(times['official']):.1f}")
        cells.append(f"**{middle:.2f}** ({low:.2f} to {high:.2f})")
    return f"| {name} | " + " | ".join(cells) + " |"


def _machine(options: argparse.Namespace) -> str:
    import torch
    from coupling import machine

    if options.device == "cuda":
        return torch.cuda.get_device_name()
    return f"{machine()}, {options.threads} thread(s)"


if __name__ == "__main__":
    main()
