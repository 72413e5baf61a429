"""Planar, radial and Sylvester flows: invertible whatever the parameters, and their edges."""

import pytest
import torch
from torch.testing import assert_close
from zoo import randomize

from steadyflow.bijections import Inverse, Planar, Radial, Sylvester
from steadyflow.bijections.planar import MARGIN, _share, above_minus_one
from steadyflow.bijections.sylvester import _triangle

LAYERS = {
    "planar": lambda: Planar(3),
    "planar-context": lambda: Planar(3, 2),
    "radial": lambda: Radial(3),
    "radial-one": lambda: Radial(1),
    "sylvester": lambda: Sylvester(3, 3),
    "sylvester-one": lambda: Sylvester(3, 1, 2),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    return LAYERS[request.param]().double()


def given(layer, batch, generator):
    if layer.context is None:
        return None
    return torch.randn(batch, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("gain", [1e-6, 1.0, 10.0, 100.0])
def test_no_parameters_break_it(layer, generator, gain):
    randomize(layer, generator, gain)
    x = 3 * torch.randn(200, layer.features, generator=generator, dtype=torch.float64)
    context = given(layer, 200, generator)
    z, log_det = layer(x, context)
    back, back_log_det = layer.inverse(z, context)
    # what is rounded in z, whose size the parameters set, the smallest slope may stretch
    allowed = 1e-13 * max(1.0, z.detach().abs().max().item()) / MARGIN
    assert_close(back, x, rtol=0, atol=allowed)
    assert_close(back_log_det, -log_det, rtol=0, atol=1e-6)
    for i in range(3):
        row = None if context is None else context[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda v, row=row: layer(v[None], row)[0][0], x[i]
        )
        sign, truth = torch.linalg.slogdet(jacobian)
        assert sign > 0
        assert_close(log_det[i], truth, rtol=1e-7, atol=1e-7)


def test_derivatives_of_the_inverse(layer, generator):
    randomize(layer, generator)
    z = torch.randn(2, layer.features, generator=generator, dtype=torch.float64)
    context = given(layer, 2, generator)
    back = Inverse(layer)
    parameters = dict(back.named_parameters())

    def inverse(z, *values):
        state = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(back, state, (z, context))

    inputs = (z.requires_grad_(), *parameters.values())
    assert torch.autograd.gradcheck(inverse, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(inverse, inputs, fast_mode=True)


@torch.no_grad()
def test_a_ridge_of_no_width_is_a_shift():
    layer = Planar(2)
    layer.raw.copy_(torch.tensor([1.0, -2.0, 0.0, 0.0, 0.5]))  # w = 0
    x = torch.randn(5, 2)
    z, log_det = layer(x)
    shift = torch.tensor([1.0, -2.0]) * torch.tanh(torch.tensor(0.5))
    assert_close(z - x, shift.expand(5, 2))
    assert not log_det.any()
    assert_close(layer.inverse(z)[0], x)


def test_the_centre_of_a_ball_stays(generator):
    layer = randomize(Radial(3).double(), generator)
    centre = layer.raw[:3].detach()[None].requires_grad_()
    z, log_det = layer(centre)
    assert_close(z, centre)
    (gradient,) = torch.autograd.grad(z.sum() + log_det.sum(), centre)
    assert gradient.isfinite().all()
    assert_close(layer.inverse(z)[0], centre)


@torch.no_grad()
def test_the_constraints():
    raw = torch.linspace(-50, 50, 1001, dtype=torch.float64)
    value = above_minus_one(raw)
    assert (value > MARGIN - 1 - 1e-12).all()
    assert (value.diff() >= 0).all()
    assert_close(raw * (1 + _share(raw)), value, rtol=1e-10, atol=1e-10)
    assert_close(above_minus_one(torch.zeros(1)), torch.zeros(1), rtol=0, atol=1e-7)
    wide = 100 * torch.randn(20, 4, 4, dtype=torch.float64)
    product = _triangle(wide).diagonal(dim1=1, dim2=2) * _triangle(wide.mT).diagonal(
        dim1=1, dim2=2
    )
    assert (product.abs() <= 1 - MARGIN + 1e-12).all()


@pytest.mark.parametrize(
    "wrong",
    [lambda: Planar(0), lambda: Radial(0), lambda: Sylvester(3, 4), lambda: Sylvester(3, 0)],
)
def test_wrong_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match=r"needs variables|must be from"):
        wrong()
