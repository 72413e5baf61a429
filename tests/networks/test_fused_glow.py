"""The kernel of Glow's conditioner gives what the convolutions give, and steps aside elsewhere."""

import copy

import pytest
import torch
from torch.testing import assert_close

from steadyflow import Glow
from steadyflow.networks import fused_glow
from steadyflow.networks.glow import GlowNet

pytestmark = pytest.mark.skipif(fused_glow.library() is None, reason="no C compiler here")


@pytest.fixture
def calls(monkeypatch):
    """How often the kernel ran."""
    seen, run = [], fused_glow._run

    def counted(*inputs, **options):
        seen.append(1)
        return run(*inputs, **options)

    monkeypatch.setattr(fused_glow, "_run", counted)
    return seen


def network(channels, out, hidden, generator, **options):
    net = GlowNet(channels, out, hidden, clip=1.5, **options)
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return net


# (batch, channels, height, width), channels out, hidden: panels that end inside of rows and
# images, images of one pixel, rows longer than a panel, widths beside the tiles' multiples
SHAPES = [
    ((5, 2, 16, 16), 4, 128),
    ((3, 4, 8, 8), 8, 33),
    ((7, 1, 28, 28), 2, 16),
    ((4, 3, 1, 1), 5, 9),
    ((6, 2, 7, 5), 3, 20),
    ((2, 24, 4, 4), 48, 64),
    ((1, 2, 3, 130), 1, 8),
    ((3, 2, 1, 9), 2, 1),
]


@pytest.mark.parametrize(("shape", "out", "hidden"), SHAPES)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("given", [None, 3])
def test_values_and_gradients(generator, calls, monkeypatch, shape, out, hidden, threads, given):
    monkeypatch.setattr(fused_glow, "WORK_OF_A_THREAD", 1)
    ours = network(shape[1], out, hidden, generator, edges=not given, context_features=given)
    exact = copy.deepcopy(ours).double()
    x = torch.randn(shape, generator=generator)
    context = torch.randn(shape[0], given, generator=generator) if given else None
    weights = torch.randn(shape[0], out, *shape[2:], generator=generator)

    def both(net, dtype):
        inputs = [x.to(dtype).requires_grad_(), *net.parameters()]
        y = net(inputs[0], context)
        return y, *torch.autograd.grad((y * weights).sum(), inputs)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        fast = both(ours, torch.float32)
        with torch.no_grad():
            assert_close(ours(x, context), fast[0], rtol=0, atol=0)
    finally:
        torch.set_num_threads(before)
    assert len(calls) == 2
    for mine, truth in zip(fast, both(exact, torch.float64), strict=True):
        assert_close(mine, truth.float(), rtol=1e-4, atol=1e-5 * truth.detach().abs().max().item())


def test_gradients_of_a_part(generator):
    net = network(2, 4, 8, generator)
    x = torch.randn(3, 2, 4, 4, generator=generator)
    full = torch.autograd.grad(net(x).sum(), net.parameters())
    net.first.weight.requires_grad_(False)  # x needs none either
    wanted = [p for p in net.parameters() if p.requires_grad]
    for part, whole in zip(torch.autograd.grad(net(x).sum(), wanted), full[1:], strict=True):
        assert_close(part, whole)
    y = x.clone().requires_grad_()
    (of_x,) = torch.autograd.grad(net(y).sum(), y)
    exact = copy.deepcopy(net).double()
    y = x.double().requires_grad_()
    assert_close(of_x, torch.autograd.grad(exact(y).sum(), y)[0].float(), rtol=1e-4, atol=1e-5)


def test_the_number_of_threads_may_change_before_backward(generator, monkeypatch):
    monkeypatch.setattr(fused_glow, "WORK_OF_A_THREAD", 1)
    net = network(2, 4, 8, generator)
    x = torch.randn(5, 2, 7, 7, generator=generator)
    expected = torch.autograd.grad(net(x).square().sum(), net.parameters())
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        loss = net(x).square().sum()
    finally:
        torch.set_num_threads(before)
    for a, b in zip(torch.autograd.grad(loss, net.parameters()), expected, strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_second_derivatives_and_vmap(generator):
    net = network(2, 4, 8, generator)
    x = torch.randn(3, 2, 4, 4, generator=generator)

    def curvature(net, x):
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    exact = curvature(copy.deepcopy(net).double(), x.double())
    assert_close(curvature(net, x), exact.float(), rtol=1e-3, atol=1e-3)
    per_example = torch.func.vmap(torch.func.grad(lambda x: net(x[None]).square().sum()))(x)
    y = x.clone().requires_grad_()
    (whole,) = torch.autograd.grad(net(y).square().sum(), y)
    assert_close(per_example, whole, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_it_steps_aside(generator, calls):
    x = torch.randn(3, 2, 4, 4, generator=generator)
    net = network(2, 4, 8, generator)
    copy.deepcopy(net).double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        net(x)
    seen = []
    net.second.register_forward_hook(lambda *_: seen.append(1))
    net(x)
    assert seen
    assert not calls


@torch.no_grad()
def test_nan_stays_in_its_image(generator):
    net = network(2, 4, 8, generator)
    net.clip = None
    x = torch.randn(4, 2, 3, 3, generator=generator)
    x[2, 1, 1, 1] = torch.nan
    missing = net(x).isnan().flatten(1)
    assert missing[2].all()
    assert not missing[[0, 1, 3]].any()


@pytest.mark.parametrize("reversible", [False, True])
def test_a_whole_glow(generator, calls, reversible):
    torch.manual_seed(0)
    sizes = {"levels": 2, "steps": 2, "hidden_channels": 16}
    model = Glow(event_shape=(1, 8, 8), bits=0, reversible=reversible, **sizes)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    exact = copy.deepcopy(model).double()
    x = torch.rand(5, 1, 8, 8, generator=generator)
    loss, truth = -model.log_prob(x).mean(), -exact.log_prob(x.double()).mean()
    assert calls
    assert_close(loss, truth.float())
    mine = torch.autograd.grad(loss, model.parameters())
    for a, b in zip(mine, torch.autograd.grad(truth, exact.parameters()), strict=True):
        assert_close(a, b.float(), rtol=1e-3, atol=1e-4)
