"""Logit and the affine scales: the published formulas, their ranges and their far ends."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from steadyflow.bijections import Affine, Chain, Inverse, Logit, Shift, UniformDequantization
from steadyflow.bijections.transforms import LOG_SCALES


@torch.no_grad()
@pytest.mark.parametrize("alpha", [0.0, 1e-6, 0.05, 0.4])
def test_logit_is_the_papers(alpha):
    x = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)[:, None]
    v = alpha + (1 - 2 * alpha) * x
    z, log_det = Logit(alpha)(x)
    assert_close(z, torch.log(v / (1 - v)))
    assert_close(log_det, torch.log((1 - 2 * alpha) / (v * (1 - v)))[:, 0])


@torch.no_grad()
def test_logit_keeps_its_accuracy_at_the_ends():
    z = torch.tensor([[0.0], [19.0], [20.0], [21.0], [30.0]], dtype=torch.float64)
    for far in (z, -z):
        _, log_det = Inverse(Logit(0.0))(far)
        expected = -(far.abs() + 2 * torch.log1p(torch.exp(-far.abs())))
        assert_close(log_det, expected[:, 0], rtol=1e-14, atol=0)


@torch.no_grad()
def test_logit_with_a_margin_takes_the_end_points():
    x = torch.tensor([[0.0], [1.0]])
    z, log_det = Logit(0.05)(x)
    assert_close(z, torch.tensor([[-1.0], [1.0]]) * math.log(19))
    assert log_det.isfinite().all()
    assert_close(Logit(0.05).inverse(z)[0], x)


@pytest.mark.parametrize("alpha", [-0.1, 0.5, 2.0, math.nan])
def test_a_wrong_margin_is_named(alpha):
    with pytest.raises(ValueError, match="alpha must be in"):
        Logit(alpha)


@torch.no_grad()
@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([name for name in LOG_SCALES if name != "exp"]),
    st.floats(0.1, 5),
    st.floats(-1e6, 1e6),
)
def test_log_scales_stay_within_their_bound(name, bound, raw):
    s = Affine(name, bound).log_scale(torch.tensor(raw, dtype=torch.float64))
    assert abs(s) <= bound + 1e-9


@torch.no_grad()
@pytest.mark.parametrize("name", LOG_SCALES)
def test_log_scales_rise(name):
    raw = torch.linspace(-5, 5, 100, dtype=torch.float64)
    assert (Affine(name).log_scale(raw).diff() > 0).all()


def test_log_scales_have_slope_one_at_the_start():
    for name in ("tanh", "softsign", "exp"):
        raw = torch.zeros(1, requires_grad=True)
        s = Affine(name).log_scale(raw)
        assert s == 0
        (slope,) = torch.autograd.grad(s, raw)
        assert slope == 1


@torch.no_grad()
@pytest.mark.parametrize("name", LOG_SCALES)
def test_affine_is_its_formula(name, generator):
    affine = Affine(name)
    x, raw, shift = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64).unbind()
    z, log_det = affine.forward(x, torch.cat((raw, shift), 1))
    s = affine.log_scale(raw)
    assert_close(z, x * s.exp() + shift)
    assert_close(log_det, s.sum(1))


@pytest.mark.parametrize("options", [("tan",), ("tanh", 0.0), ("tanh", -1.0), ("tanh", math.nan)])
def test_wrong_scales_are_named(options):
    with pytest.raises(ValueError, match=r"unknown scale|positive"):
        Affine(*options)


@pytest.mark.parametrize("bits", [0, 17, -1])
def test_wrong_bits_are_named(bits):
    with pytest.raises(ValueError, match="between 1 and 16"):
        UniformDequantization(bits)


@torch.no_grad()
def test_chains_and_inverses_know_what_they_are_made_of():
    class Iterative(Shift):
        closed_form_inverse = False
        exact_log_det = False

    for whole in (Chain(Shift(1.0), Iterative(1.0)), Inverse(Iterative(1.0))):
        assert not whole.closed_form_inverse
        assert not whole.exact_log_det
    assert Chain(Shift(1.0)).exact_log_det
