"""Draws the pictures of the documentation anew, each by the commands that its page names.

    python docs/gallery.py                                 those that need no other data
    python docs/gallery.py --data path/to/data             all; a folder with mnist/ and so on
    python docs/gallery.py --only explore.png --share 0.1  a tenth of the training time

A picture whose data or library is missing, and one that no recipe draws, is named at the end.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

SOURCES = {
    "mnist": "mnist",
    "sts": "sts",
    "cifar": "cifar10_subset/cifar10_subset.npz",
    "faces": "faces/lfw_faces_gray_64.npz",
}
IMAGES = Path(__file__).resolve().parent / "images"

# {minutes:N} and {steps:N} are so much training, {mnist} and the other SOURCES data, {run} is a
# folder of the recipe's own, {out} where the picture goes. They are words of `steadyflow`, unless
# they begin with 'python' or 'copy'
COMMANDS: dict[tuple[str, ...], list[str]] = {
    ("nice-mnist.png",): [
        "train nice {mnist} --minutes {minutes:15} --hidden-features 1000 --hidden-layers 3 "
        "--learning-rate 3e-3 --batch-size 128 --precision bf16-mixed --validate-every 2000 "
        "--no-report --run {run}",
        "sample {run} -n 40 --temperature 0.7 --out {out}/nice-mnist.png",
    ],
    ("realnvp-mnist.png", "realnvp-mnist-interpolation.png"): [
        "train realnvp {mnist} --minutes {minutes:15} --alpha 1e-6 --learning-rate 3e-3 "
        "--batch-size 64 --precision bf16-mixed --validate-every 2000 --no-report --run {run}",
        "sample {run} -n 40 --temperature 0.9 --out {out}/realnvp-mnist.png",
        "interpolate {run} --out {out}/realnvp-mnist-interpolation.png",
    ],
    ("glow-mnist.png", "glow-mnist-interpolation.png"): [
        "train glow {mnist} --minutes {minutes:14} --levels 2 --model-steps 8 "
        "--hidden-channels 64 --alpha 1e-6 --learning-rate 3e-3 --batch-size 64 "
        "--precision bf16-mixed --validate-every 1000 --no-report --run {run}",
        "sample {run} -n 40 --temperature 0.9 --out {out}/glow-mnist.png",
        "interpolate {run} --out {out}/glow-mnist-interpolation.png",
    ],
    (
        "glow-digits-attribute.png",
        "glow-digits-completion.png",
        "glow-digits-temperature.png",
        "glow-digits-interpolation.png",
    ): [
        "train glow digits --minutes {minutes:1.4} --levels 2 --model-steps 6 "
        "--hidden-channels 48 --learning-rate 3e-3 --batch-size 64 --validate-every 100 "
        "--no-report --run {run}",
        "manipulate {run} --with 8 --without 3 --examples 0 10 20 30 40 50 "
        "--strengths -1 -0.5 0 0.5 1 1.5 --out {out}/glow-digits-attribute.png",
        "complete {run} --known top --draws 3 --examples 0 1 2 3 4 5 6 7 8 9 "
        "--out {out}/glow-digits-completion.png",
        "sample {run} --sweep 0.5 0.7 0.8 0.9 1 --out {out}/glow-digits-temperature.png",
        "interpolate {run} --from 3 --to 8 --out {out}/glow-digits-interpolation.png",
    ],
    ("glow-faces.png",): [
        "train glow {faces} --bits 5 --minutes {minutes:4} --levels 4 --model-steps 4 "
        "--hidden-channels 64 --reversible False --learning-rate 1e-3 --batch-size 32 "
        "--precision bf16-mixed --validate-every 1000 --no-report --run {run}",
        "interpolate {run} --out {out}/glow-faces.png",
    ],
    ("iresnet-checkerboard.png",): [
        "train iresnet checkerboard --steps {steps:6000} --blocks 10 --hidden-features 64 64 "
        "--learning-rate 1e-2 --run {run}",
        "copy {run}/density.png {out}/iresnet-checkerboard.png",
    ],
    ("iresnet-eight-gaussians.png",): [
        "train iresnet eight-gaussians --steps {steps:1500} --blocks 10 --hidden-features 64 64 "
        "--learning-rate 1e-2 --run {run}",
        "copy {run}/density.png {out}/iresnet-eight-gaussians.png",
    ],
    ("iresnet-mnist.png",): [
        "train iresnet {mnist} --minutes {minutes:20} --alpha 1e-6 --scales 3 --blocks 3 "
        "--hidden-channels 32 --dense-blocks 2 --learning-rate 2e-3 --batch-size 32 "
        "--validation 0.01 --validate-every 1000 --no-report --run {run}",
        "sample {run} -n 40 --temperature 0.9 --out {out}/iresnet-mnist.png",
    ],
    ("tarflow-mnist.png",): [
        "sample mnist-tarflow -n 60 --temperature 0.9 --guidance 0.5 "
        "--out {out}/tarflow-mnist.png",
    ],
    ("tarflow-denoising.png",): [
        "train tarflow {mnist} --conditional --minutes {minutes:6} --patch-size 4 --channels 64 "
        "--blocks 4 --layers-per-block 4 --sigma 0.1 --validation 0.02 --learning-rate 2e-3 "
        "--betas 0.9 0.95 --warmup 100 --batch-size 128 --precision bf16-mixed --no-report "
        "--run {run}",
        'python -c "from steadyflow import load; from steadyflow.report.images import denoising; '
        "denoising(load('{run}'), '{out}/tarflow-denoising.png')\"",
    ],
    ("fvae-digits.png", "fvae-digits-interpolation.png"): [
        "python benchmarks/autoencoders.py digits --minutes {minutes:1.2} --batch-size 64 "
        "--models fvae --out {run}",
        "copy {run}/fvae-samples-0.8.png {out}/fvae-digits.png",
        "copy {run}/fvae-interpolation.png {out}/fvae-digits-interpolation.png",
    ],
    (
        "fvae-mnist.png",
        "fvae-mnist-interpolation.png",
        "fvae-mnist-vae.png",
        "fvae-mnist-glow.png",
    ): [
        "python benchmarks/autoencoders.py {mnist} --minutes {minutes:15} --batch-size 64 "
        "--precision bf16-mixed --limit 1000 --out {run}",
        "copy {run}/fvae-samples-1.png {out}/fvae-mnist.png",
        "copy {run}/fvae-interpolation.png {out}/fvae-mnist-interpolation.png",
        "copy {run}/vae-samples-1.png {out}/fvae-mnist-vae.png",
        "copy {run}/glow-samples-1.png {out}/fvae-mnist-glow.png",
    ],
    (
        "fvae-cifar-vae.png",
        "fvae-cifar-fvae.png",
        "fvae-cifar-glow.png",
        "fvae-cifar-interpolation.png",
    ): [
        "python benchmarks/autoencoders.py {cifar} --minutes {minutes:15} --batch-size 64 "
        "--precision bf16-mixed --limit 1000 --draws 8 --out {run}",
        "copy {run}/vae-samples-1.png {out}/fvae-cifar-vae.png",
        "copy {run}/fvae-samples-1.png {out}/fvae-cifar-fvae.png",
        "copy {run}/glow-samples-1.png {out}/fvae-cifar-glow.png",
        "copy {run}/fvae-interpolation.png {out}/fvae-cifar-interpolation.png",
    ],
    ("energy-grid.png",): [
        "python benchmarks/energy.py --steps {steps:800} --sets grid --pictures {run}",
        "copy {run}/grid.png {out}/energy-grid.png",
    ],
    ("energy-spirals.png",): [
        "python benchmarks/energy.py --steps {steps:500} --sets spirals "
        "--models mutual-information exact+likelihood --pictures {run}",
        "copy {run}/spirals.png {out}/energy-spirals.png",
    ],
    ("embeddings-sts.png",): [
        "sts {sts}/stsb-en.tsv.gz --more {sts}/sts12-16.tsv.gz --encoder all-MiniLM-L6-v2 "
        "--pooling mean first-last cls layers:2,3 --chart {out}/embeddings-sts.png "
        "--methods raw center zscore whiten whiten:256 whiten:128 zca oas:0.9 soft half:128 "
        "rotate:128 abtt flow:128 --flow-steps 500",
    ],
    ("fvae-moons.png",): [
        "train fvae moons --steps {steps:600} --run {run}",
        "copy {run}/density.png {out}/fvae-moons.png",
    ],
    ("maf-moons.png",): [
        "train maf moons --steps {steps:1500} --run {run}",
        "copy {run}/density.png {out}/maf-moons.png",
    ],
    ("spline-flow-moons.png",): [
        "train spline-flow moons --steps {steps:2000} --batch-size 512 --run {run}",
        "copy {run}/density.png {out}/spline-flow-moons.png",
    ],
    ("spline-flow-checkerboard.png",): [
        "train spline-flow checkerboard --n 50000 --steps {steps:3000} --batch-size 512 "
        "--run {run}",
        "copy {run}/density.png {out}/spline-flow-checkerboard.png",
    ],
    ("embeddings-spectrum.png",): [
        "sts {sts}/stsb-en.tsv.gz --encoder all-MiniLM-L6-v2 --pooling mean first-last cls "
        "layers:2,3 --methods raw --spectrum {out}/embeddings-spectrum.png",
    ],
    ("diffusion-digits.png",): [
        "train diffusion digits --conditional --steps {steps:900} --hidden-channels 16 "
        "--learning-rate 3e-3 --batch-size 128 --validate-every 200 --no-report --run {run}",
        "sample {run} -n 40 --out {out}/diffusion-digits.png",
    ],
    ("flow-matching-mnist.png",): [
        "train flow-matching {mnist} --conditional --minutes {minutes:13} --hidden-channels 16 "
        "--learning-rate 2e-3 --batch-size 64 --precision bf16-mixed --validate-every 1000 "
        "--no-report --run {run}",
        "sample {run} -n 60 --steps 15 --out {out}/flow-matching-mnist.png",
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="folder with mnist/, sts/, cifar10_subset/ and faces/"
    )
    parser.add_argument("--only", nargs="+", help="names of pictures")
    parser.add_argument("--share", type=float, default=1.0, help="of the training time")
    parser.add_argument("--out", type=Path, default=IMAGES)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    left = {}
    recipes: dict[tuple[str, ...], list[str] | Callable] = {**COMMANDS, **DRAWN}
    for names, recipe in recipes.items():
        if options.only and not set(names) & set(options.only):
            continue
        print(", ".join(names), flush=True)
        try:
            if callable(recipe):
                recipe(options.out, options.share)
            else:
                run(recipe, options)
        except (OSError, ImportError, LookupError, subprocess.CalledProcessError) as error:
            left |= dict.fromkeys(names, str(error))
    known = {name for names in recipes for name in names}
    drawn = {path.name for path in IMAGES.iterdir()}
    for name in sorted(drawn - known if not options.only else ()):
        left[name] = "no recipe"
    for name, why in left.items():
        print(f"not drawn: {name} ({why})")


def run(commands: list[str], options: argparse.Namespace) -> None:
    """The commands of one recipe, in a folder that is gone afterwards."""

    class Minutes:
        def __format__(self, most: str) -> str:
            return f"{options.share * float(most):g}"

    class Steps:
        def __format__(self, most: str) -> str:
            return str(max(1, int(options.share * float(most))))

    with tempfile.TemporaryDirectory() as folder:
        for command in commands:
            if options.data is None and any(f"{{{name}}}" in command for name in SOURCES):
                raise FileNotFoundError("needs --data")
            line = command.format(
                **{n: options.data and options.data.resolve() / p for n, p in SOURCES.items()},
                run=Path(folder) / "run",
                out=options.out.resolve(),
                minutes=Minutes(),
                steps=Steps(),
            )
            verb, *rest = shlex.split(line)
            if verb == "copy":
                shutil.copy(*rest)
                continue
            words = rest if verb == "python" else ["-m", "steadyflow", verb, *rest]
            root = IMAGES.parent.parent
            subprocess.run(
                [sys.executable, *words], check=True, stdout=subprocess.DEVNULL, cwd=root
            )


def flow(out: Path, share: float) -> None:
    """Eight Gaussians: to noise and back, as a strip and moving; the density beside the exact."""
    import steadyflow
    from steadyflow.analytic import eight_gaussians

    torch.manual_seed(0)
    mixture = eight_gaussians(radius=4.0, variance=0.15)
    data = mixture.sample(20_000).float()
    model = steadyflow.fit(
        "flow-matching",
        data.numpy(),
        steps=max(10, int(8000 * share)),
        learning_rate=3e-3,
        progress=False,
        model_options={"hidden_features": [128, 128, 128]},
    ).model
    _strip(model, data[:2000], out)
    _density(model, mixture, out)


@torch.no_grad()
def _strip(model, x: torch.Tensor, out: Path) -> None:
    import io

    import numpy as np
    from matplotlib.figure import Figure
    from PIL import Image

    from steadyflow.solvers import trajectory

    ode = model.ode
    times = torch.linspace(0, 1, 41, dtype=torch.float64)
    angles = model.path.angle(times).clamp(ode.t0, ode.t1).tolist()

    def field(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return ode.field(t, u)

    first = model.shrinking(model.normalization(x)[0])[0]
    there = trajectory(field, first, angles)
    noise = model.flow.base.sample(len(x))
    back = trajectory(field, noise, angles[::-1])
    sizes = model.path.size(times).float()
    there, back = there * sizes[:, None, None], back * sizes.flip(0)[:, None, None]
    hues = [torch.atan2(points[:, 1], points[:, 0]) for points in (x - x.mean(0), back[-1])]

    def draw(axes, points: torch.Tensor, hue: torch.Tensor, title: str) -> None:
        axes.scatter(*points.T, c=hue, cmap="hsv", s=1.5, linewidths=0)
        axes.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), xticks=[], yticks=[], aspect="equal")
        axes.set_title(title, fontsize=8)

    figure = Figure(figsize=(8, 3.5), dpi=100, layout="constrained")
    grid = figure.subplots(2, 5)
    for row, (points, hue, clock) in enumerate(
        ((there, hues[0], times), (back, hues[1], times.flip(0)))
    ):
        for axes, i in zip(grid[row], range(0, 41, 10), strict=True):
            draw(axes, points[i], hue, f"t = {clock[i]:.2f}")
    grid[0][0].set_ylabel("data to noise", fontsize=8)
    grid[1][0].set_ylabel("noise to data", fontsize=8)
    figure.savefig(out / "flow-matching-strip.png")
    frames = []
    for points, hue, clock in ((there, hues[0], times), (back, hues[1], times.flip(0))):
        for i in range(0, 41, 2):
            frame = Figure(figsize=(3, 3.2), dpi=80, layout="constrained")
            draw(frame.add_subplot(), points[i][:1000], hue[:1000], f"t = {clock[i]:.2f}")
            file = io.BytesIO()
            frame.savefig(file)
            frames.append(Image.open(file).convert("P", palette=Image.Palette.ADAPTIVE, colors=64))
    still = np.repeat([80], len(frames))
    still[[0, len(frames) // 2 - 1, -1]] = 900
    frames[0].save(
        out / "flow-matching.gif",
        save_all=True,
        append_images=frames[1:],
        duration=still.tolist(),
        loop=0,
        optimize=True,
    )


@torch.no_grad()
def _density(model, mixture, out: Path) -> None:
    from matplotlib.figure import Figure

    line = torch.linspace(-5.5, 5.5, 161)
    points = torch.cartesian_prod(line, line)
    exact = mixture.log_prob(points.double()).exp().view(161, 161)
    learned = torch.cat([model.log_prob(part) for part in points.split(4000)]).exp().view(161, 161)
    figure = Figure(figsize=(6.4, 3.4), dpi=100, layout="constrained")
    for axes, values, title in zip(
        figure.subplots(1, 2), (exact, learned), ("exact density", "flow matching"), strict=True
    ):
        axes.imshow(values.T, origin="lower", vmin=0, vmax=float(exact.max()), cmap="viridis")
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize=9)
    figure.savefig(out / "flow-matching-density.png")


def explorer(out: Path, share: float) -> None:
    """The page of `steadyflow explore` in headless Chromium."""
    import time
    import urllib.request

    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser and driver):
        raise FileNotFoundError("needs chromium and chromedriver")
    words = [sys.executable, "-m", "steadyflow", "explore", "digits-realnvp", "--no-browser"]
    process = subprocess.Popen(
        [*words, "--port", "7951"], stdout=subprocess.DEVNULL, env={**os.environ}
    )
    address = "http://127.0.0.1:7951/"

    def until(ready: Callable):
        for _ in range(400):
            try:
                if found := ready():
                    return found
            except OSError:
                pass
            time.sleep(0.3)
        raise LookupError("the page did not come")

    try:
        until(lambda: urllib.request.urlopen(address, timeout=2))
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1150,1180"):
            options.add_argument(word)
        page = webdriver.Chrome(options=options, service=Service(driver))
        page.get(address)
        until(lambda: page.find_elements("id", "draw"))
        tabs = page.find_elements("css selector", "button[role=tab]")
        next(tab for tab in tabs if tab.text == "Mix two images").click()
        until(lambda: page.find_elements("id", "mix"))[0].click()
        until(lambda: page.find_elements("css selector", "#way img[src]"))
        page.execute_script("window.scrollTo(0, 430)")
        time.sleep(1)
        page.save_screenshot(str(out / "explore.png"))
        page.quit()
    finally:
        process.terminate()
        process.wait(30)


DRAWN: dict[tuple[str, ...], Callable] = {
    ("flow-matching-strip.png", "flow-matching.gif", "flow-matching-density.png"): flow,
    ("explore.png",): explorer,
}

if __name__ == "__main__":
    main()
