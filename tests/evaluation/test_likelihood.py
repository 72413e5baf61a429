"""`evaluate` against closed forms, and what it says in words."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from steadyflow import Flow, RealNVP
from steadyflow.bases import Base, DiagonalNormal
from steadyflow.bijections import Scaling, UniformDequantization
from steadyflow.errors import UsageError
from steadyflow.evaluation import Evaluation, evaluate, log_likelihoods
from steadyflow.evaluation.wording import measured


class Uniform(Base):
    """Density 1 on the unit cube."""

    def log_prob(self, z, context=None):
        inside = ((z >= 0) & (z <= 1)).flatten(1).all(1)
        return torch.where(inside, 0.0, -math.inf)

    def sample(self, n, context=None, temperature=1.0, generator=None):
        return self._uniform(n, generator)


def split(x, y=None):
    return SimpleNamespace(x=x, y=y)


def uniform_pixels(bits=8, shape=(1, 4, 4)):
    return Flow(Scaling(shape), shape, Uniform(shape), UniformDequantization(bits))


def pixels(n=50, bits=8, shape=(1, 4, 4)):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 2**bits, (n, *shape), generator=generator, dtype=torch.uint8)


def gaussian(mean, std):
    flow = Flow(Scaling((2,)), (2,), DiagonalNormal((2,)))
    with torch.no_grad():
        flow.base.mean.fill_(mean)
        flow.base.log_std.fill_(math.log(std))
    return flow


def test_a_known_gaussian_has_its_own_entropy():
    flow = gaussian(1.0, 0.5)
    x = 1 + 0.5 * torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    found = evaluate(flow, split(x), where="a Gaussian")
    entropy = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.5))
    assert abs(found.log_likelihood + entropy) < 4 * found.standard_error
    # each variable's log-density has variance 1/2, two of them 1
    assert found.standard_error == pytest.approx(1 / math.sqrt(4000), rel=0.1)
    assert found.nats_per_dimension == pytest.approx(-found.log_likelihood / 2)
    assert found.bits_per_dimension == pytest.approx(found.nats_per_dimension / math.log(2))
    assert found.likelihood == "exact"
    assert "exact" in found.meaning
    assert found.density_nats is None
    assert found.round_trip.maximum < 1e-6


@pytest.mark.parametrize("bits", [8, 3])
def test_uniform_pixels_cost_exactly_their_bits(bits):
    found = evaluate(uniform_pixels(bits), split(pixels(bits=bits)), batch_size=7)
    assert found.bits_per_dimension == pytest.approx(bits, abs=1e-6)
    assert found.bits_per_dimension_error == pytest.approx(0, abs=1e-6)
    assert found.density_nats == pytest.approx(0, abs=1e-4)
    assert found.likelihood == "bound"
    assert "lower bound" in found.meaning
    assert "1 noise draw per image" in found.meaning


def test_more_draws_tighten_a_bound():
    shape = (1, 2, 2)
    flow = Flow(Scaling(shape), shape, DiagonalNormal(shape), UniformDequantization(1))
    with torch.no_grad():
        flow.base.log_std.fill_(-1.5)
    x = pixels(200, 1, shape)
    few, many = (evaluate(flow, split(x), draws=k) for k in (1, 300))
    assert many.log_likelihood > few.log_likelihood + 0.5
    assert "importance-weighted over 300 noise draws per image" in many.meaning
    # in the limit it is the mass of each bin: P(0) = Phi(b) - Phi(0), P(1) = Phi(2b) - Phi(b)
    b = torch.tensor(0.5 * math.exp(1.5), dtype=torch.float64)
    mass = [torch.special.ndtr(b) - 0.5, torch.special.ndtr(2 * b) - torch.special.ndtr(b)]
    ones = x.double().mean()
    truth = 4 * float((1 - ones) * mass[0].log() + ones * mass[1].log())
    assert many.log_likelihood == pytest.approx(truth, abs=0.1)
    assert many.log_likelihood < truth


def test_the_same_seed_gives_the_same_numbers_and_leaves_the_random_state_alone():
    torch.manual_seed(3)
    model = RealNVP(event_shape=(1, 4, 4), hidden_channels=4, blocks=1).train()
    x = pixels()
    before = torch.get_rng_state()
    one, again, other = (evaluate(model, split(x), seed=s) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert one.log_likelihood == again.log_likelihood != other.log_likelihood
    assert model.training
    assert all(module.training for module in model.modules())


def test_labels_are_the_context_of_a_conditional_model():
    model = RealNVP(event_shape=(2,), num_classes=3, couplings=2, hidden_features=[8])
    x, y = torch.randn(30, 2), torch.arange(30) % 3
    found = evaluate(model, split(x, y), limit=9)
    rows = torch.arange(9) * 30 // 9
    with torch.no_grad():
        each = model.log_prob(x[rows], y[rows])
    assert found.log_likelihood == pytest.approx(float(each.mean()), rel=1e-5)
    assert found.worst[0] == int(rows[each.argmin()])
    assert "given its class" in found.meaning
    with pytest.raises(UsageError, match="needs class labels"):
        evaluate(model, split(x))


def test_a_value_that_is_not_finite_is_never_averaged_away():
    flow = gaussian(0.0, 1.0)
    x = torch.zeros(10, 2)
    x[4] = math.inf
    found = evaluate(flow, split(x))
    assert (found.log_likelihood, found.non_finite, found.worst[0]) == (None, 1, 4)
    assert "not finite for 1" in str(found)


def test_it_is_plain_json_and_comes_back():
    found = evaluate(uniform_pixels(), split(pixels()), where="noise")
    again = Evaluation.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again == found
    with pytest.raises(ValueError, match="not an evaluation"):
        Evaluation.from_dict({"model": "x"})


def test_the_printed_block_says_what_a_reader_needs():
    text = str(evaluate(uniform_pixels(), split(pixels()), where="noise"))
    for words in ("noise: 50 examples", "nats (bound)", "bits", "lower bound", "round trip"):
        assert words in text


def test_progress_reaches_the_end():
    seen = []
    evaluate(
        uniform_pixels(), split(pixels()), batch_size=20, progress=lambda *done: seen.append(done)
    )
    assert seen == [(20, 50), (40, 50), (50, 50)]


def test_wrong_calls_say_what_is_wrong():
    with pytest.raises(UsageError, match="empty"):
        evaluate(uniform_pixels(), split(pixels()[:0]))
    with pytest.raises(UsageError, match="at least 1, got draws=0"):
        evaluate(uniform_pixels(), split(pixels()), draws=0)


def test_one_example_has_no_standard_error():
    found = evaluate(uniform_pixels(), split(pixels(1)))
    assert found.standard_error is None
    assert found.bits_per_dimension == pytest.approx(8)


def test_log_likelihoods_are_those_of_the_model():
    flow = gaussian(0.0, 2.0)
    x = torch.randn(25, 2)
    with torch.no_grad():
        torch.testing.assert_close(
            log_likelihoods(flow, x, batch_size=4), flow.log_prob(x).double()
        )


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-1234.5678, 2.3456, "-1234.6 ± 2.3"),
        (2.25071, 0.02613, "2.251 ± 0.026"),
        (1980.5, 12.0, "1980 ± 12"),
        (8.0, 0.0, "8.0000"),
        (None, None, "-"),
    ],
)
def test_a_value_is_written_to_two_figures_of_its_error(value, error, text):
    assert measured(value, error) == text
