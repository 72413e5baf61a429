"""The block of TarFlow: triangular, the same however it is undone, and guided as the rules say."""

import dataclasses
import math

import pytest
import torch
from torch.testing import assert_close
from zoo import randomize

from steadyflow.bijections import AutoregressiveTransformer, Gaussianization
from steadyflow.bijections.decoding import SAMPLERS, Decoding, Parameters, solve
from steadyflow.bijections.guidance import RULES, Guidance
from steadyflow.networks.cached import CachedEvaluation

T, D, CLASSES = 9, 3, 2
TINY = 1e-9
GUIDANCE = {
    "none": None,
    "linear": Guidance(0.8),
    "variance": Guidance(0.8, "variance"),
    "attention": Guidance(0.5, "linear", 0.4),
}


def block(generator, context=CLASSES, dtype=torch.float64, **options):
    built = AutoregressiveTransformer(
        T, D, width=12, layers=2, heads=2, context_features=context, **options
    )
    return randomize(built.to(dtype), generator)


@pytest.fixture
def drawn(generator):
    """A block, latents and contexts."""
    z = torch.randn(5, T, D, generator=generator, dtype=torch.float64)
    return block(generator), z, torch.eye(CLASSES, dtype=torch.float64)[[0, 1, 1, 0, 1]]


def test_the_jacobian_is_triangular_with_diagonal_blocks(drawn):
    layer, x, context = drawn
    jacobian = torch.autograd.functional.jacobian(
        lambda v: layer(v[None], context[:1])[0][0], x[0]
    )
    for i in range(T):
        assert not jacobian[i, :, i + 1 :].any(), "a token depends on a later one"
        own = jacobian[i, :, i]
        assert torch.equal(own, torch.diag(own.diagonal()))
        assert (own.diagonal() > 0).all()
        assert not i or jacobian[i, :, :i].all(), "a token does not depend on an earlier one"


@torch.no_grad()
def test_tokens_before_a_change_stay_bit_for_bit(drawn):
    layer, x, context = drawn
    z, _ = layer(x, context)
    for i in range(T):
        other = x.clone()
        other[:, i] += 1
        assert torch.equal(layer(other, context)[0][:, :i], z[:, :i])


def test_it_starts_as_the_exact_identity():
    layer = AutoregressiveTransformer(T, D)
    x = torch.randn(4, T, D)
    z, log_det = layer(x)
    assert torch.equal(z, x)
    assert not log_det.any()


@torch.no_grad()
@pytest.mark.parametrize("how", GUIDANCE)
@pytest.mark.parametrize("scale", ["tanh", "exp"])
def test_all_samplers_agree(generator, how, scale):
    layer = block(generator, scale=scale, bound=2.0)
    z = torch.randn(4, T, D, generator=generator, dtype=torch.float64)
    context = torch.eye(CLASSES, dtype=torch.float64)[[0, 1, 1, 0]]
    plain = Decoding("sequential", guidance=GUIDANCE[how])
    expected = solve(layer, z, context, plain)
    before = z.clone()
    for sampler in (*SAMPLERS, "auto"):
        for window in (1, 4, T, 99) if sampler == "windowed" else (4,):
            options = dataclasses.replace(plain, sampler=sampler, window=window)
            solved = solve(layer, z, context, options)
            assert_close(solved.x, expected.x, rtol=TINY, atol=TINY)
            assert_close(solved.log_scale, expected.log_scale, rtol=TINY, atol=TINY)
            assert solved.sweeps <= T
    assert torch.equal(z, before)
    if how == "none":
        x, log_det = layer(expected.x, context)
        assert_close(x, z, rtol=TINY, atol=TINY)
        assert_close(log_det, -expected.log_scale.sum((1, 2)), rtol=TINY, atol=TINY)


