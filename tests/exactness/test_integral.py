"""Densities on the plane integrate to one, and densities on more variables do in expectation."""

import math

import pytest
import torch
from zoo import MODELS, PLANE, randomize

from steadyflow.bases import BASES
from steadyflow.bijections import Affine, Chain, Coupling, Halves, Scaling
from steadyflow.flow import Flow
from steadyflow.networks import MLP


@pytest.mark.parametrize("name", PLANE)
@pytest.mark.parametrize("seed", range(2))
def test_models_of_the_plane_integrate_to_one(name, seed):
    generator = torch.Generator().manual_seed(seed)
    case = MODELS[name]
    model = randomize(case.build().double(), generator, gain=0.7)
    report = model.check(case.x(50, generator), case.given(50, generator))
    assert report.integral == pytest.approx(1, abs=1e-3)
    assert report.ok, str(report)


@pytest.mark.parametrize("base", BASES)
def test_every_base_integrates_to_one(base, generator):
    layers = [Coupling(Halves(flip), Affine(), MLP(1, 2, (16,))) for flip in (False, True)]
    flow = Flow(Chain(*layers, Scaling((2,))), (2,), BASES[base]((2,))).double()
    report = randomize(flow, generator, gain=0.7).check(torch.zeros(1, 2).double())
    assert report.integral == pytest.approx(1, abs=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", ["nice-5", "realnvp-5"])
def test_importance_sampling_finds_a_mass_of_one(name, generator):
    """E_q[p(x) / q(x)] = 1 for draws of a wide normal q; n = 40 000, within 4 standard errors."""
    n = 40_000
    model = randomize(MODELS[name].build().double(), generator, gain=0.4)
    wide = torch.distributions.Normal(0, torch.full((5,), 2.5, dtype=torch.float64))
    own = model.sample(4000, generator=generator)
    centre, spread = own.mean(0), own.std(0)
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64) * 2.5
    ratio = model.log_prob(centre + spread * x) + spread.log().sum() - wide.log_prob(x).sum(1)
    mass, error = ratio.exp().mean(), ratio.exp().std() / math.sqrt(n)
    assert error < 0.05
    assert abs(mass - 1) < 4 * error


@torch.no_grad()
def test_samples_follow_the_density(generator):
    """The share of draws in a box is the integral over it; n = 100 000, 4 standard errors."""
    n, cells = 100_000, 200
    model = randomize(MODELS["realnvp-2"].build().double(), generator, gain=0.7)
    x = model.sample(n, generator=generator)
    low, high = (x.quantile(q, 0) for q in (0.3, 0.7))
    edge = (high - low) / cells
    line = torch.arange(cells, dtype=torch.float64) + 0.5
    points = low + edge * torch.cartesian_prod(line, line)
    mass = model.log_prob(points).exp().sum() * edge.prod()
    share = ((x > low) & (x < high)).all(1).double().mean()
    assert abs(share - mass) < 4 * math.sqrt(mass * (1 - mass) / n)
