"""torch.compile takes whole models without a graph break, and torch.export exports them."""

import pytest
import torch
from torch.testing import assert_close
from zoo import BIJECTIONS, MODELS

COMPILE = [name for name, case in BIJECTIONS.items() if case.compiles]
WHOLE = [name for name, case in MODELS.items() if case.compiles]


def each(names, *quick):
    """The names; tracing takes seconds, so all but the quick ones are marked slow."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


def whole(function):
    # the compiler's front half: the graph, its autograd and its shapes, without generating code
    return torch.compile(function, fullgraph=True, backend="aot_eager")


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    each(COMPILE, "coupling-checkerboard-affine-softsign-context", "chain-vector-context"),
)
def test_bijections_compile_both_ways(name, generator):
    case = BIJECTIONS[name]
    bijection = case.random(generator)
    x, context = case.x(4, generator), case.given(4, generator)
    expected = bijection(x, context)
    assert_close(whole(bijection)(x, context), expected)
    assert_close(whole(bijection.inverse)(expected[0], context)[0], x)


@pytest.mark.parametrize("name", each(WHOLE, "nice-image-classes", "realnvp-2-context"))
def test_log_prob_compiles_with_its_gradients(name, generator):
    case = MODELS[name]
    model = case.random(generator)
    x, context = case.x(4, generator), case.given(4, generator)

    parameters = list(model.parameters())
    if model.closed_form:
        pytest.skip("fitted in closed form: it has no parameters")

    def step(model):
        torch.manual_seed(5)  # of the dequantization noise
        log_prob = model(x, context)
        return log_prob.detach(), torch.autograd.grad(log_prob.sum(), parameters)

    expected, gradients = step(model)
    compiled, compiled_gradients = step(whole(model))
    assert_close(compiled, expected, rtol=1e-7, atol=1e-7)
    assert_close(compiled_gradients, gradients, rtol=1e-6, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", each(WHOLE, "realnvp-2-classes"))
def test_samples_compile(name, generator):
    case = MODELS[name]
    model = case.random(generator).eval()
    context = case.given(4, generator)
    sample = whole(lambda: model.sample(4, context))
    assert sample().shape == (4, *model.event_shape)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", each(WHOLE, "nice-image", "realnvp-5-context", "realnvp-image-context")
)
def test_log_prob_exports(name, generator):
    case = MODELS[name]
    model = case.random(generator).eval()
    x, context = case.x(4, generator), case.given(4, generator)
    given = (x,) if context is None else (x, context)
    exported = torch.export.export(model, given).module()
    torch.manual_seed(5)
    expected = model(*given)
    torch.manual_seed(5)
    assert_close(exported(*given), expected, rtol=1e-7, atol=1e-7)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", each([n for n in WHOLE if not MODELS[n].integer], "nice-2", "realnvp-2-classes")
)
def test_export_serves_any_batch(name, generator):
    case = MODELS[name]
    model = case.random(generator).eval()
    x, context = case.x(4, generator), case.given(4, generator)
    batch = torch.export.Dim("batch", min=1, max=4096)
    given = (x,) if context is None else (x, context)
    shapes = tuple({0: batch} for _ in given)
    exported = torch.export.export(model, given, dynamic_shapes=shapes).module()
    more = (case.x(9, generator), case.given(9, generator))[: len(given)]
    assert_close(exported(*more), model(*more))


class Draws(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, context=None):
        return self.model.sample(4, context)


@torch.no_grad()
@pytest.mark.parametrize("name", each(WHOLE))
def test_samples_export(name, generator):
    case = MODELS[name]
    model = case.random(generator).eval()
    context = case.given(4, generator)
    given = () if context is None else (context,)
    exported = torch.export.export(Draws(model), given).module()
    torch.manual_seed(5)
    expected = model.sample(4, *given)
    torch.manual_seed(5)
    assert_close(exported(*given), expected, rtol=1e-7, atol=1e-7)
