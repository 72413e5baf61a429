"""`steadyflow complete`: the missing part of real images, drawn given the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from steadyflow.cli import choices, console
from steadyflow.cli.options import Option
from steadyflow.cli.parsing import Parsed
from steadyflow.errors import UsageError

if TYPE_CHECKING:
    import torch


def groups(words: list[str]) -> dict[str, list[Option]]:
    """The options of the data, for --data."""
    return {"data": choices.data_options()}


def complete(
    run: str,
    *,
    known: Literal["top", "bottom", "left", "right", "border", "half"] = "top",
    share: float = 0.5,
    examples: Sequence[int] = (0, 1, 2, 3, 4, 5, 6, 7),
    draws: int = 2,
    steps: int = 400,
    temperature: float = 1.0,
    seed: int = 0,
    data: str | None = None,
    split: str | None = None,
    out: str | None = None,
    options: Parsed,
) -> dict[str, Any]:
    """Draws the missing part of real images given the part that is known.

    By Langevin dynamics on the model's likelihood, which needs a gradient for each step.

    Args:
        run: a run folder, or a saved model together with --data.
        known: the part that is kept: 'top', 'bottom', 'left' or 'right', the 'border' around a
            missing square, or 'half' of the pixels, at random.
        share: how much of the height or width is known (for 'border': is missing).
        examples: the numbers, from 0, of the images to complete, among the test data.
        draws: how many completions of each.
        steps: of the dynamics; more of them find more likely completions.
        temperature: of its noise; 0 climbs to the nearest mode.
        seed: of the noise; the same seed gives the same completions.
        data: take the examples from here instead of the run's own data.
        split: 'train', 'validation', 'test' or 'all'; the test examples without it.
        out: a .png, .npy or .npz file; completion-KNOWN.png in the run folder without it.
        options: filled in by the command line.
    """
    from steadyflow.cli.manipulate import files_path, write_arrays
    from steadyflow.cli.opened import examples as of_data
    from steadyflow.cli.opened import open_model, some
    from steadyflow.evaluation.completion import complete as fill
    from steadyflow.report.manipulation import completion_grid

    opened = open_model(run)
    if not opened.is_image:
        raise UsageError(f"{run} is a model of vectors: images are completed")
    if not 0 < share < 1 or draws < 1 or steps < 1:
        raise UsageError(
            "share lies between 0 and 1, draws and steps are at least 1, but "
            f"share={share:g}, draws={draws} and steps={steps} were given"
        )
    path = files_path(out or opened.folder / f"completion-{known}.png")
    chosen, _, _ = of_data(opened, data, split, options.given["data"])
    x, y = some(chosen, examples)
    mask = part(known, tuple(x.shape[1:]), share, seed)
    labels = None if y is None else y.repeat(draws)
    with console.progress("completing") as progress:
        filled = fill(
            opened.model,  # type: ignore[arg-type]
            x.repeat(draws, 1, 1, 1),
            mask,
            steps,
            temperature=temperature,
            context=labels,
            seed=seed,
            progress=progress,
        ).cpu()
    filled = filled.unflatten(0, (draws, len(x)))
    if path.suffix == ".png":
        completion_grid(x, mask, filled, path, white=opened.white())
    else:
        write_arrays(path, filled)
    error = float((filled.float() - x.float()).abs().mean() / (~mask).float().mean())
    console.say(f"{len(x)} images completed {draws} times, {known} known: {path}")
    return {
        "run": run,
        "out": str(path),
        "known": known,
        "examples": list(examples),
        "draws": draws,
        "mean_error": error,
    }


def part(known: str, shape: tuple[int, ...], share: float, seed: int) -> torch.Tensor:
    """Which pixels are known: bool, (channels, height, width)."""
    import torch

    _, height, width = shape
    mask = torch.zeros(height, width, dtype=torch.bool)
    rows, columns = round(share * height), round(share * width)
    if known == "half":
        generator = torch.Generator().manual_seed(seed)
        mask = torch.rand(height, width, generator=generator) < share
    elif known == "border":
        top, left = (height - rows) // 2, (width - columns) // 2
        mask = ~mask
        mask[top : top + rows, left : left + columns] = False
    elif known in ("top", "bottom"):
        mask[slice(0, rows) if known == "top" else slice(height - rows, height)] = True
    else:
        mask[:, slice(0, columns) if known == "left" else slice(width - columns, width)] = True
    return mask.expand(shape).clone()
