"""Base distributions: densities against scipy, and draws against their moments."""

import math

import pytest
import scipy.stats
import torch
from torch.testing import assert_close

from steadyflow.bases import (
    BASES,
    Base,
    DiagonalNormal,
    NormalMixture,
    StandardLogistic,
    StandardNormal,
    StudentT,
    UniformBox,
    named,
)
from steadyflow.bijections import Chain, CircularSpline, Coupling, Halves
from steadyflow.errors import UsageError
from steadyflow.flow import Flow
from steadyflow.networks import MLP

N = 100_000


def diagonal(shape, mean=1.5, log_std=-0.5):
    base = DiagonalNormal(shape).double()
    torch.nn.init.constant_(base.mean, mean)
    torch.nn.init.constant_(base.log_std, log_std)
    return base


def mixture(shape, mean=1.5, log_std=-0.5):
    """Of components that are all the same, so that it is a normal."""
    base = NormalMixture(shape, 3).double()
    torch.nn.init.constant_(base.mean, mean)
    torch.nn.init.constant_(base.log_std, log_std)
    return base


# base of one variable, and the same distribution in scipy
PAIRS = {
    "normal": (StandardNormal, scipy.stats.norm()),
    "logistic": (StandardLogistic, scipy.stats.logistic()),
    "diagonal-normal": (diagonal, scipy.stats.norm(1.5, math.exp(-0.5))),
    "student-t": (lambda shape: StudentT(shape).double(), scipy.stats.t(5)),
    "mixture": (mixture, scipy.stats.norm(1.5, math.exp(-0.5))),
}


def test_every_base_is_tested():
    assert set(PAIRS) == set(BASES)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(3,), (2, 3, 2)])
@pytest.mark.parametrize("name", PAIRS)
def test_log_prob_is_scipys(name, shape, generator):
    build, truth = PAIRS[name]
    z = 5 * torch.randn(10, *shape, generator=generator, dtype=torch.float64)
    expected = truth.logpdf(z.numpy()).reshape(10, -1).sum(1)
    assert_close(build(shape).log_prob(z), torch.as_tensor(expected), rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("size", [20.0, 1e2, 1e4])
@pytest.mark.parametrize("name", PAIRS)
def test_far_latents_have_the_exact_density(name, size):
    build, truth = PAIRS[name]
    z = torch.tensor([[size], [-size]], dtype=torch.float64)
    expected = torch.as_tensor(truth.logpdf(z.numpy())[:, 0])
    assert_close(build((1,)).log_prob(z), expected, rtol=1e-12, atol=0)
    assert build((1,)).float().log_prob(z.float()).isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("name", PAIRS)
def test_draws_follow_the_distribution(name, generator):
    """n = 100 000: Kolmogorov-Smirnov at 0.1 %, moments within 4 standard errors."""
    build, truth = PAIRS[name]
    z = build((1,)).double().sample(N, generator=generator).numpy()[:, 0]
    assert scipy.stats.kstest(z, truth.cdf).pvalue > 1e-3
    assert abs(z.mean() - truth.mean()) < 4 * truth.std() / math.sqrt(N)
    kurtosis = truth.stats("k") + 3
    error = truth.var() * math.sqrt((kurtosis - 1) / N)
    assert abs(z.var() - truth.var()) < 4 * error


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("name", PAIRS)
def test_temperature_scales_about_the_centre(name, temperature):
    build, truth = PAIRS[name]
    base = build((2,)).double()
    one = base.sample(1000, generator=torch.Generator().manual_seed(3))
    other = base.sample(1000, None, temperature, torch.Generator().manual_seed(3))
    centre = truth.median()
    assert_close(other - centre, temperature * (one - centre))


@torch.no_grad()
@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_draws_follow_the_dtype_and_densities_stay_single(name, dtype):
    base = BASES[name]((3,)).to(dtype)
    z = base.sample(5)
    assert z.dtype == dtype
    assert base.dtype == dtype
    wide = torch.promote_types(dtype, torch.float32)
    assert base.log_prob(z).dtype == wide
    assert base.log_prob(z).shape == (5,)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_uniform_draw_of_zero_gives_no_wild_logistic(monkeypatch, dtype):
    base = StandardLogistic((2,)).to(dtype)
    monkeypatch.setattr(torch, "rand", lambda shape, dtype, **_: torch.zeros(shape, dtype=dtype))
    bits = 24 if dtype == torch.float32 else 53
    assert base.sample(1).abs().max() <= (bits + 1) * math.log(2) + 1e-6


def test_the_learned_base_learns(generator):
    """Its maximum-likelihood fit is the data's own mean and standard deviation."""
    base = DiagonalNormal((2,))
    z = torch.tensor([[3.0, -1.0]]) + torch.tensor([0.5, 2.0]) * torch.randn(
        5000, 2, generator=generator
    )
    optimizer = torch.optim.Adam(base.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (-base.log_prob(z).mean()).backward()
        optimizer.step()
    assert_close(base.mean.detach(), z.mean(0), rtol=0, atol=1e-2)
    assert_close(base.log_std.detach().exp(), z.std(0), rtol=1e-2, atol=0)
    draws = base.sample(4)
    draws.sum().backward()
    assert base.log_std.grad.any(), "draws are reparametrised"


def test_nothing_of_a_fixed_base_is_saved():
    assert not StandardNormal((3,)).state_dict()
    assert set(DiagonalNormal((3,)).state_dict()) == {"mean", "log_std"}
    assert "(3,)" in repr(StandardNormal((3,)))


def test_the_interface_is_abstract():
    base = Base((3,))
    with pytest.raises(NotImplementedError):
        base.log_prob(torch.zeros(1, 3))
    with pytest.raises(NotImplementedError):
        base.sample(1)


def parted():
    """Two normals of one variable, whose weights depend on two classes."""
    base = NormalMixture((1,), 2, context_features=2).double()
    with torch.no_grad():
        base.mean.copy_(torch.tensor([[-2.0], [1.0]]))
        base.log_std.copy_(torch.tensor([[-1.0], [0.25]]))
        base.context.weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.5]]))
    return base


