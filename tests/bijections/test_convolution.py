"""The 1x1 convolution in its three forms, alone and fused with the activation normalisation."""

import pytest
import torch
from torch.testing import assert_close
from zoo import randomize

from steadyflow.bijections import ActNorm, Chain, InvertibleConvolution, NormalizedConvolution
from steadyflow.bijections.convolution import FORMS, mix


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


@pytest.fixture
def x(generator):
    return torch.randn(5, 4, 3, 2, generator=generator, dtype=torch.float64)


def test_starts_as_a_rotation(form):
    weight, log_det = InvertibleConvolution(6, form).matrix()
    assert_close(weight @ weight.t(), torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-6)
    assert_close(log_det, torch.zeros_like(log_det), rtol=0, atol=1e-6)


def test_is_the_library_s_convolution(form, x):
    layer = InvertibleConvolution(4, form).double()
    weight = layer.matrix()[0][:, :, None, None]
    assert_close(layer(x)[0], torch.nn.functional.conv2d(x, weight), rtol=0, atol=1e-12)


def test_orthogonal_stays_orthogonal(generator):
    layer = randomize(InvertibleConvolution(8, "orthogonal"), generator, gain=5.0)
    weight = layer.matrix()[0]
    assert_close(weight @ weight.t(), torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-12)
    assert layer.condition_number() == pytest.approx(1.0)


@torch.no_grad()
def test_single_precision_comes_back(form, generator):
    layer = randomize(InvertibleConvolution(12, form), generator, gain=0.5)
    x = torch.randn(8, 12, 5, 5, generator=generator)
    z, log_det = layer(x)
    assert z.dtype == log_det.dtype == torch.float32
    error = (layer.inverse(z)[0] - x).abs().max()
    assert error <= 1e-6 * layer.condition_number()


def test_fused_with_the_normalisation_it_is_the_same_map(form, x, generator):
    fused = randomize(NormalizedConvolution(4, form).double(), generator)
    apart = Chain(fused.norm, fused.convolution)
    assert_close(fused(x), apart(x), rtol=1e-10, atol=1e-10)
    assert_close(fused.inverse(x), apart.inverse(x), rtol=1e-10, atol=1e-10)


def test_initialisation_normalises_each_channel(form, x):
    layer = NormalizedConvolution(4, form).double()
    layer.initialize(3 * x + 2)
    assert layer.norm.initialized
    same = ActNorm(4).double()
    same.initialize(3 * x + 2)
    normal = same(3 * x + 2)[0].movedim(1, 0).flatten(1)
    assert_close(normal.mean(1), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-6)
    assert_close(mix(same(3 * x + 2)[0], layer.convolution.matrix()[0]), layer(3 * x + 2)[0])


def test_stays_in_full_precision_under_autocast(form, generator):
    layer = randomize(NormalizedConvolution(4, form), generator)
    x = torch.randn(2, 4, 3, 3, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        z, log_det = layer(x)
    assert_close((z, log_det), layer(x), rtol=0, atol=0)


def test_another_form_or_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="did you mean 'plu'"):
        InvertibleConvolution(4, "lu")
    with pytest.raises(ValueError, match=r"built for events of shape \(4, 2, 2\)"):
        InvertibleConvolution(4).output_shape((3, 2, 2))
