"""Markov chains against distributions that are known."""

import math

import pytest
import torch
from torch.testing import assert_close

from steadyflow.analytic import Mixture
from steadyflow.errors import UsageError
from steadyflow.solvers import effective_sample_size, latent_energy, run_chains, split_r_hat
from steadyflow.solvers.mcmc import KERNELS, meg_compat

CORRECTED = ("mala", "hmc", "independence")


def normal(x):
    """The energy of N(0, I)."""
    return x.square().flatten(1).sum(1) / 2


def sinh(z):
    """x = sinh(z) and log dx/dz: the density of z that makes x normal is not the base's."""
    return torch.sinh(z), torch.log(torch.cosh(z)).sum(1)


def around(scale, size):
    """A proposal N(0, scale^2 I) with its log-density."""

    def propose(n):
        x = scale * torch.randn(n, size, dtype=torch.float64)
        constant = size * math.log(scale * math.sqrt(2 * math.pi))
        return x, -x.square().sum(1) / (2 * scale**2) - constant

    return propose


@pytest.mark.filterwarnings("ignore:.*next to everything")
@pytest.mark.parametrize("size", [2, 32])
@pytest.mark.parametrize("drift", [0.01, 0.1, 0.5])
def test_mala_keeps_a_standard_normal(drift, size, generator):
    """The variance of 400 chains of 200 steps; with distances instead of their squares in the
    acceptance it would be 6.6 (0.01, 2) or 0.7 (most others)."""
    start = torch.randn(400, size, dtype=torch.float64, generator=generator)
    chains = run_chains(
        normal,
        start,
        steps=200,
        warmup=0,
        step_size=math.sqrt(2 * drift),
        adapt=False,
        generator=generator,
    )
    assert float(chains.draws.var()) == pytest.approx(1, abs=0.03)


def test_langevin_without_correction_is_biased_as_the_theory_says(generator):
    """x' = (1 - a) x + sqrt(2 a) n has variance 1 / (1 - a / 2)."""
    start = torch.randn(2000, 2, dtype=torch.float64, generator=generator)
    chains = run_chains(
        normal, start, method="langevin", steps=100, warmup=20, step_size=1.0, generator=generator
    )
    assert float(chains.draws.var()) == pytest.approx(1 / (1 - 0.25), abs=0.03)
    assert chains.acceptance.eq(1).all()


@pytest.mark.parametrize("method", ["mala", "hmc"])
def test_chains_in_latent_space_need_the_log_determinant(method, generator):
    """Var x = 1 with it and 0.7154 (by quadrature) without: ten standard errors apart."""
    start = 0.5 * torch.randn(2000, 1, dtype=torch.float64, generator=generator)
    options = {"method": method, "steps": 100, "warmup": 50, "every": 4, "generator": generator}
    options |= {"leapfrog": 4}
    exact = run_chains(latent_energy(normal, sinh), start, **options)
    other = run_chains(meg_compat(normal, sinh), start, **options)
    assert float(torch.sinh(exact.draws).var()) == pytest.approx(1, abs=0.04)
    assert float(torch.sinh(other.draws).var()) == pytest.approx(0.7154, abs=0.03)
    assert bool((exact.r_hat < 1.1).all())


@pytest.mark.parametrize("method", CORRECTED)
def test_weights_of_a_mixture(method, generator):
    """Four modes of weights 0.4, 0.3, 0.2, 0.1: each share within four of its standard errors."""
    torch.manual_seed(0)
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    means = 1.5 * torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    mixture = Mixture(weights, means, torch.full((4,), 0.5))

    def energy(x):
        squares = (x[:, None] - means).square().sum(2)
        return -(weights.log() - squares).logsumexp(1)

    start = 2 * torch.randn(200, 2, dtype=torch.float64, generator=generator)
    chains = run_chains(
        energy,
        start,
        method=method,
        steps=200,
        warmup=50,
        leapfrog=3,
        proposal=around(2.5, 2),
        generator=generator,
    )
    x = chains.draws
    here = torch.stack([(x * s).gt(0).all(2) for s in means.sign()], 2).double()
    truth = torch.stack([(mixture.sample(100_000) * s).gt(0).all(1) for s in means.sign()], 1)
    truth = truth.double().mean(0)
    error = (truth * (1 - truth) / effective_sample_size(here)).sqrt() + 1e-3
    gap = here.mean((0, 1)) - truth
    assert bool((gap.abs() < 4 * error).all()), (gap, error)


