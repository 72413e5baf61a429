"""Quality of images: the bundled features tell what pixels do, and FID is another library's."""

import sys
import types

import pytest
import torch

from steadyflow import data
from steadyflow.errors import UsageError
from steadyflow.evaluation import image_quality
from steadyflow.evaluation.features import FEATURES, bundled, features, prepare


@pytest.fixture(scope="module")
def digits():
    return data.open("digits")


def test_features_of_images_of_any_kind(generator):
    x = torch.randint(256, (5, 3, 40, 28), generator=generator, dtype=torch.uint8)
    assert features(x).shape == (5, FEATURES)
    torch.testing.assert_close(features(x.float() / 255), features(x))
    grey = x[:, :1]
    torch.testing.assert_close(features(grey), features(grey.expand(-1, 3, -1, -1)))
    assert prepare(grey).shape == (5, 3, 32, 32)
    assert not bundled().training


def test_features_tell_digits_apart_better_than_chance(digits):
    # a nearest-centroid classifier on features of 8 x 8 digits, which the network never saw
    seen, held = features(digits.train.x, white=16), features(digits.test.x, white=16)
    centres = torch.stack([seen[digits.train.y == c].mean(0) for c in range(10)])
    found = torch.cdist(held, centres).argmin(1)
    assert (found == digits.test.y).float().mean() > 0.8


def test_real_images_are_as_good_as_can_be(digits):
    x = digits.train.x
    found = image_quality(x[:300], x[300:600], x[600:], white=16)
    assert abs(found.features.value) < 4 * found.features.standard_error
    assert abs(found.pixels.value) < 4 * found.pixels.standard_error
    assert found.copies == 0
    assert 0.8 < found.nearest / found.nearest_of_held_out < 1.25
    assert "on features" in str(found)


def test_shuffled_pixels_and_copies_are_seen(digits, generator):
    x = digits.train.x
    turned = x[:700].flip(2)
    found = image_quality(turned, x[700:1400], x, white=16)
    assert found.features.value > 5 * found.features.standard_error
    copied = image_quality(x[:200], x[200:400], x, white=16)
    assert copied.copies == 200
    assert copied.nearest == 0


def test_images_of_two_shapes_are_refused(digits):
    x = digits.train.x
    with pytest.raises(UsageError, match="one shape"):
        image_quality(x, x[:, :, :4], x)


def test_fid_goes_to_the_library(digits, monkeypatch, tmp_path):
    asked = {}

    def calculate_metrics(**given):
        asked.update(given)
        return {"frechet_inception_distance": 12.5}

    library = types.ModuleType("torch_fidelity")
    library.calculate_metrics = calculate_metrics
    monkeypatch.setitem(sys.modules, "torch_fidelity", library)
    weights = tmp_path / "inception.pth"
    weights.write_bytes(b"")
    x = digits.train.x
    found = image_quality(x[:40], x[40:80], x[80:200], white=16, inception=weights)
    assert found.fid == 12.5
    assert asked["feature_extractor_weights_path"] == str(weights)
    one = asked["input1"][0]
    assert one.dtype == torch.uint8
    assert one.shape == (3, 8, 8)
    assert len(asked["input1"]) == len(asked["input2"]) == 40
    with pytest.raises(UsageError, match="no file of Inception weights"):
        image_quality(x[:40], x[40:80], x[80:200], white=16, inception=tmp_path / "none")
