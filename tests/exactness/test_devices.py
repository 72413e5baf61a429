"""No tensor is made on the CPU when the model is elsewhere: seen without any other device.

On torch's "meta" device tensors have shapes but no values, and an operation on a tensor of the CPU
and one of meta fails as it would between a CPU and a GPU. What looks at values is tried up to the
place where it does.
"""

import contextlib

import pytest
import torch
from zoo import BIJECTIONS, MODELS

from steadyflow.bijections import dequantization, reversible

BATCH = 3


@pytest.fixture(autouse=True)
def without_autocast(monkeypatch):
    # meta has no mixed precision to ask about
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda *_: torch.bfloat16)
    monkeypatch.setattr(reversible._Cast, "again", lambda _: contextlib.nullcontext())


@contextlib.contextmanager
def until_values_matter():
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        known = ("on meta tensors", "of meta tensor", "aten::equal", "aten::_local_scalar_dense")
        if not any(words in str(error) for words in known):
            raise


def meta(generator, case):
    x, context = case.x(BATCH, generator), case.given(BATCH, generator)
    return x.to("meta"), None if context is None else context.to("meta")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, case in BIJECTIONS.items() if case.compiles])
def test_bijections(name, generator):
    case = BIJECTIONS[name]
    bijection = case.build().double().to("meta")
    x, context = meta(generator, case)
    with until_values_matter():
        z, log_det = bijection(x.requires_grad_(), context)
        assert z.device == log_det.device == x.device
        if z.requires_grad:
            z.sum().backward()
    z = x.new_zeros(BATCH, *bijection.output_shape(case.event_shape))
    with until_values_matter():
        assert bijection.inverse(z, context)[0].device == x.device


@pytest.mark.parametrize("name", [n for n, case in MODELS.items() if case.compiles])
def test_models(name, generator, monkeypatch):
    case = MODELS[name]
    model = case.build().to("meta")
    x, context = meta(generator, case)
    if model.num_classes is not None:  # labels are looked at
        context = context.new_zeros(BATCH, model.num_classes, dtype=torch.float32)
        monkeypatch.setattr(model, "condition", lambda given, _: given)
    x = x.float() if x.is_floating_point() else x.to(torch.uint8)
    monkeypatch.setattr(dequantization, "recording", lambda: True)  # pixels are looked at
    context = None if context is None else context.float()
    with until_values_matter():
        loss = model.loss(x, context)
        if loss.requires_grad:  # a whitening has nothing to train
            loss.backward()
    with until_values_matter():
        assert model.sample(BATCH, context).device == x.device
