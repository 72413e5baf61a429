"""Bounds on linear maps: against dense matrices, at three sizes, while an optimiser works."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from steadyflow.networks import (
    ContractiveConvNet,
    ContractiveMLP,
    LipschitzConv2d,
    LipschitzLinear,
)
from steadyflow.networks.lipschitz import ACTIVATIONS, MARGIN, TOLERANCE, lipschitz_activation
from steadyflow.solvers import leading_singular

SIZES = [(4, 4), (7, 7), (9, 5)]


def dense(layer, size, channels):
    """The layer as a matrix, column by column, in float64."""
    layer = copy.deepcopy(layer).double()
    eye = torch.eye(channels * size[0] * size[1], dtype=torch.float64)
    images = eye.view(-1, channels, *size)
    with torch.no_grad():
        return (layer(images) - layer(torch.zeros_like(images[:1]))).flatten(1).T


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(3, 6, 3), (6, 2, 3), (2, 2, 5), (5, 4, 1)])
def test_bounds_hold_after_a_hundred_steps(shape, size, generator):
    """Steps that push the norm up; a loop of one's own, without any call between them."""
    into, out, kernel = shape
    layer = LipschitzConv2d(into, out, kernel, size, coefficient=0.9)
    optimizer = torch.optim.AdamW(layer.parameters(), 1e-2, fused=True)  # leaves no trace
    for step in range(100):
        x = torch.randn(4, into, *size, generator=generator)
        optimizer.zero_grad()
        (-layer(x).square().mean()).backward()
        optimizer.step()
        if step % 20 == 19:
            found = layer.true_norm()  # measures, so that the copy in float64 acts alike
            norm = float(torch.linalg.matrix_norm(dense(layer, size, into), 2))
            assert norm <= 0.9 * (1 + 1e-4)
            assert norm >= 0.9 * (1 - 2 * (TOLERANCE + MARGIN)), "and nothing is given away"
            assert abs(found - norm) < 1e-5
            assert layer.certified_norm() >= norm * (1 - 1e-6)  # float32 weights, measured twice


@pytest.mark.parametrize("norm", ["1", "inf"])
def test_other_norms_are_those_of_the_matrix(norm, generator):
    layer = LipschitzConv2d(3, 4, 3, (5, 5), coefficient=0.7, norm=norm)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
    order = 1 if norm == "1" else torch.inf
    truth = float(torch.linalg.matrix_norm(dense(layer, (5, 5), 3), order))
    assert truth <= 0.7 * (1 + 1e-6)
    assert abs(truth - 0.7) < 1e-5


def test_the_reshaped_kernel_would_be_wrong():
    """Why the operator is measured: a kernel of ones has 3 times the norm of its matrix."""
    layer = LipschitzConv2d(4, 4, 3, (16, 16), coefficient=1e9)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    reshaped = float(torch.linalg.matrix_norm(layer.weight.flatten(1).detach(), 2))
    assert layer.true_norm() > 2.8 * reshaped
    assert layer.true_norm() <= float(layer.bound)


@pytest.mark.parametrize("factor", [0.0, 1e-6, 1e3, 1e12])
def test_any_scale_of_weights(factor, generator):
    for layer in (
        LipschitzLinear(70, 80),
        LipschitzLinear(3, 5),
        LipschitzConv2d(3, 4, 3, (6, 6)),
    ):
        with torch.no_grad():
            layer.weight.mul_(factor)
        assert layer.lipschitz <= 0.98
        assert layer.true_norm() <= 0.98 * (1 + 1e-4)


def test_another_size_is_measured_anew(generator):
    layer = LipschitzConv2d(2, 3, 3, (4, 4))
    with torch.no_grad():
        layer.weight.mul_(50)
    small = (layer(torch.randn(1, 2, 4, 4)), float(layer.bound))[1]
    layer(torch.randn(1, 2, 20, 12))
    assert float(layer.bound) > small
    assert layer.size == (20, 12)
    other = LipschitzConv2d(2, 3, 3, (4, 4))
    other.load_state_dict(layer.state_dict())
    assert other.size == (20, 12)
    x = torch.randn(1, 2, 20, 12)
    assert torch.equal(other(x), layer(x))


