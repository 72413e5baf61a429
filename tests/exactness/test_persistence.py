"""Copies, pickles and files give back the same numbers, bit for bit."""

import copy
import io
import pickle

import pytest
import torch
from zoo import BIJECTIONS, MODELS

from steadyflow.models.model import GenerativeModel


@pytest.fixture(params=BIJECTIONS)
def case(request):
    return BIJECTIONS[request.param]


@torch.no_grad()
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "state_dict"])
def test_bijections_survive(case, generator, how):
    bijection = case.random(generator)
    x, context = case.x(3, generator), case.given(3, generator)
    if how == "deepcopy":
        other = copy.deepcopy(bijection)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(bijection))
    else:
        file = io.BytesIO()
        torch.save(bijection.state_dict(), file)
        file.seek(0)
        other = case.build().double()
        other.load_state_dict(torch.load(file, weights_only=True))
    for ours, theirs in zip(bijection(x, context), other(x, context), strict=True):
        assert torch.equal(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_saved_models_are_the_same_bit_for_bit(name, generator, tmp_path, dtype):
    case = MODELS[name]
    model = case.random(generator, dtype)
    model.save_pretrained(tmp_path / "model")
    other = GenerativeModel.from_pretrained(tmp_path / "model")
    assert type(other) is type(model)
    assert other.config == model.config
    assert not other.training
    for key, value in model.state_dict().items():
        assert value.dtype == other.state_dict()[key].dtype
        assert torch.equal(value, other.state_dict()[key])
    x, context = case.x(3, generator, dtype), case.given(3, generator, dtype)

    def drawn(model):
        torch.manual_seed(7)
        return model.sample(3, context, temperature=0.8), model.log_prob(x, context)

    for ours, theirs in zip(drawn(model), drawn(other), strict=True):
        assert torch.equal(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("name", ["nice-image", "realnvp-2-classes", "realnvp-image-context"])
def test_models_survive(name, how, generator):
    case = MODELS[name]
    model = case.random(generator)
    other = how(model)
    context = case.given(4, generator)
    assert other.config == model.config
    draws = [m.sample(4, context, generator=generator.manual_seed(1)) for m in (model, other)]
    assert torch.equal(*draws)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert ours is not theirs
