"""The pictures: which are drawn, that they are whole, and that drawing changes nothing else."""

import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

import steadyflow.report
from steadyflow.report import image_grid, write_pictures
from steadyflow.report.gallery import white_of
from steadyflow.report.images import sample_grid, temperature_sweep
from steadyflow.report.mosaic import GAP, enlargement, mosaic, to_rgb
from steadyflow.report.planes import couples
from steadyflow.report.training import has_curve, series, training_curve

ALWAYS = {"latents.png", "reconstruction.png", "training.png"}
OF_IMAGES = {"samples.png", "temperature.png", "interpolation.png", "neighbours.png"}


def test_every_kind_gets_its_pictures_and_they_open(run):
    pictures = write_pictures(run.model(), run.data(), run.folder, metrics=run.metrics())
    own = OF_IMAGES
    if run.data().kind == "vector":
        own = {"density.png" if run.data().event_shape == (2,) else "marginals.png"}
    assert {p.file for p in pictures} == ALWAYS | own
    for picture in pictures:
        with Image.open(run.path(picture.file)) as image:
            assert min(image.size) > 200
            assert np.asarray(image.convert("L")).std() > 5  # something is on it
        assert picture.title
        assert picture.caption.endswith(".")
    assert sorted(p.name for p in run.folder.iterdir()) == sorted(p.file for p in pictures)


@pytest.mark.parametrize("kind", ["images", "plane", "table"])
def test_a_broken_model_still_gets_its_pictures(make, kind):
    run = make(kind)
    with torch.no_grad():
        for parameter in run.model().parameters():
            parameter.fill_(float("nan"))
    files = {p.file for p in write_pictures(run.model(), run.data(), run.folder)}
    assert "reconstruction.png" in files
    assert "latents.png" not in files


def test_drawing_leaves_model_random_state_and_matplotlib_alone(make):
    run = make("labelled images")
    model = run.model().train()
    torch.manual_seed(5)
    before, settings = torch.get_rng_state(), dict(matplotlib.rcParams)
    write_pictures(model, run.data(), run.folder)
    assert torch.equal(before, torch.get_rng_state())
    assert dict(matplotlib.rcParams) == settings
    assert model.training


def test_pyplot_is_never_imported():
    for file in Path(steadyflow.report.__file__).parent.glob("*.py"):
        assert not re.search(r"import.*pyplot|pyplot as", file.read_text(encoding="utf-8"))


def test_the_same_seed_draws_the_same_picture(make, tmp_path):
    run = make("images")
    a, b, c = (
        sample_grid(run.model(), tmp_path / f"{i}.png", rows=2, seed=seed).read_bytes()
        for i, seed in enumerate((0, 0, 1))
    )
    assert a == b != c


def test_a_sweep_shows_one_noise_at_every_temperature(make, tmp_path, monkeypatch):
    run = make("images")
    model, asked = run.model(), []
    sample = model.sample

    def spy(n, context, temperature, generator):
        asked.append((temperature, generator.initial_seed()))
        return sample(n, context, temperature, generator)

    monkeypatch.setattr(model, "sample", spy)
    temperature_sweep(model, tmp_path / "t.png", temperatures=(0.5, 1.0), seed=3)
    assert asked == [(0.5, 3), (1.0, 3)]


def test_a_mosaic_enlarges_by_whole_factors_with_sharp_pixels():
    images = torch.arange(2 * 3 * 4, dtype=torch.uint8).reshape(2, 3, 1, 2, 2) * 10
    factor = enlargement(images)
    pixels = mosaic(images)
    assert pixels.shape == (2 * (2 * factor + GAP) - GAP, 3 * (2 * factor + GAP) - GAP, 3)
    corner = 2 * factor + GAP
    cell = pixels[corner : corner + 2 * factor, : 2 * factor, 0]
    assert (cell[:factor, :factor] == 120).all()
    assert (cell[factor:, factor:] == 150).all()


def test_white_is_the_largest_pixel_of_the_data(make):
    assert white_of(make("images").data()) == 16
    assert white_of(make("plane").data()) is None
    assert to_rgb(torch.tensor([[[16, 8]]], dtype=torch.uint8), 16)[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_any_number_of_channels_and_kind_of_pixel_is_drawn(channels, dtype, tmp_path):
    images = (torch.rand(1, 2, channels, 5, 9) * (255 if dtype == torch.uint8 else 1)).to(dtype)
    path = image_grid(images, tmp_path / "grid.png", title="a", rows=["r"], columns=["1", "2"])
    assert Image.open(path).size[0] > Image.open(path).size[1] / 2


def test_a_training_curve_reads_the_rows_and_marks_skips(tmp_path):
    rows = [
        {"step": 10, "split": "train", "loss": 2.0, "skipped": 0},
        {"step": 20, "split": "train", "loss": float("nan"), "skipped": 3},
        {"step": 20, "split": "validation", "loss": 1.5, "skipped": None},
        {"step": 30, "split": "train", "loss": 1.0, "skipped": 3},
    ]
    steps, losses = series(rows, "train")
    assert (steps.tolist(), losses.tolist()) == ([10, 30], [2.0, 1.0])
    assert has_curve(rows)
    assert not has_curve(rows[:1])
    assert not has_curve([])
    assert training_curve(rows, tmp_path / "t.png", unit="bits").stat().st_size > 5000


def test_couples_stay_within_a_class():
    labels = torch.tensor([0, 1, 1, 0, 1])
    assert couples(5, labels) == [(0, 3), (1, 2)]
    assert couples(5, None) == [(0, 1), (2, 3)]


def test_draws_of_noisy_images_are_shown_without_their_noise(make, tmp_path):
    from steadyflow import TarFlow

    run = make("images")
    model = TarFlow(event_shape=(1, 8, 8), channels=8, blocks=1, sigma=0.1, bits=5)
    pictures = write_pictures(model.eval(), run.data(), tmp_path)
    assert "denoised.png" in [picture.file for picture in pictures]
    assert (tmp_path / "denoised.png").exists()
