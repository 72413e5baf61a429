"""Diffusion and flow matching: exact with an analytic network; training, samplers, mistakes."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from steadyflow import Diffusion, FlowMatching, fit
from steadyflow.analytic import Mixture, eight_gaussians
from steadyflow.bijections import Standardization
from steadyflow.models.ode_sampling import follow
from steadyflow.pairing import optimal_pairing
from steadyflow.paths import PATHS, canonical_field
from steadyflow.solvers import SolverError

QUICK = ("edm",)
SAMPLERS = ("ddim", "edm", "dpm++3m", "ancestral", "euler", "heun", "midpoint", "rk4", "tsit5")


class Exact(nn.Module):
    """The v of a mixture, standardised: what a perfectly trained network would give."""

    def __init__(self, mixture):
        super().__init__()
        self.field = canonical_field(mixture.denoise)
        self.like = nn.Parameter(torch.zeros(()))

    def forward(self, t, x, context=None):
        # at the very ends of the straight path v is 0 / 0
        return self.field(t.clamp(1e-4, math.pi / 2 - 1e-9), x)


def standardised(mixture):
    mean, var = mixture.moments()
    covariances = (mixture.axes * mixture.variances[:, None]) @ mixture.axes.mT
    scale = var.sqrt()
    return Mixture(
        mixture.log_weights.exp(),
        (mixture.means - mean) / scale,
        covariances / (scale[:, None] * scale),
    )


def exact(model, mixture):
    """A model with the exact network and the exact moments."""
    model = model.double()
    mean, var = mixture.moments()
    model.normalization.mean.copy_(mean)
    model.normalization.std.copy_(var.sqrt())
    model.ode.field = Exact(standardised(mixture))
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize(
    "path", [p if p in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in PATHS]
)
def test_an_exact_network_gives_the_exact_density(path, generator):
    mixture = eight_gaussians(variance=0.3)
    model = exact(Diffusion(event_shape=[2], path=path, tolerance=1e-8), mixture)
    x = mixture.sample(20, generator)
    smallest = math.tan(model.ode.t0)  # the density is that of the data with the smallest noise
    truth = standardised(mixture).log_prob(model.normalization(x)[0], smallest)
    truth = truth + model.normalization(x)[1]
    # what is left of the data in the prior costs as much as the path's largest noise is small
    # (the clamp of `Exact` shows where the path begins at no noise at all)
    prior = (2e-4 if smallest == 0 else 1e-5) + 4 / math.tan(model.ode.t1) ** 2
    assert_close(model.log_prob(x), truth, rtol=0, atol=prior)
    assert_close(model.decode(model.encode(x)), x, rtol=1e-5, atol=1e-4)
    drawn = model.sample(2000, generator=generator, sampler="dpm++2m", steps=30)
    ours, theirs = mixture.log_prob(drawn), mixture.log_prob(mixture.sample(2000, generator))
    error = math.hypot(ours.std(), theirs.std()) / math.sqrt(2000)
    assert abs(ours.mean() - theirs.mean()) < 4 * error + 0.05


@pytest.mark.slow
@torch.no_grad()
def test_a_density_in_the_plane_integrates_to_one(generator):
    mixture = eight_gaussians(radius=2.0, variance=0.3)
    model = exact(Diffusion(event_shape=[2], path="cosine", tolerance=1e-5), mixture)
    edge = 10 / 60
    line = -5 + edge * (torch.arange(60, dtype=torch.float64) + 0.5)
    mass = model.log_prob(torch.cartesian_prod(line, line)).exp().sum() * edge**2
    assert float(mass) == pytest.approx(1, abs=1e-2)


@torch.no_grad()
@pytest.mark.parametrize(
    "sampler",
    [s if s in ("dpm++3m", "heun") else pytest.param(s, marks=pytest.mark.slow) for s in SAMPLERS],
)
def test_every_sampler_draws_the_mixture(sampler, generator):
    mixture = eight_gaussians(variance=0.5)
    model = exact(FlowMatching(event_shape=[2]), mixture)
    drawn = model.sample(1000, generator=generator, sampler=sampler, steps=60)
    gap = mixture.log_prob(drawn).mean() - mixture.log_prob(mixture.sample(4000, generator)).mean()
    assert abs(gap) < 0.15, gap


@pytest.mark.slow
@pytest.mark.parametrize("model", ["diffusion", "flow-matching"])
def test_training_fits_two_moons_better_than_a_normal(model):
    result = fit(
        model,
        "moons",
        steps=1500,
        progress=False,
        seed=1,
        model_options={"hidden_features": [64, 64]},
        data_options={"n": 2000},
    )
    from steadyflow import data

    x = data.open("moons", n=2000).test.x
    estimate = result.model.estimate_likelihood(x)
    normal = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
    assert estimate.mean > float(normal.log_prob(x).mean()) + 0.15
    assert estimate.probe_error == 0
    assert abs(estimate.tolerance_error) < 1e-3
    assert estimate.round_trip < 1e-2
    assert "(estimate)" in str(estimate)
    assert result.model.likelihood == "estimate"


@torch.no_grad()
@pytest.mark.parametrize("network", ["unet", "transformer"])
def test_images(network, generator):
    model = Diffusion(
        event_shape=[1, 8, 8],
        num_classes=3,
        hidden_channels=4,
        network=network,
        probes=2,
        tolerance=1e-4,
    ).eval()
    for p in model.parameters():
        p.add_(0.05 * torch.randn(p.shape, generator=generator))
    x = torch.randint(256, (3, 1, 8, 8), generator=generator, dtype=torch.uint8)
    y = torch.tensor([0, 1, 2])
    model.initialize(x, y)
    back = model.decode(model.encode(x, y), y)
    assert ((back.int() - x.int()).abs() <= 1).all()  # noise at the very edge of a bin may cross
    assert (back == x).float().mean() > 0.95
    assert model.log_prob(x, y).isfinite().all()
    estimate = model.estimate_likelihood(x, y, probes=4)
    assert estimate.probe_error > 0
    drawn = model.sample(4, torch.tensor([0]), steps=3, guidance=2.0)
    assert drawn.shape == (4, 1, 8, 8)
    assert drawn.dtype == torch.uint8


def test_guidance_pushes_towards_the_context(generator):
    """v = free + g (given - free), at g = 0 without and at g = 1 with the context."""
    model = Diffusion(event_shape=[2], num_classes=2, hidden_features=[8])
    for p in model.parameters():
        p.data.normal_(generator=generator)
    u, angle = torch.randn(5, 2), torch.tensor(0.7)
    rows = model.condition(torch.tensor([0, 1, 0, 1, 1]), 5)
    free, given, twice = (model.guided(angle, u, rows, g) for g in (0.0, 1.0, 2.0))
    assert_close(given, model.network(angle, u, rows))
    assert_close(free, model.network(angle, u, torch.zeros_like(rows)))
    assert_close(twice - given, given - free)
    model.train()
    torch.manual_seed(0)
    dropped = torch.cat([model._dropped(rows) for _ in range(100)]).sum(1)
    assert float(1 - dropped.mean()) == pytest.approx(0.1, abs=0.06)


def test_pairing_is_one_to_one_nearer_and_within_classes(generator):
    for n in (1, 64, 150):
        x, e = torch.randn(2, n, 3, generator=generator)
        p = optimal_pairing(x, e, block=64)
        assert p.sort().values.tolist() == list(range(n))
        assert (x - e[p]).square().sum() <= (x - e).square().sum()
    groups = torch.arange(150) % 3
    p = optimal_pairing(x, e, groups, block=16)
    assert torch.equal(groups[p], groups)
    assert p.sort().values.tolist() == list(range(150))
    with pytest.raises(ValueError, match="one shape"):
        optimal_pairing(x, e[:3])
    with pytest.raises(ValueError, match="block"):
        optimal_pairing(x, e, block=0)


@pytest.mark.slow
def test_reflow_straightens_and_distillation_takes_one_step(tmp_path):
    """Fewer evaluations: the one-step error of the student beside that of its teacher."""
    small = {"hidden_features": [64, 64], "pairing": "independent"}
    data = {"n": 2000}
    teacher = fit(
        "flow-matching", "moons", steps=400, progress=False, model_options=small, data_options=data
    ).model
    teacher.save_pretrained(tmp_path / "teacher")
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(5))
    truth = follow(teacher, noise, None, sampler="dopri5")

    def one_step(model):
        with torch.no_grad():
            return (follow(model, noise, None, sampler="euler", steps=1) - truth).square().mean()

    before = one_step(teacher)
    for objective in ("reflow", "distill"):
        options = {
            **small,
            "objective": objective,
            "teacher": str(tmp_path / "teacher"),
            "pairs": 2000,
        }
        student = fit(
            "flow-matching",
            "moons",
            steps=300,
            progress=False,
            model_options=options,
            data_options=data,
        ).model
        assert one_step(student) < 0.4 * before, objective


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Diffusion, {"path": "cosin"}, "did you mean 'cosine'"),
        (Diffusion, {"objective": "epsilon"}, "unknown objective"),
        (Diffusion, {"sampler": "dpm"}, r"dpm\+\+2m"),
        (Diffusion, {"network": "unet"}, "not for vectors"),
        (Diffusion, {"steps": 0}, "steps"),
        (Diffusion, {"tolerance": 0.0}, "tolerance"),
        (Diffusion, {"drop_context": 1.0}, "drop_context"),
        (FlowMatching, {"pairing": "exact"}, "unknown pairing"),
        (FlowMatching, {"objective": "rectify"}, "unknown objective"),
        (FlowMatching, {"pairs": 0}, "pairs"),
    ],
)
def test_mistakes(model, options, message):
    with pytest.raises(ValueError, match=message):
        model(event_shape=[2], **options)


def test_mistakes_in_use(tmp_path):
    student = FlowMatching(event_shape=[2], objective="reflow")
    with pytest.raises(ValueError, match="teacher=RUN/model"):
        student.initialize(torch.randn(8, 2))
    wild = Diffusion(event_shape=[2], hidden_features=[4], tolerance=1e-5)
    wild.ode.max_evaluations = 30
    for p in wild.parameters():
        p.data.normal_(std=5.0)
    with pytest.raises(SolverError, match="examples"):
        wild.log_prob(torch.randn(4, 2))
    with pytest.raises(ValueError, match="NaN"):
        wild.initialize(torch.full((4, 2), math.nan))
    assert isinstance(wild.normalization, Standardization)


@torch.no_grad()
def test_the_sampler_as_a_flow_has_the_density_of_its_draws(generator):
    mixture = eight_gaussians(variance=1.0)
    model = exact(Diffusion(event_shape=[2], path="edm"), mixture)
    flow = model.discrete(40)
    x = flow.sample(20, generator=generator)
    z = flow.bijection[1].invert(model.normalization(x)[0])
    assert z.converged.float().mean() > 0.7
    gap = flow.log_prob(x[z.converged]) - mixture.log_prob(x[z.converged])
    assert gap.abs().mean() < 0.3
