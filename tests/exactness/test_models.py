"""What every model promises, in float64 with random parameters, over the whole zoo."""

import math

import pytest
import torch
from torch.testing import assert_close
from zoo import MODELS, randomize

BATCH = 6
TINY = 1e-8

VECTORS = [name for name, case in MODELS.items() if len(case.build().event_shape) == 1]
IMAGES = [name for name, case in MODELS.items() if len(case.build().event_shape) == 3]
CONDITIONAL = [
    name
    for name, case in MODELS.items()
    if case.build().condition(case.given(1, torch.Generator(), torch.float32), 1) is not None
]


@pytest.fixture(params=MODELS)
def case(request):
    return MODELS[request.param]


@pytest.fixture
def drawn(case, generator):
    """A model with random parameters, data and context."""
    return case.random(generator), case.x(BATCH, generator), case.given(BATCH, generator)


def real(model, x):
    """The data as the bijection sees them: integers with their noise, drawn here and once."""
    return x if model.dequantization is None else model.dequantization(x)[0].double()


@torch.no_grad()
def test_shapes_and_dtypes(case, drawn):
    model, x, context = drawn
    z = model.encode(x, context)
    assert z.shape == (BATCH, *model.flow.base.event_shape)
    assert math.prod(z.shape[1:]) == model.dimensions
    assert model.log_prob(x, context).shape == (BATCH,)
    assert model.log_prob(x, context).dtype == z.dtype == torch.float64
    assert model.loss(x, context).shape == ()
    samples = model.sample(BATCH, context)
    assert samples.shape == x.shape
    assert samples.dtype == x.dtype


@pytest.mark.parametrize("i", range(2))
def test_log_prob_is_that_of_the_autograd_jacobian(drawn, i):
    model, x, context = drawn
    y = real(model, x)[i : i + 1]
    row = model.condition(None if context is None else context[i : i + 1], 1)
    bijection, base = model.flow.bijection, model.flow.base
    jacobian = torch.autograd.functional.jacobian(
        lambda v: bijection(v[None], row)[0].flatten(), y[0]
    )
    truth = torch.linalg.slogdet(jacobian.reshape(model.dimensions, -1)).logabsdet
    with torch.no_grad():
        z, log_det = bijection(y, row)
        density = base.log_prob(z, row) + log_det
        assert_close(log_det[0], truth, rtol=TINY, atol=TINY)
        assert_close(density[0], base.log_prob(z, row)[0] + truth, rtol=TINY, atol=TINY)
        if model.dequantization is None:
            assert_close(model.log_prob(x, context)[i], density[0], rtol=TINY, atol=TINY)


@torch.no_grad()
def test_round_trip_both_ways(drawn):
    model, x, context = drawn
    y, row = real(model, x), model.condition(context, BATCH)
    z, log_det = model.flow.bijection(y, row)
    back, back_log_det = model.flow.bijection.inverse(z, row)
    assert_close(back, y, rtol=0, atol=TINY)
    assert_close(back_log_det, -log_det, rtol=TINY, atol=TINY)
    again, _ = model.flow.bijection(back, row)
    assert_close(again, z, rtol=TINY, atol=TINY)


@torch.no_grad()
def test_encode_and_decode_undo_each_other(case, drawn):
    model, x, context = drawn
    back = model.decode(model.encode(x, context), context)
    assert_close(back, x, rtol=0, atol=0 if case.integer else TINY)


@torch.no_grad()
@pytest.mark.parametrize("case", VECTORS, indirect=True)
@pytest.mark.parametrize("size", [10.0, 1e4])
def test_far_inputs_stay_finite_and_come_back(drawn, size):
    model, x, context = drawn
    x = size * x
    assert model.log_prob(x, context).isfinite().all()
    back = model.decode(model.encode(x, context), context)
    assert_close(back, x, rtol=0, atol=TINY * size)


@torch.no_grad()
@pytest.mark.parametrize("case", IMAGES, indirect=True)
@pytest.mark.parametrize("value", ["black", "white", "alternating"])
def test_extreme_images_are_finite_and_come_back(case, drawn, value):
    model, x, context = drawn
    top = 2**case.integer - 1 if case.integer else 1e3
    x = torch.zeros_like(x)
    if value != "black":
        x[:, :, :: 1 if value == "white" else 2] = top
    assert model.log_prob(x, context).isfinite().all()
    back = model.decode(model.encode(x, context), context)
    assert_close(back, x, rtol=0, atol=0 if case.integer else 1e-7 * top)


