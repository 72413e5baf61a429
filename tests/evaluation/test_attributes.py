"""Attribute directions and image completion, on flows whose answers are known."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from zoo import randomize

from steadyflow import Glow
from steadyflow.bijections import (
    Chain,
    Flatten,
    InvertibleConvolution,
    Shift,
    UniformDequantization,
)
from steadyflow.errors import UsageError
from steadyflow.evaluation.attributes import attribute_direction, attribute_score, manipulate
from steadyflow.evaluation.completion import complete
from steadyflow.flow import Flow


@pytest.fixture
def model(generator):
    tiny = Glow(event_shape=[1, 4, 4], steps=1, hidden_channels=4, bound=1.0).double()
    return randomize(tiny, generator, 0.3)


@pytest.fixture
def groups(generator):
    shape = (32, 1, 4, 4)
    dark = torch.randint(100, shape, generator=generator, dtype=torch.uint8)
    return dark + 120, dark


def test_an_attribute_is_added_and_read(model, groups):
    bright, dark = groups
    direction = attribute_direction(model, bright, dark)
    gap = attribute_score(model, bright, direction) - attribute_score(model, dark, direction)
    assert_close(gap.mean(), torch.tensor(1.0).double(), rtol=0, atol=0.05)
    moved = manipulate(model, dark, direction, [0.0, 1.0])
    assert torch.equal(moved[0], dark)
    assert moved[1].float().mean() > dark.float().mean() + 60


def test_an_empty_group_is_answered(model, groups):
    with pytest.raises(UsageError, match="examples with it"):
        attribute_direction(model, groups[0], groups[1][:0])


def test_classes_of_a_conditional_model(generator, groups):
    model = Glow(event_shape=[1, 4, 4], steps=1, hidden_channels=4, bound=1.0, num_classes=2)
    model = randomize(model.double(), generator, 0.3)
    labels = torch.ones(32, dtype=torch.int64), torch.zeros(32, dtype=torch.int64)
    direction = attribute_direction(model, *groups, labels, batch_size=10)
    whole = attribute_direction(model, *groups, labels)
    assert_close(direction, whole, rtol=1e-10, atol=1e-10)
    assert manipulate(model, groups[1], direction, [0.0], labels[1])[0].equal(groups[1])


def test_completion_keeps_what_is_known_and_climbs(model, groups):
    x = groups[1][:8]
    known = torch.zeros(1, 4, 4, dtype=torch.bool)
    known[:, :2] = True
    start = complete(model, x, known, steps=0)
    filled = complete(model, x, known, steps=100, temperature=0.0)
    assert torch.equal(filled[:, :, :2], x[:, :, :2])
    assert model.log_prob(filled).mean() > model.log_prob(start).mean()
    assert all(p.requires_grad for p in model.parameters())


class Pair(nn.Module):
    """Two pixels of correlation 0.8 and standard deviation 0.1: the conditional is known."""

    num_classes = context_features = None

    def __init__(self):
        super().__init__()
        mix = InvertibleConvolution(2, "full").double()
        spread = 0.1 * torch.linalg.cholesky(torch.tensor([[1, 0.8], [0.8, 1]]).double())
        mix.matrix.weight = nn.Parameter(torch.linalg.inv(spread))
        chain = Chain(Shift(-0.5), mix, Flatten((2, 1, 1)))
        self.flow = Flow(chain, (2, 1, 1), dequantization=UniformDequantization(8)).double()
        self.dequantization = self.flow.dequantization

    def condition(self, context, batch):
        return None


def test_completions_are_draws_of_the_conditional():
    n, known = 600, torch.tensor([True, False]).reshape(2, 1, 1)
    x = torch.full((n, 2, 1, 1), 166, dtype=torch.uint8)  # 1.5 standard deviations above the mean
    filled = complete(Pair(), x, known, steps=300)
    missing = (filled[:, 1].double() + 0.5) / 256
    error = 0.1 * 0.6 / n**0.5
    assert abs(float(missing.mean()) - (0.5 + 0.8 * (166.5 / 256 - 0.5))) < 4 * error
    assert float(missing.std()) == pytest.approx(0.06, rel=0.15)


def test_a_wrong_mask_is_answered(model, groups):
    with pytest.raises(ValueError, match="bool tensor of shape"):
        complete(model, groups[0], torch.ones(4, 4))
    real = Glow(event_shape=[1, 4, 4], steps=1, hidden_channels=4, bits=0)
    with pytest.raises(ValueError, match="integer images"):
        complete(real, torch.zeros(2, 1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool))
