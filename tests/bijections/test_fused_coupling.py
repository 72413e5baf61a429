"""The compiled coupling gives what the plain one gives, in all circumstances."""

import copy
import ctypes
import io
import warnings

import pytest
import torch

from steadyflow import RealNVP, native
from steadyflow.bijections import Additive, Affine, Alternating, Coupling, Halves, fused_coupling
from steadyflow.networks import MLP

LAYERS = {
    # features, split, transform, hidden, context, clip
    "tanh": (8, Halves(), Affine("tanh", 2.0), (128, 128), None, 10.0),
    "softsign": (7, Alternating(flip=True), Affine("softsign", 1.5), (17, 5), None, 1.0),
    "additive": (5, Alternating(), Additive(), (33,), None, None),
    "context": (6, Halves(flip=True), Affine("tanh", 3.0), (20, 9), 3, 1.0),
    "width one": (2, Halves(), Affine(), (1,), None, 0.5),
    "no hidden layer": (3, Halves(), Affine(), (), None, None),
    "wide": (40, Alternating(), Affine("tanh", 2.0), (70, 150), 20, 2.0),
}


def make(name):
    features, split, transform, hidden, context, clip = LAYERS[name]
    (kept,), (moved,) = split.shapes((features,))
    network = MLP(
        kept,
        transform.planes * moved,
        hidden_features=hidden,
        context_features=context,
        clip=clip,
        zero_output=False,
    )
    return Coupling(split, transform, network), features, context


@pytest.fixture(autouse=True)
def kernel():
    if fused_coupling._library() is None:
        pytest.skip("there is no compiled kernel on this machine")


def call(layer, x, context, inverse, fast):
    if fast:
        result = fused_coupling.attempt(layer, x, context, inverse)
        assert result is not None
        return result
    return layer.plain(layer.conditioner, x, context, inverse)


def inputs(batch, features, context_features):
    x = torch.randn(batch, features, requires_grad=True)
    if context_features is None:
        return x, None
    return x, torch.randn(batch, context_features, requires_grad=True)


@pytest.mark.parametrize("batch", [1, 63, 64, 200])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients(name, inverse, batch):
    layer, features, context_features = make(name)
    x, context = inputs(batch, features, context_features)
    weights = torch.randn(batch, features), torch.randn(batch)
    sources = [v for v in (x, context, *layer.parameters()) if v is not None]
    found = []
    for fast in (True, False):
        y, log_det = call(layer, x, context, inverse, fast)
        total = (y * weights[0]).sum() + (log_det * weights[1]).sum()
        found.append((y, log_det, *torch.autograd.grad(total, sources)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["tanh", "additive", "context"])
def test_second_derivatives(name):
    layer, features, context_features = make(name)
    x, context = inputs(70, features, context_features)
    sources = [v for v in (x, context, *layer.parameters()) if v is not None]
    found = []
    for fast in (True, False):
        y, log_det = call(layer, x, context, False, fast)
        total = y.square().sum() + log_det.square().sum()
        first = torch.autograd.grad(total, sources, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), sources))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_second_derivative_through_layers_that_share_weights():
    layer, features, _ = make("tanh")
    x = torch.randn(3, features, requires_grad=True)
    found = []
    for fast in (True, False):
        y, _ = call(layer, x, None, False, fast)
        y, _ = call(layer, y, None, False, fast)
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [*layer.parameters()]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_any_strides_of_input_and_gradient():
    layer, features, context_features = make("context")
    x = torch.randn(features, 2 * 50).t()[::2]
    context = torch.randn(1, context_features).expand(50, -1)
    for weight in (torch.ones(()).expand(50, features), torch.randn(features, 50).t()):
        grads = []
        for fast in (True, False):
            x = x.detach().requires_grad_()
            y, log_det = call(layer, x, context, False, fast)
            outer = weight, torch.ones(()).expand(50)
            grads.append(torch.autograd.grad((y, log_det), (x, *layer.parameters()), outer))
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_only_the_wanted_gradients():
    layer, features, _ = make("tanh")
    x = torch.randn(9, features)
    y, _ = call(layer, x, None, False, True)
    y.sum().backward()
    assert x.grad is None
    assert all(p.grad is not None for p in layer.parameters())
    x.requires_grad_()
    layer.requires_grad_(False)
    layer(x)[1].sum().backward()
    assert x.grad is not None


def test_each_row_is_its_own():
    layer, features, _ = make("tanh")
    x = torch.randn(130, features)
    with torch.no_grad():
        together, _ = layer(x)
        one, _ = layer(x[77:78])
    assert torch.equal(together[77:78], one)