def test_gradients_reach_every_parameter(drawn):
    model, x, context = drawn
    if model.closed_form:
        pytest.skip("fitted in closed form: it has no parameters")
    model.loss(x, context).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@torch.no_grad()
@pytest.mark.parametrize("case", CONDITIONAL, indirect=True)
def test_context_matters(case, drawn):
    model, x, context = drawn
    other = (context + 1) % model.num_classes if model.num_classes else context + 1
    y = real(model, x)
    here, _ = model.flow.bijection(y, model.condition(context, BATCH))
    there, _ = model.flow.bijection(y, model.condition(other, BATCH))
    assert (here != there).flatten(1).any(1).all()


@torch.no_grad()
def test_examples_do_not_see_each_other(drawn):
    model, x, context = drawn
    y, row = real(model, x), model.condition(context, BATCH)
    z, log_det = model.flow.bijection(y, row)
    first = model.flow.bijection(y[:1], None if row is None else row[:1])
    assert_close(first, (z[:1], log_det[:1]), rtol=1e-10, atol=1e-10)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    other = model.flow.bijection(y[order], None if row is None else row[order])
    assert_close(other, (z[order], log_det[order]), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_two_calls_agree_in_training_and_in_evaluation(drawn):
    model, x, context = drawn

    def score():
        torch.manual_seed(3)  # of the dequantization noise
        return model(x, context)

    first = score()
    model.sample(BATCH, context)
    model.train()
    assert_close(score(), first, rtol=0, atol=0)
    model.eval()
    assert_close(score(), first, rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("batch", [0, 1])
def test_the_smallest_batches(case, generator, batch):
    model = case.random(generator)
    x, context = case.x(batch, generator), case.given(batch, generator)
    assert model.log_prob(x, context).shape == (batch,)
    assert model.sample(batch, context).shape == x.shape
    assert_close(model.decode(model.encode(x, context), context), x, rtol=0, atol=1e-6)


@torch.no_grad()
def test_samples_follow_the_seed_and_the_generator(drawn):
    model, _, context = drawn

    def from_seed(seed):
        torch.manual_seed(seed)
        return model.sample(BATCH, context)

    def from_generator(seed):
        source = torch.Generator().manual_seed(seed)
        return model.sample(BATCH, context, generator=source)

    for draw in (from_seed, from_generator):
        assert torch.equal(draw(1), draw(1))
        assert not torch.equal(draw(1), draw(2))
    state = torch.get_rng_state()
    from_generator(1)
    assert torch.equal(torch.get_rng_state(), state), "a generator leaves the global seed alone"


@torch.no_grad()
def test_sample_with_log_prob_gives_the_density_of_its_draws(drawn, generator):
    model, _, context = drawn
    # tame parameters: the samples of wild ones lie where a logit has saturated
    randomize(model, generator, gain=0.3)
    y, log_prob = model.sample_with_log_prob(BATCH, context)
    row = model.condition(context, BATCH)
    z, log_det = model.flow.bijection(y, row)
    assert_close(log_prob, model.flow.base.log_prob(z, row) + log_det, rtol=1e-7, atol=1e-7)


@torch.no_grad()
def test_initialisation_gives_a_finite_density_and_happens_once(case, generator):
    model = case.build().double()
    x, context = case.x(64, generator), case.given(64, generator)
    model.initialize(x, context)
    assert model.log_prob(x, context).isfinite().all()
    z = model.encode(x, context)
    assert 0.5 < z.std() < 2, "latents begin near the unit scale of the base"


@torch.no_grad()
def test_autocast_keeps_log_prob_in_single(case, generator):
    model = case.random(generator, torch.float32)
    x, context = (f(BATCH, generator, torch.float32) for f in (case.x, case.given))
    with torch.autocast("cpu", torch.bfloat16):
        log_prob = model.log_prob(x, context)
        loss = model.loss(x, context)
        samples = model.sample(BATCH, context)
    assert log_prob.dtype == loss.dtype == torch.float32
    assert log_prob.isfinite().all()
    assert samples.shape == x.shape
