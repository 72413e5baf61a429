"""Gradients and Hessians of single examples by torch.func, against a loop with autograd."""

import pytest
import torch
from torch.func import functional_call, grad, hessian, vmap
from torch.testing import assert_close
from zoo import MODELS

BATCH = 3
SOLVED = ("diffusion", "flow-matching", "iresnet")  # ODEs and series: data decide the steps
REAL = [n for n, case in MODELS.items() if not (case.integer or n.startswith(SOLVED))]
TRAINED = [n for n in REAL if not n.startswith("whitening")]


def drawn(name, generator, dtype=torch.float64):
    """A model with random parameters, and the examples as `vmap` takes them."""
    case = MODELS[name]
    model = case.random(generator, dtype)
    context = case.given(BATCH, generator, dtype)
    return model, [v for v in (case.x(BATCH, generator, dtype), context) if v is not None]


def negative(model, parameters, example):
    """-log p of one example."""
    return -functional_call(model, parameters, tuple(v[None] for v in example)).sum()


def alone(model, examples, i):
    """The same for row i of a batch, in the ordinary way."""
    return -model(*(v[i : i + 1] for v in examples)).sum()


def per_example(model, examples):
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, *example):
        return negative(model, parameters, example)

    return vmap(grad(loss), (None, *(0 for _ in examples)))(parameters, *examples)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of TarFlow's attention
@pytest.mark.parametrize("name", TRAINED)
def test_gradients_of_the_parameters(name, generator):
    model, examples = drawn(name, generator)
    found = per_example(model, examples)
    for i in range(BATCH):
        expected = torch.autograd.grad(alone(model, examples, i), list(model.parameters()))
        assert_close([g[i] for g in found.values()], list(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["nice-5", "realnvp-5", "maf-2", "spline-flow-coupling-2"])
def test_gradients_in_single_precision_are_those_of_the_kernels(name, generator):
    model, examples = drawn(name, generator, torch.float32)
    found = per_example(model, examples)
    for i in range(BATCH):
        expected = torch.autograd.grad(alone(model, examples, i), list(model.parameters()))
        assert_close([g[i] for g in found.values()], list(expected), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [n for n in REAL if not n.startswith("tarflow")])
def test_hessians_of_the_data(name, generator):
    model, examples = drawn(name, generator)
    found = vmap(hessian(lambda *example: -model(*(v[None] for v in example)).sum()))(*examples)
    x = examples[0].flatten(1)
    size = x.shape[1]
    found = found.reshape(BATCH, size, size)
    assert_close(found, found.mT, rtol=1e-9, atol=1e-9)
    # differences of the gradient, along a random direction
    step = 1e-6 * torch.randn(x[0].shape, generator=generator, dtype=x.dtype)

    def gradients(x):
        x = x.view_as(examples[0]).detach().requires_grad_()
        loss = -model(x, *examples[1:]).sum()
        return torch.autograd.grad(loss, x)[0].flatten(1)

    change = (gradients(x + step) - gradients(x - step)) / 2e-6
    assert_close(found @ (step / 1e-6), change, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["nice-2", "realnvp-2-context", "maf-2", "spline-flow-2"])
def test_hessians_of_parameters(name, generator):
    model, examples = drawn(name, generator)
    which = [n for n, p in model.named_parameters() if p.dim() == 1][-1]
    parameter = model.get_parameter(which)

    def loss(value, *example):
        return negative(model, {which: value}, example)

    found = vmap(hessian(loss), (None, *(0 for _ in examples)))(parameter.detach(), *examples)
    for i in range(BATCH):
        (first,) = torch.autograd.grad(alone(model, examples, i), parameter, create_graph=True)
        rows = [torch.autograd.grad(g, parameter, retain_graph=True)[0] for g in first]
        assert_close(found[i], torch.stack(rows), rtol=1e-9, atol=1e-9)


def test_a_wrong_label_is_refused_under_vmap(generator):
    model, (x, _) = drawn("realnvp-2-classes", generator)
    for wrong in (3, -1):
        labels = torch.tensor([0, wrong, 1])
        with pytest.raises(RuntimeError, match="out of bounds"):
            vmap(lambda v, c: model(v[None], c[None]).sum())(x, labels)


def test_second_derivatives_by_autograd_are_refused_where_there_are_none(generator):
    model, (x,) = drawn("maf-4-sampling", generator)
    with pytest.raises(RuntimeError, match=r"torch\.func"):
        torch.autograd.functional.hessian(lambda v: model(v[None]).sum(), x[0])
