"""`steadyflow interpolate`: the way from one real example to another, through the latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyflow.cli import choices, console
from steadyflow.cli.options import Option
from steadyflow.cli.parsing import Parsed
from steadyflow.errors import UsageError

if TYPE_CHECKING:
    import torch

    from steadyflow.cli.opened import Opened
    from steadyflow.data import Split


def groups(words: list[str]) -> dict[str, list[Option]]:
    """The options of the data, for --data."""
    return {"data": choices.data_options()}


def interpolate(
    run: str,
    *,
    from_: str = "0",
    to: str = "1",
    steps: int = 11,
    way: str = "slerp",
    data: str | None = None,
    split: str | None = None,
    out: str | None = None,
    options: Parsed,
) -> dict[str, Any]:
    """Goes from one real example to another through the latents.

    The two ends are the examples themselves, or what an autoencoder makes of them; what lies
    between shows what the model has learned.

    Args:
        run: a run folder, or a saved model together with --data or two image files.
        from_: an example's number in the test data, from 0, or an image file.
        to: the same for the other end.
        steps: how many, the two ends among them.
        way: 'slerp' (along a sphere) or 'linear'.
        data: take the examples from here instead of the run's own data.
        split: 'train', 'validation', 'test' or 'all'; the test examples without it.
        out: a .png, .npy, .npz or .csv file, or a folder for one image file each;
            interpolation-FROM-TO.png or .csv in the run folder without it.
        options: filled in by the command line.
    """
    from steadyflow.cli import files
    from steadyflow.cli.opened import examples, open_model
    from steadyflow.evaluation import interpolate as through_latents

    opened = open_model(run)
    name = f"interpolation-{Path(from_).stem}-{Path(to).stem}"
    default = opened.folder / f"{name}.{'png' if opened.is_image else 'csv'}"
    path = files.check_ending(out or default, opened.is_image, opened.model.dimensions)
    numbers = [end for end in (from_, to) if end.isdecimal()]
    split_of = examples(opened, data, split, options.given["data"])[0] if numbers else None
    (a, label_a), (b, label_b) = (_end(opened, split_of, end) for end in (from_, to))
    labels = None if opened.model.num_classes is None else (label_a, label_b)
    if labels is not None and None in labels:
        raise UsageError(f"{run} needs a class for each end: give examples by number, with labels")
    x = through_latents(opened.model, a, b, steps, labels, kind=way)  # type: ignore[arg-type]
    written = files.Examples(
        x.cpu().numpy(),
        white=opened.white(),
        columns=opened.record().get("columns"),
        across=steps,
    )
    files.write(path, written)
    console.say(f"{steps} steps from {from_} to {to}: {path}")
    return {"run": run, "out": str(path), "from": from_, "to": to, "steps": steps, "way": way}


def _end(
    opened: Opened, split: Split | None, end: str
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One example and its label."""
    if split is None or not end.isdecimal():
        return _image(opened, end), None
    if int(end) >= len(split):
        raise UsageError(f"there is no example {end}: there are {len(split)}, counted from 0")
    return split.x[int(end)], None if split.y is None else split.y[int(end)]


def _image(opened: Opened, name: str) -> torch.Tensor:
    """An image file, scaled and cropped to the model's size as `data.open` does."""
    import torch

    from steadyflow.data.images import decode
    from steadyflow.evaluation.access import bits_of

    path = Path(name).expanduser()
    if not opened.is_image or not path.is_file():
        expected = "an example's number" + (" or an image file" if opened.is_image else "")
        raise UsageError(f"'{name}' was given, but {expected} is expected")
    bits = bits_of(opened.model) or 8
    channels, height, width = opened.model.event_shape
    return torch.from_numpy(decode(path, (channels, height, width)) >> (8 - bits))