@torch.no_grad()
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_agree_in_single_precision(generator, sampler):
    layer = block(generator, dtype=torch.float32, bound=2.0)
    z = torch.randn(4, T, D, generator=generator)
    context = torch.eye(CLASSES)[[0, 1, 1, 0]]
    expected = solve(layer, z, context, Decoding("sequential")).x
    assert_close(solve(layer, z, context, Decoding(sampler)).x, expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_fixed_point_of_jacobi_is_one_bit_for_bit(drawn):
    layer, z, context = drawn
    solved = solve(layer, z, context, Decoding("jacobi"))
    parameters = Parameters(layer, context, len(z), None)
    s, b = parameters.whole(solved.x)
    assert torch.equal(torch.addcmul(b, z, s.exp()), solved.x)


@torch.no_grad()
def test_after_n_sweeps_the_first_n_tokens_are_exact(drawn):
    layer, z, context = drawn
    exact = solve(layer, z, context, Decoding()).x
    x, parameters = z, Parameters(layer, context, len(z), None)
    for sweep in range(1, T + 1):
        s, b = parameters.whole(x)
        x = torch.addcmul(b, z, s.exp())
        assert_close(x[:, :sweep], exact[:, :sweep], rtol=TINY, atol=TINY)


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["jacobi", "windowed"])
def test_a_tolerance_bounds_the_error_and_saves_sweeps(drawn, sampler):
    layer, z, context = drawn
    with torch.no_grad():
        layer.network.output.weight.mul_(0.1)
    exact = solve(layer, z, context, Decoding())
    rough = solve(layer, z, context, Decoding(sampler, tolerance=1e-2, window=T))
    assert rough.sweeps < T
    assert_close(rough.x, exact.x, rtol=0, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_example_changes_with_the_others(drawn, sampler):
    layer, z, context = drawn
    z = z * torch.tensor([0.1, 1, 3, 0.5, 2], dtype=torch.float64).view(5, 1, 1)
    how = Decoding(sampler, tolerance=1e-3, window=4)
    together = solve(layer, z, context, how).x
    for i in range(len(z)):
        alone = solve(layer, z[i : i + 1], context[i : i + 1], how).x
        assert_close(alone[0], together[i], rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_the_cache_gives_what_a_whole_pass_gives(drawn):
    layer, x, context = drawn
    network, whole = layer.network, layer.network(x, context)
    for parts in ([T], [1] * T, [2, 4, 3], [5, 1, 1, 2]):
        cached = CachedEvaluation(network, len(x), context)
        done = 0
        for n in parts:
            previous = torch.roll(x, 1, 1)[:, done : done + n]
            out = cached.window(previous, torch.full((len(x),), done))
            assert_close(out, whole[:, done : done + n], rtol=1e-12, atol=1e-12)
            done += n
    cached = CachedEvaluation(network, len(x), context)
    for i in range(T):
        out = cached.step(x[:, i - 1] if i else None)
        assert_close(out, whole[:, i], rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_an_interrupted_call_leaves_nothing_behind(drawn, monkeypatch):
    layer, z, context = drawn
    expected = solve(layer, z, context, Decoding()).x
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    real, calls = CachedEvaluation.step, []

    def interrupted(self, previous):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, previous)

    monkeypatch.setattr(CachedEvaluation, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        solve(layer, z, context, Decoding())
    monkeypatch.undo()
    assert torch.equal(solve(layer, z, context, Decoding()).x, expected)
    assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert not layer.quickest


@torch.no_grad()
def test_auto_measures_once_and_then_keeps_to_it(drawn):
    layer, z, context = drawn
    first = solve(layer, z, context, Decoding("auto"))
    assert list(layer.quickest.values()) == [first.sampler]
    second = solve(layer, z, context, Decoding("auto"))
    assert second.sampler == first.sampler
    assert torch.equal(second.x, first.x)


def test_gradients_of_the_inverse_agree_with_finite_differences(generator):
    layer = block(generator, context=None, bound=1.0)
    z = torch.randn(2, T, D, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: layer.inverse(z)[0], z, fast_mode=True)
    weight = layer.network.output.weight
    x = layer.inverse(z)[0]
    (gradient,) = torch.autograd.grad(x.square().sum(), weight)
    step = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(step, alpha=sign * 1e-6)
            values.append(layer.inverse(z)[0].square().sum())
            weight.sub_(step, alpha=sign * 1e-6)
    assert_close((gradient * step).sum(), (values[0] - values[1]) / 2e-6, rtol=1e-5, atol=1e-6)


def test_checkpointing_changes_no_gradient(generator):
    x = torch.randn(3, T, D, generator=generator, dtype=torch.float64)
    layer = block(generator, context=None)
    gradients = []
    for recompute in (False, True):
        layer.checkpoint = recompute
        z, log_det = layer(x)
        parameters = list(layer.parameters())
        gradients.append(torch.autograd.grad(z.square().sum() + log_det.sum(), parameters))
    assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("rule", RULES)
def test_guidance_follows_its_rule(generator, rule):
    s, b = (torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    w = 1.3
    ours = Guidance(w, rule).combine(s, b)
    if rule == "linear":
        expected = tuple(v[:3] + w * (v[:3] - v[3:]) for v in (s, b))
    else:
        # precisions of a product of normals, where the unconditional one is the wider
        c, u = (2 * s[:3]).exp(), (2 * s[3:]).exp().maximum((2 * s[:3]).exp())
        precision = (1 + w) / c - w / u
        mean = ((1 + w) * b[:3] / c - w * b[3:] / u) / precision
        expected = (-0.5 * precision.log(), mean)
    assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("rule", RULES)
def test_guidance_away_from_itself_changes_nothing(drawn, rule):
    layer, z, context = drawn
    plain = solve(layer, z, 0 * context, Decoding()).x
    guided = solve(layer, z, 0 * context, Decoding(guidance=Guidance(2.0, rule))).x
    assert_close(guided, plain, rtol=TINY, atol=TINY)


@torch.no_grad()
def test_no_latent_leads_to_a_number_that_is_not_finite(generator):
    layer = block(generator, context=None, dtype=torch.float32)
    randomize(layer, generator, gain=3.0)
    z = torch.randn(16, T, D, generator=generator) * torch.logspace(0, 6, 16)[:, None, None]
    for sampler in SAMPLERS:
        assert solve(layer, z, None, Decoding(sampler)).x.isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "cachd"}, "did you mean 'cached'"),
        ({"tolerance": -1.0}, "tolerance must be a number of at least 0, got -1"),
        ({"tolerance": math.nan}, "tolerance must be"),
        ({"window": 0}, "window must be at least 1"),
    ],
)
def test_mistakes_about_decoding(options, words):
    with pytest.raises(ValueError, match=words):
        Decoding(**options)


@torch.no_grad()
def test_gaussianization_makes_pixels_normal(generator):
    pixels = (torch.rand(4000, 2, 3, generator=generator) ** 4 * 16).long().clamp(max=15)
    y = (pixels + torch.rand(pixels.shape, generator=generator)) / 16
    layer = Gaussianization(2, 16)
    layer.initialize(y)
    z, _ = layer(y)
    normal = torch.distributions.Normal(0.0, 1.0)
    for column in z.transpose(0, 1).flatten(1):
        uniform = normal.cdf(column).sort().values
        steps = (torch.arange(len(column)) + 1) / len(column)
        assert (uniform - steps).abs().max() < 2 / math.sqrt(len(column))  # Kolmogorov-Smirnov
    ends = torch.tensor([0.0, 1 - 2**-24]).expand(1, 2, 2)
    z, log_det = layer(ends)
    assert z.isfinite().all()
    assert log_det.isfinite().all()
    assert_close(layer.inverse(z)[0], ends, rtol=0, atol=1e-6)