def test_the_step_size_is_adapted_in_the_warmup_only(generator):
    start = torch.randn(200, 20, generator=generator)
    options = {"steps": 50, "generator": generator, "step_size": 0.01, "leapfrog": 5}
    mala = run_chains(normal, start, warmup=150, **options)
    assert float(mala.acceptance.mean()) == pytest.approx(0.574, abs=0.1)
    hmc = run_chains(normal, start, method="hmc", warmup=150, **options)
    assert float(hmc.acceptance.mean()) == pytest.approx(0.8, abs=0.1)
    with pytest.warns(UserWarning, match="next to everything"):
        still = run_chains(normal, start, warmup=5, adapt=False, **options)
    assert still.step_size == 0.01


def test_r_hat_and_effective_sample_size(generator):
    """White noise is worth its number; an AR(1) with correlation r is worth (1 - r)/(1 + r)."""
    white = torch.randn(500, 8, 3, generator=generator)
    assert bool((split_r_hat(white) < 1.01).all())
    assert_close(effective_sample_size(white), torch.full((3,), 4000.0).double(), rtol=0.2, atol=0)
    r, x = 0.8, [torch.randn(8, 3, generator=generator)]
    for _ in range(1999):
        x.append(r * x[-1] + math.sqrt(1 - r * r) * torch.randn(8, 3, generator=generator))
    slow = torch.stack(x)
    expected = torch.full((3,), 16_000 * (1 - r) / (1 + r)).double()
    assert_close(effective_sample_size(slow), expected, rtol=0.25, atol=0)
    apart = white + torch.arange(8)[None, :, None]
    assert bool((split_r_hat(apart) > 1.5).all())
    assert effective_sample_size(white[:3]).isnan().all()


@pytest.mark.parametrize("method", KERNELS)
def test_chains_follow_the_generator_and_leave_the_caller_alone(method):
    start = torch.zeros(5, 3, requires_grad=True)

    def run(seed):
        source = torch.Generator().manual_seed(seed)

        def propose(n):
            x = torch.randn(n, 3, generator=source)
            return x, -normal(x)

        options = {"steps": 6, "warmup": 3, "every": 2, "generator": source, "proposal": propose}
        return run_chains(lambda x: 1.3 * normal(x), start, method=method, **options)

    state = torch.get_rng_state()
    first, again = run(1), run(1)
    assert torch.equal(first.draws, again.draws)
    assert not torch.equal(first.draws, run(2).draws)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.draws.shape == (3, 5, 3)
    assert torch.equal(first.draws[-1], first.last)
    assert torch.equal(start, torch.zeros(5, 3))
    assert start.grad is None
    assert not first.draws.requires_grad


def test_images_and_inference_mode(generator):
    with torch.inference_mode():
        start = torch.randn(4, 2, 3, 3, generator=generator)
        chains = run_chains(normal, start, steps=4, warmup=4, generator=generator)
    assert chains.draws.shape == (4, 4, 2, 3, 3)
    assert chains.r_hat.shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mala2"}, "did you mean 'mala'"),
        ({"steps": 0}, "steps"),
        ({"warmup": -1}, "warmup"),
        ({"leapfrog": 0}, "leapfrog"),
        ({"steps": 3, "every": 4}, "every"),
        ({"step_size": 0.0}, "step_size"),
        ({"step_size": math.nan}, "step_size"),
        ({"method": "independence"}, "needs a proposal"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UsageError, match=message):
        run_chains(normal, torch.zeros(3, 2), **options)


def test_mistakes_in_the_start():
    for start in (torch.zeros(3), torch.zeros(0, 2), torch.zeros(3, 2, dtype=torch.int64)):
        with pytest.raises(UsageError, match="chains begin at real points"):
            run_chains(normal, start)
    with pytest.raises(UsageError, match="not finite where chains begin: chains 1"):
        run_chains(normal, torch.tensor([[0.0], [math.inf]]))
    with pytest.raises(UsageError, match=r"must have shape \(3,\)"):
        run_chains(lambda x: x.sum(), torch.zeros(3, 2))


def test_an_acceptance_that_is_no_good_sign_warns(generator):
    start = torch.randn(20, 30, generator=generator)
    with pytest.warns(UserWarning, match=r"next to nothing is accepted .* smaller step_size"):
        run_chains(normal, start, steps=20, warmup=0, step_size=9.0, generator=generator)
    with pytest.warns(UserWarning, match="the proposal does not fit"):
        run_chains(
            lambda x: 1e6 * normal(x),
            start,
            method="independence",
            steps=300,
            warmup=300,
            proposal=lambda n: (torch.randn(n, 30), torch.zeros(n)),
        )