@torch.no_grad()
@pytest.mark.parametrize("label", [0, 1])
def test_a_mixture_is_the_sum_of_its_parts(label, generator):
    base, row = parted(), torch.eye(2, dtype=torch.float64)[label : label + 1]
    logits = torch.tensor([[1.0, -1.0], [0.0, 0.5]])[:, label]
    weights = logits.double().softmax(0).numpy()
    parts = scipy.stats.norm(-2, math.exp(-1)), scipy.stats.norm(1, math.exp(0.25))
    z = torch.linspace(-5, 5, 101).double()[:, None]
    truth = sum(w * part.pdf(z.numpy()[:, 0]) for w, part in zip(weights, parts, strict=True))
    found = base.log_prob(z, row.expand(101, -1)).exp()
    assert_close(found, torch.as_tensor(truth), rtol=1e-7, atol=1e-12)
    draws = base.sample(N, row.expand(N, -1), generator=generator).numpy()[:, 0]

    def law(values):
        return sum(w * part.cdf(values) for w, part in zip(weights, parts, strict=True))

    assert scipy.stats.kstest(draws, law).pvalue > 1e-3
    both = base.responsibilities(z, row.expand(101, -1))
    assert_close(both.sum(1), torch.ones(101).double())
    assert both[30, 0] > 0.9  # at the first one
    still = base.sample(50, row.expand(50, -1), temperature=0.0, generator=generator)
    assert set(still[:, 0].tolist()) == {-2.0, 1.0}


def test_draws_of_a_mixture_say_that_its_weights_get_no_gradient():
    base = parted()
    with pytest.raises(UsageError, match="no gradient in its weights"):
        base.sample(3)
    base.logits.requires_grad_(False)
    base.sample(3).sum().backward()  # without a context, the weights are the logits alone
    assert base.mean.grad.any()
    assert base.log_std.grad.any()


def test_tails_are_learned_and_draws_know_them(generator):
    z = torch.as_tensor(scipy.stats.t(2.5).rvs((20_000, 1), random_state=0))
    base = StudentT((1,)).double()
    optimizer = torch.optim.Adam(base.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        (-base.log_prob(z).mean()).backward()
        optimizer.step()
    assert base.freedom.item() == pytest.approx(2.5, rel=0.1)
    # d E|z|^(1/2) / dv by draws, against scipy's moments; n = 100 000
    base.zero_grad()
    base.sample(N, generator=generator).abs().sqrt().mean().backward()

    def moment(ratio):
        law = scipy.stats.t(base.first * math.exp(ratio))
        return 2 * law.expect(lambda v: math.sqrt(v), lb=0)

    at = base.log_ratio.item()
    slope = (moment(at + 0.01) - moment(at - 0.01)) / 0.02
    assert base.log_ratio.grad.item() == pytest.approx(slope, rel=0.05)


@torch.no_grad()
def test_a_box_and_a_density_on_a_torus(generator):
    box = UniformBox((2,), -math.pi, math.pi)
    inside, outside = torch.tensor([[0.0, 3.0]]), torch.tensor([[0.0, 3.2]])
    assert_close(box.log_prob(inside).exp(), torch.tensor([1 / (2 * math.pi) ** 2]))
    assert box.log_prob(outside) == -math.inf
    assert (box.sample(1000, temperature=0.5, generator=generator).abs() <= math.pi / 2).all()
    with pytest.raises(UsageError, match="leave the box"):
        box.sample(1, temperature=1.5)
    spline = CircularSpline(5)
    layers = [
        Coupling(Halves(flip), spline, MLP(1, spline.planes, (8,), zero_output=False))
        for flip in (False, True)
    ]
    flow = Flow(Chain(*layers), (2,), box)
    line = (torch.arange(200) + 0.5) / 200 * 2 * math.pi - math.pi
    total = flow.log_prob(torch.cartesian_prod(line, line)).exp().mean() * (2 * math.pi) ** 2
    assert total.item() == pytest.approx(1, abs=2e-3)
    assert flow.sample(100).abs().max() <= math.pi


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: named("norml", (2,)),
        lambda: NormalMixture((2,), 0),
        lambda: StudentT((2,), 0.0),
        lambda: UniformBox((2,), 1.0, 1.0),
    ],
)
def test_wrong_bases_are_refused(wrong):
    with pytest.raises(ValueError, match=r"did you mean|at least|positive|low < high"):
        wrong()
