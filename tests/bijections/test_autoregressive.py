"""Masks, the two inverses and the kernel, and gradients through the inverse."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from steadyflow.bijections import (
    Additive,
    Affine,
    Autoregressive,
    Inverse,
    MixtureOfLogistics,
    RationalQuadraticSpline,
)
from steadyflow.bijections import fused_autoregressive as fused
from steadyflow.networks import MaskedMLP
from steadyflow.networks.masked import variable_order

TRANSFORMS = {
    "additive": Additive,
    "affine": Affine,
    "softsign": lambda: Affine("softsign", 1.0),
    "spline": lambda: RationalQuadraticSpline(4, min_slope=0.05),
    "mixture": lambda: MixtureOfLogistics(3),
}


def layer(transform, size, generator, context=None, gain=1.0, inverse="auto", **options):
    """An autoregressive layer with random weights."""
    order = torch.randperm(size, generator=generator).tolist()
    options = {"hidden_features": (17, 17), "clip": 3.0, "order": order, **options}
    made = Autoregressive(
        transform,
        MaskedMLP(size, transform.planes, context_features=context, **options),
        inverse,
    )
    with torch.no_grad():
        for p in made.parameters():
            fan_in = p.shape[1] if p.dim() > 1 else 10
            p.copy_(gain * torch.randn(p.shape, generator=generator) / fan_in**0.5)
    return made


@pytest.mark.parametrize("size", [1, 2, 5, 30])
@pytest.mark.parametrize("hidden", [(), (3,), (40, 20), (16, 16, 16)])
@pytest.mark.parametrize("context", [None, 2])
@pytest.mark.parametrize("residual", [False, True])
def test_each_output_sees_exactly_the_variables_before_it(
    generator, size, hidden, context, residual
):
    if (residual and len(set(hidden)) > 1) or (context and not hidden):
        pytest.skip("not a network")
    order = torch.randperm(size, generator=generator)
    network = MaskedMLP(
        size, 2, hidden, context, order.tolist(), residual, "tanh", zero_output=False
    ).double()
    given = None if context is None else torch.randn(1, context).double()
    jacobian = torch.autograd.functional.jacobian(
        lambda x: network(x[None], given)[0], torch.randn(size).double()
    )
    rank = order.argsort()
    sees = jacobian.unflatten(0, (2, size)) != 0
    before = rank[:, None] > rank
    assert not (sees & ~before).any()
    if hidden and min(hidden) >= size:
        assert (sees.any(0) == before).all()


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("context", [None, 2])
@pytest.mark.parametrize("residual", [False, True])
@torch.no_grad()
def test_all_ways_to_invert_agree(generator, name, context, residual):
    flow = layer(TRANSFORMS[name](), 6, generator, context, residual=residual).double()
    z = 2 * torch.randn(100, 6, generator=generator, dtype=torch.float64)
    given = None
    if context:
        given = torch.randn(100, context, generator=generator, dtype=torch.float64)
    x, log_det = flow.inverse(z, given)
    again, forward_log_det = flow(x, given)
    assert_close(again, z, rtol=0, atol=1e-9)
    assert_close(log_det, -forward_log_det, rtol=0, atol=1e-9)
    flow.method = "fixed-point"
    assert_close(flow.inverse(z, given)[0], x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["additive", "affine", "softsign", "spline"])
@pytest.mark.parametrize("size", [1, 5, 20])
@pytest.mark.parametrize("batch", [1, 64, 150])
@pytest.mark.parametrize("hidden", [(), (30,), (24, 24, 24)])
@torch.no_grad()
def test_the_kernel_is_the_definition(generator, name, size, batch, hidden):
    context = 3 if hidden else None
    flow = layer(
        TRANSFORMS[name](), size, generator, context, residual=True, hidden_features=hidden
    )
    z = 2 * torch.randn(batch, size, generator=generator)
    given = torch.randn(batch, 3, generator=generator) if context else None
    fast = fused.attempt(flow, z, given)
    if fast is None:
        pytest.skip("no C compiler here")
    x = flow._one_by_one(z, given)
    assert_close(fast[0], x, rtol=1e-4, atol=1e-4)
    assert_close(fast[1], -flow(x, given)[1], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_kernel_in_several_threads(generator):
    flow = layer(Affine(), 40, generator, hidden_features=(128, 128))
    z = torch.randn(500, 40, generator=generator)
    one = flow.inverse(z)
    torch.set_num_threads(3)
    try:
        three = flow.inverse(z)
    finally:
        torch.set_num_threads(1)
    assert_close(three, one, rtol=0, atol=0)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("context", [None, 2])
def test_gradients_through_the_inverse_are_those_of_d_passes(generator, name, context):
    flow = layer(TRANSFORMS[name](), 4, generator, context, activation="tanh").double()
    z = torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    given = None
    if context:
        given = torch.randn(7, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    sought = [z, *([] if given is None else [given]), *flow.parameters()]

    def gradients(x, log_det):
        loss = (x * weights).sum() + log_det.square().sum()
        return torch.autograd.grad(loss, sought, allow_unused=True)

    x = torch.zeros_like(z)
    for _ in range(4):  # D passes of the whole network, recorded by autograd
        x, log_det = flow.transform.inverse(z, flow.network(x, given))
    ours, theirs = gradients(*flow.inverse(z, given)), gradients(x, log_det)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["affine", "spline"])
@torch.no_grad()
def test_sixty_four_variables_in_single_precision(generator, name):
    flow = layer(TRANSFORMS[name](), 64, generator, hidden_features=(128, 128), gain=0.7)
    x = torch.randn(512, 64, generator=generator)
    z, log_det = flow(x)
    back, back_log_det = flow.inverse(z)
    assert (back - x).abs().max() < 1e-4
    assert (log_det + back_log_det).abs().max() < 2e-3


def test_an_inverse_autoregressive_flow_draws_in_one_pass(generator):
    flow = Inverse(layer(Affine(), 5, generator))
    z = torch.randn(10, 5, generator=generator, requires_grad=True)
    x, _ = flow.inverse(z)
    x.sum().backward()
    assert z.grad.isfinite().all()
    assert_close(flow(x.detach())[0], z.detach(), rtol=0, atol=1e-4)


@torch.no_grad()
def test_any_masked_network_will_do(generator):
    class Mine(nn.Module):
        def forward(self, x, context=None):
            before = x.cumsum(1) - x
            return torch.cat((torch.sin(before), before), 1)

    flow = Autoregressive(Affine(), Mine())
    assert flow.method == "fixed-point"
    x = torch.randn(20, 7, generator=generator, dtype=torch.float64)
    assert_close(flow.inverse(flow(x)[0])[0], x, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="fixed-point"):
        Autoregressive(Affine(), Mine(), "incremental")


def test_orders():
    assert variable_order("reverse", 3, 0) == [0, 1, 2]
    assert variable_order("reverse", 3, 1) == [2, 1, 0]
    assert variable_order("random", 9, 1) == variable_order("random", 9, 1)
    assert variable_order("random", 9, 1) != variable_order("random", 9, 2)
    with pytest.raises(ValueError, match="random"):
        variable_order("randm", 3, 0)
    with pytest.raises(ValueError, match="not an order"):
        MaskedMLP(3, 1, order=[0, 1, 1])
