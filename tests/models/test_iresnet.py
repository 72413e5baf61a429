"""Invertible residual networks: what is promised of bounds, inverses, estimates and labels."""

import json
import math

import pytest
import torch
from torch.testing import assert_close

from steadyflow import IResNet, evaluation
from steadyflow.bijections import Residual
from steadyflow.data import Split
from steadyflow.models.model import GenerativeModel
from steadyflow.networks.lipschitz import LipschitzLayer, check_lipschitz
from steadyflow.solvers import SolverError

SMALL = {"hidden_channels": 8, "blocks": 2, "hidden_features": [16, 16], "dense_blocks": 1}


def image(**options):
    return IResNet(event_shape=[1, 8, 8], **SMALL | {"scales": 2, "bits": 5} | options)


def pixels(n, generator, side=8):
    return torch.randint(32, (n, 1, side, side), generator=generator, dtype=torch.uint8)


def trained(model, x, y=None, steps=30, rate=5e-3):
    """The model after a few steps in a loop that knows nothing of Lipschitz bounds."""
    model.initialize(x, y)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(x, y).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def model():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    return trained(image(coefficient=0.9), pixels(16, generator))


def test_bounds_hold_after_training(model):
    found = check_lipschitz(model)
    assert len(found) == sum(isinstance(m, LipschitzLayer) for m in model.modules()) == 15
    assert all(norm <= c * (1 + 1e-4) for norm, c in found.values())
    assert sum(norm > 0.97 * c for norm, c in found.values()) >= 5, "and some are reached"


@torch.no_grad()
def test_round_trips_of_every_example(model, generator):
    x = pixels(20, generator)
    assert_close(model.decode(model.encode(x)), x, rtol=0, atol=0)
    trip = evaluation.round_trip(model, x)
    assert trip.maximum < 1e-5
    assert trip.exact


@torch.no_grad()
def test_the_likelihood_is_an_unbiased_estimate(model, generator):
    """Of the bound by one dequantisation: 4 standard errors of 200 draws, and exactly computed."""
    y = model.flow.dequantization(pixels(1, generator))[0]
    exact = image(coefficient=0.9, log_det="exact").eval()
    exact.load_state_dict(model.state_dict())
    truth = float(exact.flow.bijection(y)[1])
    draws = model.flow.bijection(y.expand(200, -1, -1, -1))[1].double()
    assert model.likelihood == "estimate"
    assert exact.likelihood == "bound"
    assert abs(float(draws.mean()) - truth) < 4 * float(draws.std()) / math.sqrt(200)


def test_evaluation_says_how_it_estimates(model, generator):
    split = Split(pixels(6, generator), None)
    found = evaluation.evaluate(model, split, draws=3)
    assert "unbiased estimate" in found.meaning
    assert "roulette" in found.meaning
    assert 0 < found.noise_error < found.standard_error
    assert found.round_trip.maximum < 1e-5
    assert evaluation.evaluate(model, split).noise_error is None
    cut = image(log_det="truncated").eval()
    assert all(b.evaluation != "truncated" for b in cut.modules() if isinstance(b, Residual))


def test_a_damaged_bound_is_found_when_loading(tmp_path, generator):
    from safetensors.torch import load_file, save_file

    model = image()
    model.initialize(pixels(8, generator))
    model.save_pretrained(tmp_path / "model")
    assert GenerativeModel.from_pretrained(tmp_path / "model").config == model.config
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    name = next(n for n in weights if n.endswith("layers.2.bound"))
    weights[name] *= 0.5
    weights[name.replace("bound", "weight")] *= 20
    mark = name.replace("bound", "fingerprint")
    weights[mark] *= 20  # as if it had been measured
    save_file(weights, file)
    with pytest.raises(ValueError, match=r"layer '.*layers\.2' has the norm .* above its bound"):
        GenerativeModel.from_pretrained(tmp_path / "model")


