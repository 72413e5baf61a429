"""Estimated log-determinants and their gradients against the determinant itself."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from steadyflow.bijections import Residual
from steadyflow.bijections.power_series import Terms, estimated_log_det
from steadyflow.networks import ContractiveConvNet, ContractiveMLP
from steadyflow.solvers import draw_probes

DRAWS = 4000


class Linear(nn.Module):
    """g(x) = J x for a Jacobian that is given; its Lipschitz bound is its norm."""

    def __init__(self, jacobian):
        super().__init__()
        self.weight = nn.Parameter(jacobian)
        self.lipschitz = float(torch.linalg.matrix_norm(jacobian, 2))
        self.norm = "2"

    def linearized(self, x, context=None):
        weight = self.weight.detach()
        return x @ weight.T, lambda u: u @ weight

    def jvp(self, x, tangent, context=None):
        return x @ self.weight.T, tangent @ self.weight.T


def jacobian(kind, c, generator, size=8):
    """A matrix of norm c, symmetric and positive (the worst for the series) or random."""
    a = torch.randn(size, size, generator=generator, dtype=torch.float64)
    if kind == "symmetric":
        q = torch.linalg.qr(a)[0]
        return q @ torch.diag(torch.linspace(0.2, 1, size, dtype=torch.float64) * -c) @ q.T
    return c * a / torch.linalg.matrix_norm(a, 2)


def z_score(draws, truth):
    """How many standard errors the mean lies from the truth."""
    return float((draws.mean() - truth) / (draws.std() / math.sqrt(len(draws))))


@pytest.mark.parametrize("kind", ["symmetric", "random"])
@pytest.mark.parametrize("c", [0.5, 0.9, 0.98])
def test_roulette_is_unbiased_and_truncation_is_not(kind, c, generator):
    """4000 draws within 4 standard errors of slogdet; five terms alone are not, if they matter."""
    matrix = jacobian(kind, c, generator)
    truth = torch.linalg.slogdet(torch.eye(8) + matrix).logabsdet
    g, x = Linear(matrix), torch.zeros(DRAWS, 8, dtype=torch.float64)
    with torch.no_grad():
        _, draws = estimated_log_det(g, x, None, Terms.roulette(2, c))
        _, cut = estimated_log_det(g, x, None, Terms(5))
    assert abs(z_score(draws, truth)) < 4
    if kind == "symmetric" and c >= 0.9:
        assert abs(z_score(cut, truth)) > 8


@pytest.mark.parametrize("groups", [None, 1, 3])
@pytest.mark.parametrize("kind", ["symmetric", "random"])
def test_the_neumann_gradient_is_unbiased(kind, groups, generator):
    """The gradient of log det(I + J) is (I + J)^-T: each entry within 4.5 standard errors."""
    matrix = jacobian(kind, 0.9, generator, size=4)
    truth = torch.linalg.inv(torch.eye(4) + matrix).T
    terms = Terms.roulette(2, 0.9, groups)
    g = Linear(matrix)
    batches = []
    for _ in range(400):
        x = torch.zeros(10, 4, dtype=torch.float64, requires_grad=True)
        _, log_det = estimated_log_det(g, x, None, terms)
        batches.append(torch.autograd.grad(log_det.mean(), g.weight)[0])
    draws = torch.stack(batches)
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - truth).abs() / error).max() < 4.5


def test_the_slow_tail_is_slow_enough():
    """L^2k / S_k is summable for every L < 1: the variance is finite."""
    for c in (0.1, 0.5, 0.9, 0.98, 0.999):
        terms = Terms.roulette(2, c)
        assert c**2 < terms.slow < 1
    chances = [Terms.roulette(2, 0.9).survival(k) for k in range(1, 400)]
    assert chances[:2] == [1, 1]
    assert all(a > b > 0 for a, b in itertools.pairwise(chances[1:]))
    assert Terms(3).survival(3) == 1
    assert Terms(3).survival(4) == 0


def test_terms_are_drawn_as_often_as_their_weights_say(generator):
    """The share of examples with at least k terms is S_k: n = 100 000, 4 standard errors."""
    terms = Terms.roulette(2, 0.95)
    counts = terms.draw(100_000)
    for k in (3, 4, 6, 10, 30):
        p = terms.survival(k)
        share = float((counts >= k).double().mean())
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / len(counts))
    for groups in (1, 7):
        assert len(set(Terms.roulette(2, 0.95, groups).draw(50).tolist())) <= groups


def both(kind, generator):
    """A block of estimated log-determinant and some data."""
    net = (
        ContractiveMLP(4, (8,), 2, coefficient=0.8)
        if kind == "vector"
        else ContractiveConvNet(2, 4, (3, 3), 2, coefficient=0.8)
    )
    block = Residual(net, "roulette").double()
    shape = (4,) if kind == "vector" else (2, 3, 3)
    x = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    return block, x, torch.randn(3, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("weights", [(0, 1, 0), (1, 2, 3)])
@pytest.mark.parametrize("kind", ["vector", "image"])
def test_the_backward_pass_is_right_for_any_weights(kind, weights, generator):
    """Of parameters, data and context: as autograd has them, and as the sum over the examples."""
    block, x, context = both(kind, generator)
    terms, weights = Terms(4), torch.tensor(weights, dtype=torch.float64)
    x, context = x.requires_grad_(), context.requires_grad_()
    inputs = [x, context, *block.network.parameters()]

    def ours(weights):
        torch.manual_seed(5)
        value, log_det = estimated_log_det(block.network, x, context, terms)
        loss = (weights * log_det).sum() + (weights * value.flatten(1).square().sum(1)).sum()
        return torch.autograd.grad(loss, inputs, allow_unused=True)

    def plain(weights):
        torch.manual_seed(5)
        (probe,) = draw_probes(x)
        value = block.network(x, context)
        row, w = probe, probe.clone()
        for k in range(1, 4):
            (row,) = torch.autograd.grad(value, x, row, retain_graph=True)
            w = w + (-1) ** k * row
        (last,) = torch.autograd.grad(value, x, w.detach(), create_graph=True)
        log_det = (last * probe).flatten(1).sum(1)
        loss = (weights * log_det).sum() + (weights * value.flatten(1).square().sum(1)).sum()
        return torch.autograd.grad(loss, inputs, allow_unused=True)

    def summed(function):
        each = [function(weights * row) for row in torch.eye(3, dtype=torch.float64)]
        return [
            None if column[0] is None else torch.stack(column).sum(0)
            for column in zip(*each, strict=True)
        ]

    with torch.random.fork_rng():
        whole = ours(weights)
        for a, b in zip(whole, summed(ours), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert_close(a, b, rtol=1e-9, atol=1e-12)
        for a, b in zip(whole, plain(weights), strict=True):
            if a is not None:
                assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_the_memory_of_the_backward_pass_does_not_grow_with_the_terms(generator):
    """What autograd keeps for one block, in bytes, counted as it packs it."""
    block, x, _ = both("image", generator)
    kept = {}
    for n in (2, 20):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=sizes: s.append(t.numel() * t.element_size()) or t, lambda t: t
        ):
            value, log_det = estimated_log_det(block.network, x.requires_grad_(), None, Terms(n))
            (value.sum() + log_det.sum()).backward()
        kept[n] = sum(sizes)
    # the vector-Jacobian products of the series are made under hooks too: they see the same graph
    assert kept[20] == kept[2]


def test_second_derivatives_are_refused(generator):
    block, x, context = both("vector", generator)
    _, log_det = estimated_log_det(block.network, x.requires_grad_(), context, Terms(3))
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(log_det.sum(), x, create_graph=True)


def test_training_and_evaluation_may_differ(generator):
    block = Residual(ContractiveMLP(3, (8,)), "truncated", "exact")
    assert block.exact_log_det
    x = torch.randn(5, 3)
    torch.manual_seed(0)
    first = block.train()(x)[1]
    assert not torch.allclose(block(x)[1], first)
    assert torch.equal(block.eval()(x)[1], block(x)[1])
    assert not Residual(ContractiveMLP(3, (8,)), "truncated").exact_log_det
