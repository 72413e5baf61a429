"""Ways through the latents: their ends are real, their middle is where it should be."""

import math

import pytest
import torch

from steadyflow import Flow, RealNVP
from steadyflow.bijections import Scaling
from steadyflow.errors import UsageError
from steadyflow.evaluation import interpolate, slerp


def image_model(**options):
    torch.manual_seed(0)
    model = RealNVP(event_shape=(1, 8, 8), hidden_channels=4, blocks=1, bits=5, **options)
    x = torch.randint(0, 32, (16, 1, 8, 8), dtype=torch.uint8)
    y = torch.arange(16) % 3 if options else None
    with torch.no_grad():
        model.initialize(x, y)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model, x, y


@pytest.mark.parametrize("kind", ["slerp", "linear"])
def test_the_ends_are_the_images_themselves(kind):
    model, x, _ = image_model()
    way = interpolate(model, x[0], x[1], 5, kind=kind)
    assert way.shape == (5, 1, 8, 8)
    assert way.dtype == torch.uint8
    assert torch.equal(way[0], x[0])
    assert torch.equal(way[-1], x[1])
    assert not torch.equal(way[2], x[0])


@pytest.mark.parametrize("one", [False, True])
def test_the_ends_keep_their_classes(one):
    model, x, y = image_model(num_classes=3)
    i, j = (0, 3) if one else (0, 1)
    way = interpolate(model, x[i], x[j], 4, y[i] if one else (y[i], y[j]))
    assert torch.equal(way[0], x[i])
    assert torch.equal(way[-1], x[j])
    with pytest.raises(UsageError, match="needs class labels"):
        interpolate(model, x[0], x[1], 4)


def test_vectors_come_back_to_rounding():
    model = RealNVP(event_shape=(3,), couplings=4, hidden_features=[16])
    x = torch.randn(2, 3)
    way = interpolate(model, x[0], x[1], 7)
    torch.testing.assert_close(way[[0, -1]], x, atol=1e-5, rtol=1e-5)
    assert not way.requires_grad


def test_the_great_circle_keeps_the_length():
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    way = slerp(a, b, torch.linspace(0, 1, 5))
    torch.testing.assert_close(way.norm(dim=1), torch.full((5,), 3.0))
    torch.testing.assert_close(way[2], torch.full((2,), 3 / math.sqrt(2)))


@pytest.mark.parametrize("factor", [2.0, -1.0, 0.0])
def test_parallel_and_opposite_latents_take_the_straight_line(factor):
    a = torch.tensor([1.0, 2.0])
    way = slerp(a, factor * a, torch.linspace(0, 1, 3))
    torch.testing.assert_close(way[1], a * (1 + factor) / 2)


def test_linear_on_the_identity_is_the_middle():
    flow = Flow(Scaling((2,)), (2,))
    way = interpolate(flow, torch.zeros(2), torch.ones(2), 3, kind="linear")
    torch.testing.assert_close(way[1], torch.full((2,), 0.5))


def test_wrong_calls_say_what_is_wrong():
    flow = Flow(Scaling((2,)), (2,))
    a = torch.zeros(2)
    with pytest.raises(UsageError, match="did you mean 'slerp'"):
        interpolate(flow, a, a, 3, kind="slrp")
    with pytest.raises(UsageError, match="at least its 2 ends, got 1"):
        interpolate(flow, a, a, 1)