def test_a_classifier_learns_and_still_inverts(generator):
    y = torch.arange(60) % 3
    x = (pixels(60, generator) // 4).index_add(
        0, torch.arange(60), (y[:, None, None, None] * 8).to(torch.uint8).expand(60, 1, 8, 8)
    )
    model = image(task="classifier", num_classes=3, padding=1)
    trained(model, x, y, steps=40)
    assert model.likelihood == "none"
    assert (model.classify(x).argmax(1) == y).float().mean() > 0.9
    assert (model.predict_proba(x).argmax(1) == y).float().mean() > 0.9
    assert set(model.metrics()) == {"cross_entropy", "accuracy"}
    found = evaluation.evaluate(model, Split(x, y))
    assert found.accuracy > 0.9
    assert found.log_likelihood is None
    assert found.round_trip.maximum < 1e-5
    assert json.loads(json.dumps(found.to_dict()))["accuracy"] == found.accuracy
    for call in (lambda: model.log_prob(x), lambda: model.sample(2)):
        with pytest.raises(ValueError, match="task='hybrid'"):
            call()


def test_a_hybrid_draws_the_labels_that_are_asked_for(generator):
    centres = torch.tensor([[-3.0, 0.0], [3.0, 0.0]])
    y = torch.arange(200) % 2
    x = centres[y] + 0.3 * torch.randn(200, 2, generator=generator)
    model = IResNet(
        event_shape=[2], num_classes=2, task="hybrid", blocks=4, hidden_features=[16, 16]
    )
    trained(model, x, y, steps=80)
    assert {"cross_entropy", "accuracy", "nats_per_dimension_of_x"} == set(model.metrics())
    asked = torch.tensor([0, 1, 1, 0, 1, 1])
    drawn = model.sample(6, asked)
    assert torch.equal((drawn[:, 0] > 0).long(), asked)
    assert_close(model.log_prob(x, y), model.log_prob(x))
    with pytest.raises(ValueError, match="class label 2 is out of range"):
        model.sample(1, torch.tensor([2]))


def test_implicit_gradients_of_samples(generator):
    model = IResNet(event_shape=[2], blocks=2, hidden_features=[8, 8]).double()
    z = torch.randn(3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = model.flow.bijection[0][1].network.layers[1].bias

    def loss(z):
        x, log_det = model.flow.bijection.inverse(z)
        return (x.sin().sum(1) + log_det).sum()

    of_z, of_weight = torch.autograd.grad(loss(z), (z, weight))
    eps = 1e-6
    for given, grad in ((z, of_z), (weight, of_weight)):
        for i in (0, -1):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    given.view(-1)[i] += sign * eps
                    values.append(loss(z))
                    given.view(-1)[i] -= sign * eps
            finite = (values[0] - values[1]) / (2 * eps)
            assert_close(grad.view(-1)[i], finite, rtol=1e-6, atol=1e-6)


def test_an_inverse_that_does_not_converge_says_which(model, generator):
    x = pixels(3, generator)
    z = model.encode(x)
    for block in model.modules():
        if isinstance(block, Residual):
            block.max_iterations = 2
    try:
        with pytest.raises(SolverError, match=r"block 1 of this iresnet could not be inverted"):
            model.decode(z)
        with pytest.raises(SolverError, match=r"residual is .* Lipschitz bound of 0\."):
            model.decode(z)
    finally:
        for block in model.modules():
            if isinstance(block, Residual):
                block.max_iterations = 1000


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"coefficient": 1.0}, "below 1"),
        ({"coefficient": 0.0}, "above 0"),
        ({"activation": "silu"}, "slopes up to 1.1"),
        ({"activation": "relu"}, "derivative that jumps"),
        ({"activation": "lipswich"}, "did you mean 'lipswish'"),
        ({"task": "classifier"}, "give num_classes"),
        ({"task": "densty"}, "did you mean 'density'"),
        ({"padding": 2}, "no density"),
        ({"norm": "3"}, "unknown norm '3'"),
        ({"log_det": "exakt"}, "did you mean 'exact'"),
        ({"inverse": "newton"}, "unknown fixed-point method"),
        ({"scales": 5}, "even height"),
        ({"class_weight": 0.0, "task": "hybrid", "num_classes": 2}, "class_weight"),
        ({"terms": 0}, "at least 1"),
    ],
)
def test_mistakes_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        image(**options)