def test_nan_and_infinity_pass():
    layer, features, _ = make("tanh")
    x = torch.randn(4, features)
    x[1, 0], x[2, -1], x[3, 0] = float("nan"), float("inf"), float("inf")
    with torch.no_grad():
        fast, plain = (call(layer, x, None, False, f)[0] for f in (True, False))
    torch.testing.assert_close(fast, plain, equal_nan=True)
    assert fast[1].isnan().any()


def test_several_threads_give_the_same():
    layer, features, _ = make("tanh")
    x = torch.randn(1000, features, requires_grad=True)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        y, log_det = layer(x)
        found.append((y, *torch.autograd.grad(y.sum() + log_det.sum(), (x, *layer.parameters()))))
    torch.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-3)


CIRCUMSTANCES = {
    "float64": lambda layer, x: (layer.double(), x.double()),
    "float16 weights": lambda layer, x: (layer.half(), x),
    "no examples": lambda layer, x: (layer, x[:0]),
    "another activation": lambda layer, x: (setattr(layer.conditioner, "activation", "silu"), x),
    "an unbounded scale": lambda layer, x: (setattr(layer, "transform", Affine("exp")), x),
    "a hook": lambda layer, x: (layer.conditioner.layers[0].register_forward_hook(print), x),
    "a parametrization": lambda layer, x: (
        torch.nn.utils.parametrizations.weight_norm(layer.conditioner.layers[0]),
        x,
    ),
    "meta": lambda layer, x: (layer, x.to("meta")),
}


@pytest.mark.parametrize("name", CIRCUMSTANCES)
def test_it_steps_aside(name):
    layer, features, _ = make("tanh")
    _, x = CIRCUMSTANCES[name](layer, torch.randn(4, features))
    assert fused_coupling.attempt(layer, x, None, False) is None


def test_it_steps_aside_under_autocast_and_transforms():
    layer, features, _ = make("tanh")
    x = torch.randn(4, features)
    with torch.autocast("cpu", torch.bfloat16):
        assert fused_coupling.attempt(layer, x, None, False) is None
        assert layer(x)[1].dtype == torch.float32
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: layer(v[None])[0][0]))(x)
    forward = torch.func.vmap(torch.func.jacfwd(lambda v: layer(v[None])[0][0]))(x)
    torch.testing.assert_close(jacobian, forward, rtol=1e-4, atol=1e-5)
    batched = torch.autograd.functional.jacobian(lambda v: layer(v)[0].sum(0), x, vectorize=True)
    torch.testing.assert_close(batched.transpose(0, 1), jacobian, rtol=1e-4, atol=1e-5)


def test_default_dtype_and_inference_mode():
    layer, features, _ = make("tanh")
    x = torch.randn(4, features)
    expected = layer(x)[0].detach()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            found, log_det = layer(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == log_det.dtype == torch.float32
    assert torch.equal(found, expected)


def test_compiled_whole_and_exported():
    model = RealNVP(event_shape=[4], couplings=2, hidden_features=[8])
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x = torch.randn(10, 4)
    expected = model(x).detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
        exported = torch.export.export(model, (x,)).module()(x)
    torch.testing.assert_close(compiled, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(exported, expected, rtol=1e-5, atol=1e-5)


def test_copies_and_pickles():
    layer, features, _ = make("tanh")
    x = torch.randn(4, features)
    expected = layer(x)[0]
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(layer), torch.load(buffer, weights_only=False)):
        assert torch.equal(other(x)[0], expected)


def test_training_agrees_with_the_plain_path(monkeypatch):
    x = torch.randn(256, 6)
    losses = []
    for fast in (True, False):
        if not fast:
            monkeypatch.setattr(fused_coupling, "_library", lambda: None)
        torch.manual_seed(0)
        model = RealNVP(event_shape=[6], couplings=4, hidden_features=[32, 32])
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(30):
            optimizer.zero_grad()
            loss = model.loss(x)
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_kernels_can_be_switched_off_or_fail(monkeypatch, tmp_path):
    source = tmp_path / "kernel.c"
    source.write_text("int answer(void) { return 42; }")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = native.load(source)
    assert isinstance(library, ctypes.CDLL)
    assert library.answer() == 42
    assert len([*(tmp_path / "steadyflow").iterdir()]) == 1
    source.write_text("this is not C")
    assert native.load(source) is None
    monkeypatch.setenv("CC", "no-such-compiler")
    assert native.load(source) is None
    monkeypatch.setenv("STEADYFLOW_NATIVE", "0")
    assert native.load(source) is None


def test_no_kernel_is_loaded_from_a_folder_that_others_can_write(monkeypatch, tmp_path):
    source = tmp_path / "kernel.c"
    source.write_text("int answer(void) { return 42; }")
    folder = tmp_path / "steadyflow"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.load(source) is None
