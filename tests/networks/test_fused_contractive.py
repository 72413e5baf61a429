"""The kernel of contractions gives what the convolutions give, and steps aside elsewhere."""

import copy

import pytest
import torch
from torch.testing import assert_close

from steadyflow.networks import fused_contractive
from steadyflow.networks.contractive import Contractive, ContractiveConvNet

pytestmark = pytest.mark.skipif(fused_contractive._library() is None, reason="no C compiler here")


@pytest.fixture
def calls(monkeypatch):
    """How often the kernel was set up."""
    seen, net = [], fused_contractive._net

    def counted(*arguments):
        seen.append(1)
        return net(*arguments)

    monkeypatch.setattr(fused_contractive, "_net", counted)
    return seen


def network(shape, hidden, generator, **options):
    net = ContractiveConvNet(shape[1], hidden, shape[2:], **options)
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return net


def exactly(net):
    """A copy in float64 with the bounds that the net has, and convolutions."""
    net.lipschitz  # noqa: B018 - measures, so that both act alike
    return copy.deepcopy(net).double()


# (batch, channels, height, width), hidden, activation first, context
SHAPES = [
    ((3, 1, 28, 28), 64, False, None),
    ((3, 4, 14, 14), 33, True, None),
    ((5, 2, 5, 9), 16, True, 3),
    ((4, 3, 1, 1), 9, True, None),
    ((2, 16, 7, 7), 64, False, 2),
    ((3, 1, 3, 70), 5, True, None),
]


@pytest.mark.parametrize(("shape", "hidden", "first", "given"), SHAPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_values_products_and_gradients(
    generator, calls, monkeypatch, shape, hidden, first, given, threads
):
    monkeypatch.setattr(fused_contractive, "WORK_OF_A_THREAD", 1)
    ours = network(shape, hidden, generator, context_features=given, activate_first=first)
    exact = exactly(ours)
    x, v, dy, dt = (torch.randn(shape, generator=generator) for _ in range(4))
    context = torch.randn(shape[0], given, generator=generator) if given else None

    def everything(net, dtype):
        y, v2, g, gt = (u.to(dtype) for u in (x, v, dy, dt))
        c = None if context is None else context.to(dtype).requires_grad_()
        inputs = [y.requires_grad_(), *net.parameters(), *(c for _ in range(c is not None))]
        whole = net(y, c)
        of_value = torch.autograd.grad(whole, inputs, g, allow_unused=True)
        value, pushed = net.jvp(y, v2, c)
        of_both = torch.autograd.grad((value, pushed), inputs, (g, gt), allow_unused=True)
        again, pull = net.linearized(y.detach(), c)
        pulled = pull(g)
        return whole, value, pushed, again, pulled, pull(pulled[:2]), *of_value, *of_both

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        fast = everything(ours, torch.float32)
    finally:
        torch.set_num_threads(before)
    assert calls
    for mine, truth in zip(fast, everything(exact, torch.float64), strict=True):
        if truth is None:
            assert mine is None or not mine.any()
            continue
        largest = truth.detach().abs().max().item()
        assert_close(mine, truth.float(), rtol=1e-3, atol=1e-5 * (1 + largest))


def test_far_features(generator):
    net = network((2, 2, 4, 4), 8, generator)
    exact = exactly(net)
    x = 1e6 * torch.randn(2, 2, 4, 4, generator=generator)
    x[0, 0, 0, 0] = 1e30
    pairs = zip(net.jvp(x, x / 1e6), exact.jvp(x.double(), x.double() / 1e6), strict=True)
    for mine, truth in pairs:
        assert mine.isfinite().all()
        assert_close(mine, truth.float(), rtol=1e-3, atol=1e-3 * truth.detach().abs().max().item())


def test_second_derivatives(generator):
    net = network((3, 2, 4, 4), 8, generator)
    x = torch.randn(3, 2, 4, 4, generator=generator)

    def curvature(net, x):
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    exact = curvature(exactly(net), x.double())
    assert_close(curvature(net, x), exact.float(), rtol=1e-3, atol=1e-3)


def test_it_steps_aside(generator, calls):
    x = torch.randn(3, 2, 4, 4, generator=generator)
    network((3, 2, 4, 4), 8, generator, activation="elu")(x)
    net = network((3, 2, 4, 4), 8, generator)
    copy.deepcopy(net).double()(x.double())
    torch.func.vmap(lambda x: net(x[None])[0])(x)
    other = torch.randn(3, 2, 6, 5, generator=generator)  # of a size not measured yet
    assert_close(net(other), Contractive.forward(net, other))
    assert not calls
    assert_close(net(other), exactly(net)(other.double()).float())
    assert calls  # the size is known by now
