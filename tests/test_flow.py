"""A flow as a distribution: draws, densities, contexts, integers, wrong input, its own check."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from zoo import MODELS, coupling, randomize

from steadyflow.bases import StandardLogistic, StandardNormal
from steadyflow.bijections import (
    Affine,
    Bijection,
    Chain,
    Flatten,
    Halves,
    Inverse,
    Logit,
    Permutation,
    Scaling,
    Standardization,
    UniformDequantization,
)
from steadyflow.flow import Flow, check_temperature


def vector_flow(context=None, gain=0.7, seed=0):
    """A random flow on three variables, float64."""
    generator = torch.Generator().manual_seed(seed)
    layers = [coupling(Halves(flip), Affine(), (3,), context) for flip in (False, True, False)]
    return randomize(Flow(Chain(*layers, Scaling((3,))), (3,)).double(), generator, gain)


def pixel_flow(bits, base=None, shape=(1, 2, 2)):
    """A flow on integer images that only scales."""
    size = math.prod(shape)
    return Flow(
        Chain(Flatten(shape), Scaling((size,))),
        shape,
        base or StandardLogistic((size,)),
        UniformDequantization(bits),
    )


class Box(StandardNormal):
    """The uniform density on [0, 1)^D."""

    def log_prob(self, z, context=None):
        inside = ((z >= 0) & (z < 1)).flatten(1).all(1)
        return torch.where(inside, 0.0, -math.inf)


class WrongLogDet(Scaling):
    def forward(self, x, context=None):
        z, log_det = super().forward(x)
        return z, 2 * log_det


class WrongInverseLogDet(Scaling):
    def inverse(self, z, context=None):
        x, log_det = super().inverse(z)
        return x, log_det + 0.01


class WrongInverse(Scaling):
    def inverse(self, z, context=None):
        x, log_det = super().inverse(z)
        return x + 1e-2 * z, log_det


class NotFinite(Scaling):
    def forward(self, x, context=None):
        z, log_det = super().forward(x)
        return z, log_det + math.nan


# the density


def test_log_prob_of_a_scaled_normal_is_that_of_torch():
    flow = Flow(Standardization((2,)), (2,)).double()
    x = torch.tensor([[3.0, 1.0], [5.0, 7.0], [1.0, 1.0]], dtype=torch.float64)
    flow.initialize(x)
    expected = torch.distributions.Normal(x.mean(0), x.std(0, correction=0)).log_prob(x).sum(1)
    assert_close(flow.log_prob(x).detach(), expected)


def test_forward_is_log_prob_and_loss_is_its_mean_per_dimension(generator):
    flow = vector_flow()
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    assert torch.equal(flow(x), flow.log_prob(x))
    assert_close(flow.loss(x), -flow.log_prob(x).mean() / 3)
    assert flow.loss(x).shape == ()


@torch.no_grad()
def test_encode_and_decode(generator):
    flow = vector_flow()
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    z = flow.encode(x)
    assert_close(flow.decode(z), x)
    assert_close(flow.log_prob(x), flow.base.log_prob(z) + flow.bijection(x)[1])


@torch.no_grad()
def test_one_row_of_context_serves_all(generator):
    flow = vector_flow(context=2)
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    row = torch.randn(1, 2, generator=generator, dtype=torch.float64)
    for one in (row, row[0]):
        assert torch.equal(flow.log_prob(x, one), flow.log_prob(x, row.expand(5, 2)))
        assert torch.equal(
            flow.decode(flow.encode(x, one), one), flow.decode(flow.encode(x, row), row)
        )
        assert flow.sample(5, one).shape == (5, 3)


# draws


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_temperature_scales_the_latents(temperature):
    """n = 20 000 draws: the standard error of a standard deviation is 0.5 %; 5 of them allowed."""
    flow = vector_flow()
    z = flow.encode(flow.sample(20_000, temperature=temperature))
    assert_close(z.std(0), torch.full((3,), temperature).double(), rtol=0.025, atol=1e-6)


@torch.no_grad()
def test_sample_with_log_prob_agrees_with_log_prob():
    flow = vector_flow()
    for temperature in (0.7, 1.0):
        x, log_prob = flow.sample_with_log_prob(100, temperature=temperature)
        assert_close(log_prob, flow.log_prob(x))


def test_draws_with_log_prob_have_gradients_and_plain_draws_do_not():
    flow = vector_flow()
    assert not flow.sample(4).requires_grad
    x, log_prob = flow.sample_with_log_prob(4)
    (x.sum() + log_prob.sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in flow.parameters())


def test_the_gradient_of_the_entropy_is_right():
    """-E log p of z -> exp(-s) z is D/2 log 2 pi e - sum s: its gradient in s is -1 each.

    n = 20 000; the gradient of one draw has a standard deviation of at most sqrt(2).
    """
    flow = Flow(Scaling((3,)), (3,)).double()
    _, log_prob = flow.sample_with_log_prob(20_000)
    (-log_prob.mean()).backward()
    gradient = flow.bijection.log_scale.grad
    assert_close(gradient, torch.full((3,), -1.0).double(), rtol=0, atol=0.05)


@torch.no_grad()
def test_the_mean_log_prob_of_draws_is_the_entropy():
    """Of a diagonal flow it is known; n = 20 000, standard error sqrt(D/2 / n) = 0.009."""
    flow = Flow(Scaling((3,)), (3,)).double()
    flow.bijection.log_scale.copy_(torch.tensor([0.5, -1.0, 2.0]))
    entropy = 1.5 * math.log(2 * math.pi * math.e) - 1.5
    assert flow.log_prob(flow.sample(20_000)).mean() == pytest.approx(-entropy, abs=0.035)


# as a torch distribution


@torch.no_grad()
def test_distribution_has_the_density_of_the_flow(generator):
    flow = vector_flow()
    x = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    p = flow.distribution()
    assert isinstance(p, torch.distributions.Distribution)
    assert (p.batch_shape, p.event_shape) == ((), (3,))
    assert_close(p.log_prob(x), flow.log_prob(x.view(8, 3)).view(2, 4))
    assert_close(p.log_prob(x[0, 0]), flow.log_prob(x[0, :1])[0])
    assert p.log_prob(x[0, 0]).shape == ()


@torch.no_grad()
def test_distribution_with_a_batch_of_contexts(generator):
    flow = vector_flow(context=2)
    context = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    p = flow.distribution(context)
    assert (p.batch_shape, p.event_shape) == ((4,), (3,))
    x = p.sample((5,))
    assert x.shape == (5, 4, 3)
    log_prob = p.log_prob(x)
    assert log_prob.shape == (5, 4)
    for i in range(4):
        assert_close(log_prob[:, i], flow.log_prob(x[:, i], context[i]))
    # one value under each of the contexts
    assert_close(p.log_prob(x[0, 0]), flow.log_prob(x[0, :1].expand(4, 3), context))
    q = flow.distribution(context.view(2, 2, 2))
    assert q.sample().shape == (2, 2, 3)
    assert_close(q.log_prob(x[0].view(2, 2, 3)), log_prob[0].view(2, 2))


@torch.no_grad()
def test_distribution_expands(generator):
    context = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    for p, shape in (
        (vector_flow().distribution(), (5,)),
        (vector_flow(context=2).distribution(context), (3, 4)),
        (vector_flow(context=2).distribution(context[0]), (2,)),
    ):
        wide = p.expand(shape)
        assert type(wide) is type(p)
        assert (wide.batch_shape, wide.event_shape) == (shape, (3,))
        x = wide.sample((2,))
        assert x.shape == (2, *shape, 3)
        assert_close(wide.log_prob(x), p.log_prob(x).expand(2, *shape))


@torch.no_grad()
def test_sample_shapes_are_those_of_torch():
    p = vector_flow().distribution()
    ours = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3))
    for shape in ((), (4,), (2, 3), (0,), [2], torch.Size((1, 2))):
        assert p.sample(shape).shape == ours.sample(torch.Size(shape)).shape
        assert p.rsample(shape).shape == p.sample(shape).shape


def test_rsample_has_gradients():
    flow = vector_flow()
    p = flow.distribution()
    assert p.has_rsample
    p.rsample((10,)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in flow.parameters())
    assert not p.sample((10,)).requires_grad


@torch.no_grad()
def test_distribution_validates_its_values():
    p = vector_flow().distribution(validate_args=True)
    good = torch.zeros(2, 3).double()
    with pytest.raises(ValueError, match="event_shape"):
        p.log_prob(torch.zeros(2, 4).double())
    with pytest.raises(ValueError, match="support"):
        p.log_prob(torch.full((2, 3), math.nan).double())
    free = vector_flow().distribution(validate_args=False)
    assert free.log_prob(torch.full((2, 3), math.nan).double()).isnan().all()
    assert free.expand((2,)).log_prob(good).shape == (2,)
    pixels = pixel_flow(3).distribution(validate_args=True)
    assert not pixels.has_rsample
    with pytest.raises(NotImplementedError, match="sample"):
        pixels.rsample()
    with pytest.raises(ValueError, match="support"):
        pixels.log_prob(torch.full((2, 1, 2, 2), 8))
    assert pixels.log_prob(pixels.sample((5,))).shape == (5,)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["realnvp-2-classes", "realnvp-2-context", "realnvp-5", "nice-image"]
)
def test_models_are_distributions_too(name, generator):
    case = MODELS[name]
    model = case.random(generator)
    x, context = case.x(4, generator), case.given(4, generator)
    p = model.distribution(context)
    assert p.batch_shape == (() if context is None else (4,))
    if not case.integer:
        assert_close(p.log_prob(x), model.log_prob(x, context))
    assert p.sample((2,)).shape == (2, *p.batch_shape, *model.event_shape) or context is None
    if context is not None:
        one = model.distribution(context[0])
        assert one.batch_shape == ()
        assert_close(one.log_prob(x[0]), p.log_prob(x)[0])
        assert model.distribution(context.view(2, 2, *context.shape[1:])).batch_shape == (2, 2)


# integers


@torch.no_grad()
@pytest.mark.parametrize("bits", [1, 5, 8])
def test_a_uniform_model_has_exactly_its_bits(bits):
    shape = (3, 4, 4)
    flow = Flow(Flatten(shape), shape, Box((48,)), UniformDequantization(bits))
    x = torch.randint(2**bits, (10, *shape))
    bits_per_dimension = -flow.log_prob(x) / 48 / math.log(2)
    assert_close(bits_per_dimension, torch.full((10,), float(bits)), rtol=1e-6, atol=0)
    assert flow.likelihood == "bound"


@torch.no_grad()
def test_log_prob_of_integers_is_a_bound_on_their_probability():
    """One pixel of two bits under a normal: P(x) is known, and the mean of log_prob stays below.

    n = 20 000 draws of the noise; the standard errors are below 0.005.
    """
    flow = pixel_flow(2, StandardNormal((1,)), (1, 1, 1))
    flow.bijection[1].log_scale.fill_(1.0)
    edges = math.e * torch.linspace(0, 1, 5, dtype=torch.float64)
    probability = torch.distributions.Normal(0.0, 1.0).cdf(edges).diff()
    for x in range(4):
        log_prob = flow.log_prob(torch.full((20_000, 1, 1, 1), x)).double()
        error = log_prob.std() / math.sqrt(20_000)
        assert log_prob.mean() < probability[x].log() + 4 * error
        # and the mean of exp(log_prob) is the probability itself, within 4 standard errors
        mean, error = log_prob.exp().mean(), log_prob.exp().std() / math.sqrt(20_000)
        assert abs(mean - probability[x]) < 4 * error + 1e-9


@torch.no_grad()
def test_the_bound_is_no_better_than_the_entropy():
    """Data from a known distribution: the mean of -log_prob is at least its entropy.

    n = 50 000 pixels; the standard error is 0.003 nats.
    """
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    flow = pixel_flow(2, StandardNormal((1,)), (1, 1, 1))
    x = torch.multinomial(p, 50_000, replacement=True).view(-1, 1, 1, 1)
    entropy = -(p * p.log()).sum()
    for log_scale in (-1.0, 0.0, 1.0, 2.0):
        flow.bijection[1].log_scale.fill_(log_scale)
        assert -flow.log_prob(x).mean() > entropy


@torch.no_grad()
@settings(deadline=None, max_examples=25)
@given(bits=st.integers(1, 16), seed=st.integers(0, 1000))
def test_integers_come_back_from_their_bins(bits, seed):
    dequantization = UniformDequantization(bits)
    torch.manual_seed(seed)
    x = torch.randint(2**bits, (500, 7), dtype=torch.int32)
    x[:50] = 2**bits - 1
    y, log_det = dequantization(x)
    assert (y >= 0).all()
    assert (y < 1).all()
    assert torch.equal(dequantization.inverse(y).int(), x)
    assert_close(log_det, torch.full((500,), -7 * bits * math.log(2)))


@torch.no_grad()
def test_noise_never_rounds_up_into_the_next_bin(monkeypatch):
    almost = torch.tensor(1 - 2**-24)
    monkeypatch.setattr(torch, "rand", lambda shape, **_: almost.expand(shape).clone())
    for bits in (1, 8, 16):
        x = torch.arange(2**bits)[:, None]
        dequantization = UniformDequantization(bits)
        assert torch.equal(dequantization.inverse(dequantization(x)[0]).long(), x)


@torch.no_grad()
def test_the_noise_fills_the_bin_evenly():
    """n = 100 000: mean 1/2 and variance 1/12 of a bin, within 4 standard errors."""
    y, _ = UniformDequantization(3)(torch.full((100_000, 1), 5))
    u = y.double() * 8 - 5
    assert abs(u.mean() - 1 / 2) < 4 * math.sqrt(1 / 12 / 100_000)
    assert abs(u.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / 100_000)


# wrong input


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.zeros(5, 4), ValueError, r"shape \(batch, 3\), got \(5, 4\)"),
        (torch.zeros(3), ValueError, r"shape \(batch, 3\), got \(3,\)"),
        (torch.zeros(2, 5, 3), ValueError, r"got \(2, 5, 3\)"),
        (torch.zeros(5, 3, dtype=torch.int64), TypeError, r"int64.*x\.float\(\)"),
        (torch.zeros(5, 3, dtype=torch.float64), TypeError, r"float64.*float32.*x\.float\(\)"),
    ],
)
def test_wrong_data_are_named(x, error, words):
    flow = vector_flow().float()
    for use in (flow.log_prob, flow.encode, flow.loss, flow.initialize, flow.check):
        with pytest.raises(error, match=words):
            use(x)


def test_single_precision_data_are_widened_for_a_double_flow():
    flow = vector_flow()
    x = torch.randn(4, 3)
    assert_close(flow.log_prob(x), flow.log_prob(x.double()))


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.rand(2, 1, 2, 2), TypeError, "integers.*float32.*bits=0"),
        (torch.ones(2, 1, 2, 2, dtype=torch.bool), TypeError, "integers"),
        (torch.full((2, 1, 2, 2), 32), ValueError, "5 bits lie in 0 to 31, got 32"),
        (torch.full((2, 1, 2, 2), -1), ValueError, "got -1"),
        (torch.zeros(2, 1, 2, 3, dtype=torch.uint8), ValueError, r"\(batch, 1, 2, 2\)"),
    ],
)
def test_wrong_pixels_are_named(x, error, words):
    with pytest.raises(error, match=words):
        pixel_flow(5).log_prob(x)


def test_wrong_contexts_latents_and_temperatures_are_named():
    flow = vector_flow(context=2)
    x, context = torch.zeros(4, 3).double(), torch.zeros(3, 2).double()
    for use in (lambda: flow.log_prob(x, context), lambda: flow.sample(4, context)):
        with pytest.raises(ValueError, match=r"4 examples need 4 rows of context.*got 3"):
            use()
    with pytest.raises(ValueError, match=r"\(batch, 3\), got \(4, 2\)"):
        flow.decode(x[:, :2])
    for temperature in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature"):
            flow.sample(4, context[:1], temperature)
    assert check_temperature(1) == 1.0


def test_data_with_holes_do_not_initialise():
    x = torch.randn(10, 3)
    for bad in (math.nan, math.inf):
        x[3, 1] = bad
        with pytest.raises(ValueError, match="NaN or infinite"):
            Flow(Scaling((3,)), (3,)).initialize(x)


@pytest.mark.parametrize(
    ("bijection", "event_shape"),
    [
        (Scaling((1,)), (3,)),
        (Standardization((3,)), (3, 2, 2)),
        (Permutation([1, 0]), (3,)),
        (Flatten((3, 2)), (3, 3)),
        (Inverse(Flatten((3, 2))), (5,)),
        (Chain(Logit(), Scaling((2,))), (3,)),
    ],
)
def test_a_bijection_of_another_size_is_refused_when_the_flow_is_built(bijection, event_shape):
    with pytest.raises(ValueError, match="shape"):
        Flow(bijection, event_shape)


def test_a_base_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"latents of shape \(4,\).*base has shape \(3,\)"):
        Flow(Flatten((1, 2, 2)), (1, 2, 2), StandardNormal((3,)))


# its own check


@pytest.mark.parametrize("gain", [0.0, 0.7])
def test_a_right_flow_passes_its_check(gain):
    flow = vector_flow(gain=gain)
    report = flow.check(flow.sample(50))
    assert report.ok
    assert report.finite
    assert (
        max(report.round_trip, report.latent_round_trip, report.log_det, report.opposite) < 1e-10
    )
    assert "all well" in str(report)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (WrongLogDet, "log_det"),
        (WrongInverseLogDet, "opposite"),
        (WrongInverse, "round_trip"),
        (NotFinite, "finite"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_wrong_bijection_is_found(wrong, what, dtype):
    flow = Flow(Chain(wrong((2,))), (2,)).to(dtype)
    torch.nn.init.constant_(flow.bijection[0].log_scale, 0.3)
    report = flow.check(torch.randn(20, 2, dtype=dtype))
    assert not report.ok
    assert "NOT to be trusted" in str(report)
    value = getattr(report, what)
    assert value is False or value > 1e-5
    if wrong is WrongLogDet:
        assert report.integral == pytest.approx(math.exp(0.6), rel=1e-3)


def test_check_takes_integers_contexts_and_any_units():
    flow = pixel_flow(8)
    x = torch.randint(256, (20, 1, 2, 2), dtype=torch.uint8)
    assert flow.check(x).ok
    conditional = vector_flow(context=2)
    assert conditional.check(torch.zeros(4, 3).double(), torch.zeros(2).double()).ok
    flow = Flow(Chain(Standardization((2,)), coupling(Halves(), Affine(), (2,))), (2,))
    for unit in (1e-6, 1e6):
        x = unit * (5 + torch.randn(100, 2))
        flow.initialize(x)
        report = flow.check(x)
        assert report.ok, str(report)
        assert report.integral == pytest.approx(1, abs=1e-3)


def test_check_leaves_the_global_seed_alone():
    flow = vector_flow()
    state = torch.get_rng_state()
    flow.check(torch.zeros(2, 3).double())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_interface_is_abstract():
    for use in (Bijection().forward, Bijection().inverse):
        with pytest.raises(NotImplementedError):
            use(Tensor())