def test_a_bound_follows_the_weights_and_copies_keep_it(generator):
    layer = LipschitzConv2d(8, 8, 3, (9, 9), coefficient=0.5)
    first = layer.lipschitz
    assert first == 0.5
    bound = layer.bound.clone()
    other = copy.deepcopy(layer)
    assert torch.equal(other(torch.ones(1, 8, 9, 9)), layer(torch.ones(1, 8, 9, 9)))
    assert torch.equal(other.bound, bound)
    with torch.no_grad():
        layer.weight.mul_(3)
    layer.measure()
    assert float(layer.bound) == pytest.approx(3 * float(bound), rel=0.02)
    layer.weight = nn.Parameter(torch.zeros_like(layer.weight))
    assert layer.lipschitz == 0


def test_weights_that_are_not_finite_are_named():
    layer = LipschitzLinear(3, 3)
    with torch.no_grad():
        layer.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        layer(torch.zeros(1, 3))


def test_gradients_of_the_constrained_weight(generator):
    """Against finite differences, for a matrix whose norm is above the coefficient."""
    layer = LipschitzLinear(4, 3, coefficient=0.5).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(3, 4, generator=generator, dtype=torch.float64))
    probe = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    (grad,) = torch.autograd.grad((layer.constrained() * probe).sum(), layer.weight)
    eps = 1e-5
    for i, j in itertools.product(range(3), range(4)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                layer.weight[i, j] += sign * eps
                values.append(float((layer.constrained() * probe).sum()))
                layer.weight[i, j] -= sign * eps
        assert grad[i, j] == pytest.approx((values[0] - values[1]) / (2 * eps), abs=1e-6)


@pytest.mark.parametrize("norm", ["2", "1", "inf"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_have_slopes_of_at_most_one(name, norm):
    act = lipschitz_activation(name, norm).double()
    for raw in (-3.0, 0.5, 4.0):
        for parameter in act.parameters():
            parameter.data.fill_(raw)
        x = torch.linspace(-30, 30, 20_001, dtype=torch.float64)[:, None].requires_grad_()
        values = act(x)
        slopes = torch.stack(
            [torch.autograd.grad(v.sum(), x, retain_graph=True)[0][:, 0] for v in values.unbind(1)]
        )
        order = {"2": 2, "1": 1, "inf": torch.inf}[norm]
        assert torch.linalg.vector_norm(slopes, order, dim=0).max() <= 1 + 1e-9
        assert_close(act.slope(x).T, slopes, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("widths", [(8, 5, 7), (3,), (16, 2)])
def test_exact_log_determinants_of_matrices(name, widths, generator):
    """Wherever the narrowest place is: at the input, in the middle or at the end."""
    g = ContractiveMLP(4, widths, 2, coefficient=0.9, activation=name).double()
    x, context = (torch.randn(3, n, generator=generator, dtype=torch.float64) for n in (4, 2))
    value, log_det = g.log_det(x, context)
    assert_close(value, g(x, context))
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(
            lambda v, i=i: g(v[None], context[i : i + 1])[0], x[i]
        )
        assert torch.linalg.matrix_norm(jacobian, 2) <= g.lipschitz
        truth = torch.linalg.slogdet(torch.eye(4) + jacobian).logabsdet
        assert_close(log_det[i], truth, rtol=1e-9, atol=1e-10)


def test_coefficients_that_do_not_contract():
    with pytest.raises(ValueError, match="coefficients below 1"):
        ContractiveMLP(3, (4,), coefficient=1.0)
    with pytest.raises(ValueError, match="hidden layer"):
        ContractiveMLP(3, ())
    with pytest.raises(ValueError, match="above 0"):
        LipschitzLinear(3, 3, coefficient=-1.0)
    with pytest.raises(ValueError, match="odd"):
        LipschitzConv2d(3, 3, 2, (4, 4))
    assert ContractiveConvNet(1, 4, (4, 4), coefficient=0.99).lipschitz < 1


@torch.no_grad()
def test_leading_singular_values(generator):
    matrix = torch.randn(60, 40, generator=generator, dtype=torch.float64)
    truth = float(torch.linalg.matrix_norm(matrix, 2))
    found = leading_singular(
        lambda v: matrix @ v, lambda u: matrix.T @ u, torch.ones(40).double(), 1e-8
    )
    assert found.value == pytest.approx(truth, rel=1e-9)
    assert found.value <= truth * (1 + 1e-12) <= found.bound * (1 + 1e-9)
    again = leading_singular(lambda v: matrix @ v, lambda u: matrix.T @ u, found.start, 1e-3)
    assert again.steps == 16
