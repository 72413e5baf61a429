"""The kernels of `HouseholderLinear` and of small dense networks give what plain torch gives."""

import copy
import pickle

import pytest
import torch
from torch.testing import assert_close

from steadyflow.bijections import (
    HouseholderLinear,
    RationalQuadraticSpline,
    fused_householder,
)
from steadyflow.networks import MLP, fused_masked

needs_compiler = pytest.mark.skipif(
    fused_householder.library() is None, reason="no C compiler on this machine"
)


@needs_compiler
@pytest.mark.parametrize(("size", "n"), [(1, 1), (2, 2), (5, 3), (8, 8), (64, 64), (65, 65)])
def test_the_matrix_and_its_gradient(size, n, generator):
    layer = HouseholderLinear(size, n)
    torch.nn.init.normal_(layer.vectors, std=0.5, generator=generator)
    g = torch.randn(size, size, generator=generator)
    exact = layer.vectors.detach().double().requires_grad_()
    expected = layer.product(exact)
    (gradient,) = torch.autograd.grad(expected, exact, g.double())
    assert_close(layer.matrix().double(), expected, rtol=0, atol=2e-6)
    (found,) = torch.autograd.grad(layer.matrix(), layer.vectors, g)
    assert_close(found.double(), gradient, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert_close(layer.matrix().double(), expected, rtol=0, atol=2e-6)
        assert_close(layer.matrix() @ layer.matrix().t(), torch.eye(size), rtol=0, atol=5e-6)


@needs_compiler
def test_second_derivatives_of_the_matrix(generator):
    layer = HouseholderLinear(4)
    torch.nn.init.normal_(layer.vectors, generator=generator)

    def curvature(matrix, vectors):
        (first,) = torch.autograd.grad((matrix**3).sum(), vectors, create_graph=True)
        return torch.autograd.grad((first**2).sum(), vectors)[0]

    plain = layer.product(layer.vectors)
    expected = curvature(plain, layer.vectors)
    assert_close(curvature(layer.matrix(), layer.vectors), expected, rtol=1e-3, atol=1e-3)


@needs_compiler
@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("hidden", [(), (7,), (33, 40)])
def test_a_small_dense_network(hidden, clip, generator):
    network = MLP(3, 5, hidden, clip=clip, zero_output=False)
    x = torch.randn(200, 3, generator=generator, requires_grad=True)
    g = torch.randn(200, 5, generator=generator)
    assert fused_masked.dense(network, x) is not None
    inputs = (x, *network.parameters())
    found = torch.autograd.grad(network(x), inputs, g)
    exact = copy.deepcopy(network).double()
    y = x.detach().double().requires_grad_()
    gradients = torch.autograd.grad(exact(y), (y, *exact.parameters()), g.double())
    assert_close(network(x).double(), exact(y), rtol=1e-4, atol=1e-5)
    assert_close([v.double() for v in found], list(gradients), rtol=1e-3, atol=1e-4)


def test_where_the_dense_kernel_stays_away(generator):
    network, x = MLP(3, 5, (8,)), torch.randn(4, 3, generator=generator)
    assert fused_masked.dense(network.double(), x.double()) is None
    network.float()
    seen = []
    network.layers[0].register_forward_hook(lambda *_: seen.append(1))
    network(x)
    assert seen
    again = pickle.loads(pickle.dumps(MLP(3, 5, (8,))))
    assert again(x).shape == (4, 5)
    assert not MLP(300, 300, (300,))._small


@needs_compiler
def test_gradients_of_inverse_splines(generator):
    spline = RationalQuadraticSpline(6, bound=3.0)
    z = 2 * torch.randn(300, 4, generator=generator)
    raw = torch.randn(300, spline.planes * 4, generator=generator)
    weights = torch.randn(300, 4, generator=generator)

    def found(dtype, function):
        inputs = [v.to(dtype).requires_grad_() for v in (z, raw)]
        x, log_det = function(*inputs)
        loss = (x * weights.to(dtype)).sum() + (log_det * weights[:, 0].to(dtype)).sum()
        return torch.autograd.grad(loss, inputs)

    exact = found(torch.float64, lambda a, b: spline.plain(a, b, inverse=True))
    for ours, truth in zip(found(torch.float32, spline.inverse), exact, strict=True):
        assert_close(ours.double(), truth, rtol=2e-3, atol=2e-3)
