"""Data-dependent initialisation: what it learns, that it happens once, and what it refuses."""

import math

import pytest
import torch
from torch.testing import assert_close

from steadyflow.bijections import ActNorm, Chain, MultiScale, Scaling, Squeeze, Standardization


@torch.no_grad()
@pytest.mark.parametrize("shape", [(3,), (3, 4, 5)])
def test_actnorm_normalises_every_channel(shape, generator):
    x = 7 + 30 * torch.randn(64, *shape, generator=generator)
    bijection = ActNorm(3)
    bijection.initialize(x)
    z = bijection(x)[0].movedim(1, 0).flatten(1)
    assert_close(z.mean(1), torch.zeros(3), rtol=0, atol=1e-5)
    assert_close(z.std(1, correction=0), torch.ones(3), rtol=1e-5, atol=0)


@torch.no_grad()
def test_actnorm_is_initialised_once_and_remembers_it_in_its_state(generator):
    first, second = torch.randn(2, 32, 3, generator=generator).unbind()
    bijection = ActNorm(3)
    bijection.initialize(first)
    state = bijection.state_dict()
    resumed = ActNorm(3)
    resumed.load_state_dict(state)
    for b in (bijection, resumed):
        b.initialize(10 + second)
        assert torch.equal(b.shift, -first.double().mean(0).float())


@torch.no_grad()
def test_actnorm_warns_of_constant_channels(generator):
    x = torch.randn(16, 3, generator=generator)
    x[:, 1] = 5
    bijection = ActNorm(3)
    with pytest.warns(UserWarning, match=r"channels \[1\] of the first batch are constant"):
        bijection.initialize(x)
    assert bijection.log_scale[1] == 0
    assert bijection(x)[0].isfinite().all()


@torch.no_grad()
def test_standardization_takes_the_datas_units(generator):
    x = torch.tensor([1e6, -1e-6, 0.0]) + torch.tensor([1e3, 1e-8, 1.0]) * torch.randn(
        1000, 3, generator=generator
    )
    bijection = Standardization((3,))
    bijection.initialize(x)
    z, log_det = bijection(x)
    assert_close(z.mean(0), torch.zeros(3), rtol=0, atol=1e-3)
    assert_close(z.std(0), torch.ones(3), rtol=1e-2, atol=0)
    assert_close(log_det, -x.double().std(0, correction=0).log().sum().float().expand(1000))
    assert not list(bijection.parameters()), "it is not trained further"


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 50])
def test_standardization_refuses_constant_variables(rows, generator):
    x = torch.randn(rows, 3, generator=generator)
    x[:, 2] = 0.1
    which = 2 if rows > 1 else 0
    with pytest.raises(ValueError, match=f"variable {which} of the data is constant"):
        Standardization((3,)).initialize(x)


@torch.no_grad()
def test_scaling_starts_at_the_inverse_standard_deviation(generator):
    x = torch.tensor([2.0, 0.5]) * torch.randn(1000, 2, generator=generator)
    bijection = Scaling((2,))
    bijection.initialize(x)
    assert_close(bijection(x)[0].std(0, correction=0), torch.ones(2))
    bijection.initialize(torch.ones(5, 2))
    assert_close(bijection.log_scale, torch.full((2,), math.log(1e4)))


@torch.no_grad()
def test_one_example_leaves_scaling_as_it_is():
    bijection = Scaling((2,))
    bijection.initialize(torch.ones(1, 2))
    assert not bijection.log_scale.any()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["chain", "multi-scale"])
def test_layers_are_initialised_one_after_the_other(kind, generator):
    x = 3 + 5 * torch.randn(64, 2, 4, 4, generator=generator)
    layers = [ActNorm(2), Squeeze(), ActNorm(8)]
    if kind == "chain":
        bijection = Chain(*layers)
    else:
        bijection = MultiScale([Chain(*layers), ActNorm(4)], (2, 4, 4))
    bijection.initialize(x)
    z, _ = bijection(x)
    assert z.mean().abs() < 1e-5
    assert z.std() == pytest.approx(1, abs=1e-2)
    assert all(part.initialized for part in bijection.modules() if isinstance(part, ActNorm))
