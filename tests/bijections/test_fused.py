"""The kernels of tables give what the definitions give, and step aside where they must."""

import copy
import pickle

import pytest
import torch
from torch.testing import assert_close

from steadyflow.bijections import Affine, Autoregressive, fused_autoregressive
from steadyflow.networks import MaskedMLP, fused_masked

pytestmark = pytest.mark.skipif(fused_masked.library() is None, reason="no C compiler here")


def network(size, hidden, context, generator):
    order = torch.randperm(size, generator=generator).tolist()
    return MaskedMLP(size, 3, hidden, context, order, clip=1.5, zero_output=False)


@pytest.mark.parametrize("size", [1, 2, 8, 33])
@pytest.mark.parametrize("hidden", [(), (20,), (128, 128), (50, 70, 40)])
@pytest.mark.parametrize("context", [None, 3])
@pytest.mark.parametrize("batch", [1, 5, 257])
def test_masked_networks_and_their_gradients(generator, size, hidden, context, batch):
    if context and not hidden:
        pytest.skip("not a network")
    ours = network(size, hidden, context, generator)
    exact = copy.deepcopy(ours).double()
    x = torch.randn(batch, size, generator=generator)
    given = torch.randn(batch, context, generator=generator) if context else None
    weights = torch.randn(batch, 3 * size, generator=generator)

    def both(net, dtype):
        inputs = [v.to(dtype).requires_grad_() for v in (x, given) if v is not None]
        y = net(inputs[0], inputs[1] if context else None)
        return y, *torch.autograd.grad((y * weights).sum(), [*inputs, *net.parameters()])

    with torch.no_grad():
        assert_close(fused_masked.attempt(ours, x, given), exact(x.double(), given).float())
    for fast, truth in zip(both(ours, torch.float32), both(exact, torch.float64), strict=True):
        assert_close(fast, truth.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", ["tanh", "softsign"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (100, 8), (77, 64), (3, 700), (33, 17)])
def test_affine_and_its_gradients(generator, scale, shape):
    transform = Affine(scale, 2.0)
    x = torch.randn(shape, generator=generator)
    raw = 3 * torch.randn(shape[0], 2 * shape[1], generator=generator)
    weights = torch.randn(shape, generator=generator), torch.randn(shape[0], generator=generator)

    def both(function, dtype):
        inputs = [v.to(dtype).requires_grad_() for v in (x, raw)]
        z, log_det = function(*inputs)
        loss = (z * weights[0]).sum() + (log_det * weights[1]).sum()
        return z, log_det, *torch.autograd.grad(loss, inputs)

    fast = both(lambda *v: fused_autoregressive.affine(transform, *v), torch.float32)
    for ours, truth in zip(fast, both(transform.forward, torch.float64), strict=True):
        assert_close(ours, truth.float(), rtol=1e-4, atol=1e-4)


def test_second_derivatives_and_vmap(generator):
    layer = Autoregressive(Affine(), network(3, (16,), None, generator).double().float())
    layer.network = MaskedMLP(3, 2, (16,), zero_output=False)
    x = torch.randn(4, 3, generator=generator)

    def curvature(layer, x):
        x = x.clone().requires_grad_()
        z, log_det = layer(x)
        (first,) = torch.autograd.grad(z.square().sum() + log_det.sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    exact = curvature(copy.deepcopy(layer).double(), x.double())
    assert_close(curvature(layer, x), exact.float(), rtol=1e-3, atol=1e-4)

    def one(x):
        return layer(x[None])[1].sum()

    per_example = torch.func.vmap(torch.func.grad(one))(x)
    y = x.clone().requires_grad_()
    (whole,) = torch.autograd.grad(layer(y)[1].sum(), y)
    assert_close(per_example, whole, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_several_threads_give_the_same(generator):
    net = network(30, (128, 128), None, generator)
    x = torch.randn(600, 30, generator=generator)
    one = net(x)
    torch.set_num_threads(3)
    try:
        three = net(x)
    finally:
        torch.set_num_threads(1)
    assert_close(three, one, rtol=0, atol=0)


@torch.no_grad()
def test_networks_are_copied_pickled_and_moved_after_use(generator):
    net = network(4, (16, 16), None, generator)
    x = torch.randn(6, 4, generator=generator)
    y = net(x)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), net.double().float()):
        assert_close(other(x), y)


@torch.no_grad()
def test_nan_stays_in_its_example(generator):
    net = MaskedMLP(4, 1, (32, 32), zero_output=False)
    x = torch.randn(5, 4, generator=generator)
    x[2, 1] = torch.nan
    missing = net(x).isnan()
    assert missing[2].any()
    assert not missing[[0, 1, 3, 4]].any()
