"""Reversible chains: the gradients of ordinary autograd, without its stored activations."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.testing import assert_close
from zoo import BIJECTIONS, randomize

from steadyflow.bijections import (
    ActNorm,
    Additive,
    Affine,
    Bijection,
    Chain,
    Coupling,
    Halves,
    Inverse,
    NormalizedConvolution,
    Squeeze,
)
from steadyflow.networks import MLP, GlowNet

BATCH = 6
SMALL = ["coupling-pair", "chain-vector-context", "multi-scale-context"]


class Noisy(nn.Module):
    """A conditioner with dropout."""

    def __init__(self):
        super().__init__()
        self.network = MLP(2, 4, (8,))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x, context=None):
        return self.network(self.dropout(x), context)


class Iterative(Bijection):
    """z = sinh(a x), whose inverse pretends to be iterative, and must not be called."""

    closed_form_inverse = False

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, context=None):
        slope = (self.a * torch.cosh(self.a * x)).log()
        return torch.sinh(self.a * x), slope.flatten(1).sum(1)

    def inverse(self, z, context=None):
        raise AssertionError("a layer without a closed-form inverse was inverted")


def steps(depth, context=None):
    """Some steps of flow on images (4, 4, 4), with wide networks."""
    layers = [Squeeze()]
    for _ in range(depth):
        network = GlowNet(8, 16, 16, context, clip=10.0)
        layers += [NormalizedConvolution(16), Coupling(Halves(), Affine(bound=1.0), network)]
    return layers


def both(layers, generator=None):
    """The same layers in a plain and in a reversible chain of float64."""
    plain = Chain(*layers).double()
    if generator is not None:
        randomize(plain, generator)
    return plain, Chain(*copy.deepcopy(list(plain.bijections)), reversible=True).double()


def grads(chain, x, context=None, backwards=False):
    """Gradients of some loss with respect to x, the context and every parameter."""
    x = x.detach().requires_grad_()
    context = None if context is None else context.detach().requires_grad_()
    value, log_det = (chain.inverse if backwards else chain)(x, context)
    weights = torch.linspace(0.5, 2.0, len(x), dtype=log_det.dtype)
    loss = (value.flatten(1).square().sum(1) * weights).sum() - (weights * log_det).sum()
    given = [x, *([] if context is None else [context]), *chain.parameters()]
    return torch.autograd.grad(loss, given, allow_unused=True)


@pytest.mark.parametrize("name", BIJECTIONS)
def test_gradients_are_those_of_autograd(name, generator):
    case = BIJECTIONS[name]
    plain, reversible = both([case.random(generator)])
    x, context = case.x(BATCH, generator), case.given(BATCH, generator)
    if context is None and not any(p.requires_grad for p in plain.parameters()):
        x = x.requires_grad_()
    assert_close(grads(reversible, x, context), grads(plain, x, context), rtol=1e-8, atol=1e-8)
    assert reversible.drift <= 1e-10


@pytest.mark.parametrize("name", SMALL)
def test_gradients_of_the_inverse_direction(name, generator):
    case = BIJECTIONS[name]
    plain, reversible = both([case.random(generator)])
    x, context = case.x(BATCH, generator), case.given(BATCH, generator)
    z = plain(x, context)[0].detach()
    ours, truth = grads(reversible, z, context, True), grads(plain, z, context, True)
    assert_close(ours, truth, rtol=1e-8, atol=1e-8)


def test_gradients_through_depth_with_context(generator):
    plain, reversible = both(steps(32, context=3))
    with torch.no_grad():
        for p in plain.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    reversible.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(BATCH, 4, 4, 4, generator=generator, dtype=torch.float64)
    context = torch.randn(BATCH, 3, generator=generator, dtype=torch.float64)
    ours, truth = grads(reversible, x, context), grads(plain, x, context)
    for a, b in zip(ours, truth, strict=True):
        assert (a - b).abs().max() <= 1e-8 * b.abs().max().clamp_min(1.0)
    assert 0 < reversible.drift <= 1e-10


@pytest.mark.parametrize("transform", [Additive, Affine])
def test_the_conditioner_is_evaluated_twice_in_all(transform, generator):
    calls = []
    network = MLP(2, 2 * transform().planes, (8,))
    network.register_forward_hook(lambda *_: calls.append(1))
    chain = Chain(Coupling(Halves(), transform(), network), reversible=True)
    grads(chain, torch.randn(BATCH, 4, generator=generator))
    assert len(calls) == 2, "once forwards, once backwards"


def saved_bytes(chain, x):
    """What autograd keeps between the passes, but for what is alive anyway: the parameters."""
    alive = {p.data_ptr() for p in chain.parameters()}
    total = 0

    def pack(tensor):
        nonlocal total
        if tensor.data_ptr() not in alive:
            total += tensor.numel() * tensor.element_size()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        z, log_det = chain(x)
    (z.sum() + log_det.sum()).backward()
    return total


def test_saved_bytes_do_not_grow_with_depth(generator):
    x = torch.randn(BATCH, 4, 4, 4, generator=generator)
    found = [saved_bytes(Chain(*steps(k), reversible=True), x) for k in (1, 4, 16)]
    assert found[0] == found[1] == found[2] == 2 * x.numel() * x.element_size()
    assert saved_bytes(Chain(*steps(4)), x) > 20 * found[0]


def test_gradients_accumulate_and_hooks_fire(generator):
    plain, reversible = both(steps(2), generator)
    seen = []
    for name, parameter in reversible.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: seen.append(name))
    for _ in range(2):
        x = torch.randn(BATCH, 4, 4, 4, generator=generator, dtype=torch.float64)
        for chain in (plain, reversible):
            z, log_det = chain(x)
            (z.square().sum() - log_det.sum()).backward()
    assert sorted(seen) == sorted(2 * [name for name, _ in reversible.named_parameters()])
    for p, q in zip(plain.parameters(), reversible.parameters(), strict=True):
        assert_close(q.grad, p.grad, rtol=1e-8, atol=1e-8)


def test_shared_and_frozen_parameters(generator):
    layer = Coupling(Halves(), Affine(), MLP(2, 4, (8,)))
    plain, reversible = both([layer, ActNorm(4), layer], generator)
    reversible = Chain(*[*plain.bijections], reversible=True)
    x = torch.randn(BATCH, 4, generator=generator, dtype=torch.float64)
    assert_close(grads(reversible, x), grads(plain, x), rtol=1e-8, atol=1e-8)
    reversible[1].shift.requires_grad_(False)
    z, log_det = reversible(x)
    (z.sum() + log_det.sum()).backward()
    assert reversible[1].shift.grad is None
    assert reversible[1].log_scale.grad is not None


def test_random_numbers_are_replayed(generator):
    layers = [Coupling(Halves(flip=i % 2 == 1), Affine(), Noisy()) for i in range(3)]
    plain, reversible = both(layers, generator)
    inverse = Chain(Inverse(plain[0]), reversible=True)  # evaluates its network twice
    x = torch.randn(BATCH, 4, generator=generator, dtype=torch.float64)
    for one, other in ((plain, reversible), (Chain(Inverse(plain[0])), inverse)):
        torch.manual_seed(1)
        truth = grads(one, x)
        torch.manual_seed(1)
        ours = grads(other, x)
        after = torch.get_rng_state()
        assert_close(ours, truth, rtol=1e-8, atol=1e-8)
        torch.manual_seed(1)
        other(x)
        assert torch.equal(after, torch.get_rng_state()), "the backward pass drew numbers"


@pytest.mark.parametrize("backward_inside", [True, False])
def test_mixed_precision_is_replayed(generator, backward_inside):
    plain, reversible = (chain.float() for chain in both(steps(3)))
    with torch.no_grad():
        for p in plain.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator))
    reversible.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(BATCH, 4, 4, 4, generator=generator)
    for chain in (plain, reversible):
        with torch.autocast("cpu", torch.bfloat16):
            z, log_det = chain(x)
            assert z.dtype == log_det.dtype == torch.float32
            loss = z.square().sum() - log_det.sum()
            if backward_inside:
                loss.backward()
        if not backward_inside:
            loss.backward()
    for p, q in zip(plain.parameters(), reversible.parameters(), strict=True):
        assert q.grad is not None
        assert (q.grad - p.grad).norm() <= 1e-2 * p.grad.norm()
    assert reversible.drift <= 1e-5, "the networks' inputs are the same, so their outputs are"


def test_layers_without_a_closed_form_inverse_are_stored(generator):
    coupling = Coupling(Halves(), Affine(), MLP(2, 4, (8,)))
    plain, reversible = both([coupling, Iterative(), ActNorm(4), Iterative()])
    x = torch.randn(BATCH, 4, generator=generator, dtype=torch.float64)
    assert_close(grads(reversible, x), grads(plain, x), rtol=1e-8, atol=1e-8)


def test_nested_reversible_chains(generator):
    inner = Chain(*steps(2), reversible=True)
    plain, reversible = both([inner], generator)
    plain[0].reversible = False
    x = torch.randn(BATCH, 4, 4, 4, generator=generator, dtype=torch.float64)
    assert_close(grads(reversible, x), grads(plain, x), rtol=1e-8, atol=1e-8)


def test_function_transforms_differentiate_the_plain_chain(generator):
    case = BIJECTIONS["coupling-pair"]
    plain, reversible = both([case.random(generator)])
    x = case.x(1, generator)
    jacobian = torch.func.jacrev(lambda v: reversible(v)[0])(x)
    assert_close(jacobian, torch.func.jacrev(lambda v: plain(v)[0])(x))


def test_second_derivatives_are_refused(generator):
    chain = Chain(ActNorm(4), reversible=True)
    x = torch.randn(BATCH, 4, generator=generator).requires_grad_()
    with pytest.raises(RuntimeError, match="reversible=False"):
        torch.autograd.grad(chain(x)[0].sum(), x, create_graph=True)


def in_place(weights):
    with torch.no_grad():
        weights[-1].add_(1e-3)


def through_data(weights):
    weights[-1].data.add_(1e-3)


def fused_step(weights):
    for p in weights:
        p.grad = torch.ones_like(p)
    torch.optim.AdamW(weights, lr=1e-3, fused=True).step()


@pytest.mark.parametrize("change", [in_place, through_data, fused_step])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_changed_before_the_backward_pass_are_refused(change, dtype, generator):
    chain = randomize(Chain(*steps(2), reversible=True), generator, gain=0.3).to(dtype)
    z, _ = chain(torch.randn(BATCH, 4, 4, 4, generator=generator).to(dtype))
    z.sum().backward(retain_graph=True)  # nothing has changed
    weights = list(chain.parameters())
    counts = [p._version for p in weights]
    change(weights)
    assert (counts == [p._version for p in weights]) == (change is not in_place)
    with pytest.raises(RuntimeError, match="changed between its forward and its backward"):
        z.sum().backward()


def test_weights_that_are_no_numbers_have_not_changed(generator):
    chain = Chain(ActNorm(4), reversible=True)
    chain[0].shift.data.fill_(float("nan"))
    z, _ = chain(torch.randn(BATCH, 4, generator=generator))
    z.sum().backward()
    assert chain[0].shift.grad is not None


def test_drift_is_watched(generator):
    chain = randomize(Chain(*steps(8), reversible=True), generator, gain=0.3)
    z, log_det = chain(torch.randn(BATCH, 4, 4, 4, generator=generator))
    assert chain.drift == 0
    (z.sum() + log_det.sum()).backward()
    assert 0 < chain.drift < 1e-3
    assert "drift" not in chain.state_dict()


def _ddp_worker(rank, port, queue):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    chain = Chain(*steps(2), reversible=True).double()
    model = torch.nn.parallel.DistributedDataParallel(chain)
    x = torch.randn(2, BATCH, 4, 4, 4, dtype=torch.float64)
    z, log_det = model(x[rank])
    (z.square().sum() - log_det.sum()).backward()
    if rank == 0:
        plain = Chain(*copy.deepcopy(list(chain.bijections))).double()
        plain.zero_grad()
        z, log_det = plain(x.flatten(0, 1))
        ((z.square().sum() - log_det.sum()) / 2).backward()
        pairs = zip(chain.parameters(), plain.parameters(), strict=True)
        queue.put(max(float((p.grad - q.grad).abs().max()) for p, q in pairs))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_gradients_are_averaged_over_processes():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn = torch.multiprocessing.get_context("spawn")
    queue = spawn.SimpleQueue()
    workers = [spawn.Process(target=_ddp_worker, args=(rank, port, queue)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    assert queue.get() <= 1e-8
