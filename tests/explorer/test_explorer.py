"""What a person can do with a trained model, without the page; and that the gradio page builds."""

import numpy as np
import pytest
import torch

import steadyflow
from steadyflow import data
from steadyflow.data.attributes import ATTRIBUTES
from steadyflow.errors import UsageError
from steadyflow.explorer import Explorer


@pytest.fixture(scope="module")
def digits():
    dataset = data.open("digits")
    model = steadyflow.load("digits-realnvp")
    return Explorer(model, dataset, white=16.0, classes=dataset.classes)


def test_draws_are_seeded_and_of_their_class(digits):
    x = digits.draw(6, 0.8, "7", seed=3)
    assert x.shape == (6, 1, 8, 8)
    assert torch.equal(x, digits.draw(6, 0.8, "7", seed=3))
    assert digits.picture(x).ndim == 3
    with pytest.raises(UsageError, match="unknown class"):
        digits.draw(1, 1.0, "seven")


def test_an_image_is_read_back_as_it_was_shown(digits):
    for i in range(20):
        shown, label = digits.example(i)
        assert torch.equal(digits.read(shown), digits.dataset.test.x[i])
        assert label == digits.classes[int(digits.dataset.test.y[i])]
    photo = np.random.default_rng(0).integers(256, size=(37, 61, 3), dtype=np.uint8)
    assert digits.read(photo).shape == (1, 8, 8)
    with pytest.raises(UsageError, match="choose an image"):
        digits.read(None)


def test_mixing_begins_and_ends_with_the_two_images(digits):
    (first, a), (second, b) = digits.example(0), digits.example(1)
    start, way = digits.mix(first, second, 0.0, (a, b))
    end, _ = digits.mix(first, second, 1.0, (a, b))
    assert torch.equal(digits.read(start), digits.read(first))
    assert torch.equal(digits.read(end), digits.read(second))
    assert way.shape[1] > 5 * way.shape[0]
    with pytest.raises(UsageError, match="class of each image"):
        digits.mix(first, second, 0.5)


def test_attributes_move_what_they_measure(digits):
    assert digits.attributes == list(ATTRIBUTES)
    image, label = digits.example(4)
    dim, bright = (
        digits.read(digits.move(image, "brightness", s, label)).float().mean() for s in (-0.7, 0.7)
    )
    assert dim < bright


def test_the_likelihood_is_that_of_the_model(digits):
    image, label = digits.example(2)
    said, shares = digits.likelihood(digits.read(image), label)
    assert "nats** (a bound)" in said
    assert "of 180 test examples" in said
    assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
    assert max(shares, key=shares.get) == label
    whole, _ = digits.likelihood(digits.read(image))
    assert float(whole[2:].split()[0]) < float(said[2:].split()[0]) + 1e-6


def test_vectors_and_models_without_data():
    explorer = Explorer(steadyflow.load("moons-spline-flow"))
    assert explorer.attributes == []
    assert explorer.draw(5).shape == (5, 2)
    x = torch.tensor([0.3, 0.2])
    said, shares = explorer.likelihood(x)
    with torch.no_grad():
        exact = float(explorer.model.log_prob(x[None]))
    assert said.startswith(f"**{exact:.2f} nats** (exact)")
    assert shares == {}


@pytest.mark.parametrize("name", ["digits-realnvp", "moons-spline-flow"])
def test_the_page_builds(name, digits):
    pytest.importorskip("gradio", reason="needs gradio: pip install 'steadyflow[explore]'")
    from steadyflow.explorer.page import build

    explorer = digits if name.startswith("digits") else Explorer(steadyflow.load(name))
    shown = str(build(explorer, name).get_config_file())
    assert "Likelihood" in shown
    assert ("Mix two images" in shown) == name.startswith("digits")


def test_slant_width_and_ink():
    upright = torch.zeros(1, 1, 9, 9)
    upright[0, 0, 1:8, 4] = 1
    leaning = torch.zeros(1, 1, 9, 9)
    for row in range(1, 8):
        leaning[0, 0, row, 8 - row] = 1  # the top is on the right
    assert ATTRIBUTES["slant"](leaning) > 0.9
    assert abs(ATTRIBUTES["slant"](upright)) < 1e-6
    assert ATTRIBUTES["width"](leaning) > ATTRIBUTES["width"](upright)
    assert ATTRIBUTES["ink"](upright) == 7
    assert ATTRIBUTES["brightness"](torch.full((1, 1, 3, 3), 5.0)) == 5
