"""What every bijection promises, in float64 with random parameters, over the whole zoo."""

import pytest
import torch
from torch.testing import assert_close
from zoo import BIJECTIONS

BATCH = 6
TINY = 1e-8


FAR = [name for name, case in BIJECTIONS.items() if case.far]
CONDITIONAL = [name for name, case in BIJECTIONS.items() if case.context]


@pytest.fixture(params=BIJECTIONS)
def case(request):
    return BIJECTIONS[request.param]


@pytest.fixture
def drawn(case, generator):
    """A bijection with random parameters, data and context."""
    return case.random(generator), case.x(BATCH, generator), case.given(BATCH, generator)


def moved(value):
    """Another tensor of the same kind."""
    return None if value is None else value.flip(0).contiguous()


@torch.no_grad()
def test_shapes_and_dtypes(case, drawn):
    bijection, x, context = drawn
    z, log_det = bijection(x, context)
    assert z.shape == (BATCH, *bijection.output_shape(case.event_shape))
    assert bijection.input_shape(z.shape[1:]) == case.event_shape
    assert log_det.shape == (BATCH,)
    assert z.dtype == log_det.dtype == torch.float64
    assert_close(bijection.to_latent(x, context), z)
    back, back_log_det = bijection.inverse(z, context)
    assert_close(bijection.to_data(z, context), back)
    assert back.shape == x.shape
    assert back_log_det.shape == (BATCH,)
    assert back.dtype == back_log_det.dtype == torch.float64


def test_log_det_is_that_of_the_autograd_jacobian(drawn):
    bijection, x, context = drawn
    for i in range(2):
        row = None if context is None else context[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda v, row=row: bijection(v[None], row)[0].flatten(), x[i]
        )
        truth = torch.linalg.slogdet(jacobian.flatten(1)).logabsdet
        ours = bijection(x[i : i + 1], row)[1][0].detach()
        assert abs(ours - truth) <= TINY * max(1.0, abs(truth))


@torch.no_grad()
def test_round_trip_from_data(drawn):
    bijection, x, context = drawn
    z, log_det = bijection(x, context)
    back, back_log_det = bijection.inverse(z, context)
    assert_close(back, x, rtol=0, atol=TINY)
    assert_close(back_log_det, -log_det, rtol=TINY, atol=TINY)


@torch.no_grad()
def test_round_trip_from_latent(drawn):
    bijection, x, context = drawn
    # latents between those of data, so that they stay in the image of the bijection
    z = bijection(x, context)[0]
    z = z + 0.1 * (z.mean(0) - z)
    back, back_log_det = bijection.inverse(z, context)
    again, log_det = bijection(back, context)
    assert_close(again, z, rtol=0, atol=TINY)
    assert_close(log_det, -back_log_det, rtol=TINY, atol=TINY)


@torch.no_grad()
@pytest.mark.parametrize("case", FAR, indirect=True)
@pytest.mark.parametrize("size", [10.0, 1e4])
def test_far_inputs_stay_finite_and_come_back(drawn, size):
    bijection, x, context = drawn
    x = size * x
    z, log_det = bijection(x, context)
    assert z.isfinite().all()
    assert log_det.isfinite().all()
    assert_close(bijection.inverse(z, context)[0], x, rtol=0, atol=TINY * size)


def test_gradients_reach_the_data_and_every_parameter(drawn):
    bijection, x, context = drawn
    z, log_det = bijection(x.requires_grad_(), context)
    (z.square().sum() + log_det.sum()).backward()
    for name, parameter in [("x", x), *bijection.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@torch.no_grad()
@pytest.mark.parametrize("case", CONDITIONAL, indirect=True)
def test_context_matters(drawn):
    bijection, x, context = drawn
    here, there = bijection(x, context)[0], bijection(x, moved(context))[0]
    assert (here != there).flatten(1).any(1).all()


@torch.no_grad()
def test_examples_do_not_see_each_other(drawn):
    bijection, x, context = drawn
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    z, log_det = bijection(x, context)
    other_z, other_log_det = bijection(x[order], None if context is None else context[order])
    assert_close(other_z, z[order], rtol=1e-12, atol=1e-12)
    assert_close(other_log_det, log_det[order], rtol=1e-12, atol=1e-12)
    alone = bijection(x[:1], None if context is None else context[:1])
    assert_close(alone, (z[:1], log_det[:1]), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_there_is_no_hidden_state(drawn):
    bijection, x, context = drawn
    before = {name: value.clone() for name, value in bijection.state_dict().items()}
    given = x.clone()
    first = bijection.train()(x, context)
    bijection(moved(x), context)
    bijection.inverse(moved(first[0]), context)
    second = bijection.eval()(x, context)
    assert_close(first, second, rtol=0, atol=0)
    assert_close(bijection.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(x, given), "the input was changed in place"


@torch.no_grad()
@pytest.mark.parametrize("batch", [0, 1])
def test_the_smallest_batches(case, generator, batch):
    bijection = case.random(generator)
    x, context = case.x(batch, generator), case.given(batch, generator)
    z, log_det = bijection(x, context)
    assert log_det.shape == (batch,)
    assert_close(bijection.inverse(z, context)[0], x, rtol=0, atol=TINY)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_log_dets_of_half_precision_are_summed_in_single(case, generator, dtype):
    bijection = case.random(generator, dtype)
    x, context = case.x(BATCH, generator, dtype), case.given(BATCH, generator, dtype)
    z, log_det = bijection(x, context)
    assert z.dtype == dtype
    assert log_det.dtype == torch.float32
    assert bijection.inverse(z, context)[1].dtype == torch.float32


@torch.no_grad()
def test_autocast_keeps_values_and_log_dets_in_single(case, generator):
    bijection = case.random(generator, torch.float32)
    x, context = (f(BATCH, generator, torch.float32) for f in (case.x, case.given))
    expected = bijection(x, context)
    with torch.autocast("cpu", torch.bfloat16):
        z, log_det = bijection(x, context)
        back, _ = bijection.inverse(z, context)
    assert z.dtype == back.dtype == log_det.dtype == torch.float32
    # bfloat16 has eight bits: the conditioners' outputs are off by up to a percent or two
    assert_close((z, log_det), expected, rtol=0.1, atol=0.2)
    assert_close(back, x, rtol=0, atol=0.2)


@torch.no_grad()
def test_round_trip_in_single_precision(case, generator):
    bijection = case.random(generator, torch.float32)
    x, context = (f(BATCH, generator, torch.float32) for f in (case.x, case.given))
    z, _ = bijection(x, context)
    assert_close(bijection.inverse(z, context)[0], x, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "scaling-vector",
        "actnorm-image",
        "logit",
        "coupling-halves-odd-affine-tanh-flip",
        "coupling-checkerboard-affine-softsign-context",
        "chain-vector-context",
    ],
)
def test_gradients_agree_with_finite_differences(name, generator):
    case = BIJECTIONS[name]
    bijection = case.random(generator)
    x, context = case.x(2, generator), case.given(2, generator)
    parameters = dict(bijection.named_parameters())

    def value_and_log_det(x, *values):
        state = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(bijection, state, (x, context))

    inputs = (x.requires_grad_(), *parameters.values())
    assert torch.autograd.gradcheck(value_and_log_det, inputs, fast_mode=True)
