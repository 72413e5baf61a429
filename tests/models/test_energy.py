"""Energies: phases, entropies and normalisers against closed forms; training; mistakes."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from steadyflow import GAN, EnergyModel, Flow, RealNVP, fit
from steadyflow.analytic import Mixture
from steadyflow.bijections import Chain, LULinear, Standardization
from steadyflow.models.adversarial import energy_distance
from steadyflow.models.energy import flattened, steady_weights
from steadyflow.models.entropy import ENTROPIES
from steadyflow.models.flow_model import FlowModel
from steadyflow.models.model import GenerativeModel

SMALL = {
    "hidden_features": [16, 16],
    "generator_layers": 2,
    "generator_features": [16, 16],
    "hidden_channels": 4,
}
FLOW = {"model": "realnvp", "config": {"event_shape": [2], "couplings": 2, "hidden_features": [8]}}


class Affine(FlowModel):
    """x = A z + b, as a flow."""

    def __init__(self, *, event_shape):
        super().__init__(event_shape=event_shape)
        size = self.dimensions
        self.flow = Flow(Chain(Standardization((size,)), LULinear(size)), event_shape)


class Known(nn.Module):
    """In the place of f: makes U a function that is given, up to a constant."""

    def __init__(self, model, energy):
        super().__init__()
        self._model, self.energy = (model,), energy

    def forward(self, u, context=None):
        (model,) = self._model
        y = u * model.normalization.std + model.normalization.mean
        return (self.energy(y) + model.reference(y))[:, None]

    def constant(self):
        """U = energy - constant, since f is 0 at the centre."""
        (model,) = self._model
        return float(self(torch.zeros(1, model.dimensions).double()).squeeze())


def with_energy(energy, size, generator_model=None, **options):
    """A model of the given energy, double, whose generator is an affine flow."""
    model = EnergyModel(event_shape=[size], generator=FLOW if size == 2 else "nice", **options)
    model.generator = generator_model or Affine(event_shape=(size,))
    model = model.double()
    model.energy_network = Known(model, energy)
    return model


def randomized(module, generator, size=0.3):
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(size * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return module


class Quadratic(nn.Module):
    """U(x) = sum a_i (x_i - m_i)^2 / 2, whose log Z is known."""

    def __init__(self, size):
        super().__init__()
        self.log_a = nn.Parameter(torch.linspace(-0.4, 0.5, size).double())
        self.m = nn.Parameter(torch.linspace(-0.3, 0.6, size).double())

    def forward(self, x):
        return (self.log_a.exp() * (x - self.m).square()).sum(1) / 2

    def log_z(self):
        return (math.log(2 * math.pi) - self.log_a).sum() / 2


@pytest.mark.parametrize("negatives", ["weighted", "generator"])
def test_positive_minus_negative_phase_is_the_gradient_of_the_likelihood(negatives, generator):
    """With draws of q itself, or with any draws and their weights; four standard errors."""
    energy = Quadratic(2)
    model = with_energy(energy, 2, negatives=negatives, penalty=0.0)
    if negatives == "generator":  # the generator is q
        model.generator.flow.bijection[0].mean.copy_(energy.m.detach())
        model.generator.flow.bijection[0].std.copy_((-energy.log_a.detach() / 2).exp())
    else:
        randomized(model.generator, generator)
    x = torch.randn(500, 2, generator=generator, dtype=torch.float64) * 1.3 + 0.2
    weights = [energy.log_a, energy.m]
    exact = torch.autograd.grad((energy(x).mean() + energy.log_z()) / 2, weights)
    torch.manual_seed(0)
    found = []
    for _ in range(60):
        copies = x.repeat(4, 1)
        grads = torch.autograd.grad(model.energy_loss(copies), weights)
        found.append(torch.stack(grads))
    found = torch.stack(found)
    error = found.std(0) / math.sqrt(len(found))
    assert bool(((found.mean(0) - torch.stack(exact)).abs() < 4 * error + 1e-3).all())
    assert float(error.max()) < 0.02


@torch.no_grad()
def test_the_entropy_of_an_affine_flow_is_exact(generator):
    model = with_energy(Quadratic(3), 3)
    randomized(model.generator, generator)
    torch.manual_seed(0)
    y, z, log_prob = model.weighed_draws(20_000, None)
    inverse = (
        model.flow.bijection(torch.eye(3).double())[0]
        - model.flow.bijection(torch.zeros(1, 3).double())[0]
    )
    a = torch.linalg.inv(inverse.T)
    mean = model.flow.bijection.inverse(torch.zeros(1, 3).double())[0][0]
    truth = MultivariateNormal(mean, a @ a.T)
    assert_close(log_prob, truth.log_prob(y), rtol=1e-9, atol=1e-9)
    found = model.entropy(model.normalized(y), z, None, log_prob)
    assert float(found) == pytest.approx(float(truth.entropy()), abs=4 * 1.3 / math.sqrt(20_000))


def test_a_linear_flow_converges_to_the_normal_of_a_quadratic_energy(generator):
    """The reverse Kullback-Leibler divergence alone, no data: mean within 0.05, covariance 0.1."""
    precision = torch.tensor([[2.0, 0.8], [0.8, 1.0]]).double()
    mean = torch.tensor([0.7, -1.2]).double()

    def energy(x):
        return ((x - mean) @ precision * (x - mean)).sum(1) / 2

    class Shifted(Affine):
        def __init__(self, *, event_shape):
            super().__init__(event_shape=event_shape)
            part = self.flow.bijection[0]
            part.mean = nn.Parameter(part.mean.clone())

    model = with_energy(energy, 2, Shifted(event_shape=(2,)), likelihood_weight=0.0)
    optimizer = torch.optim.Adam(model.generator.parameters(), 0.05)
    torch.manual_seed(0)
    data = mean + torch.randn(256, 2).double() * 3  # sets the ceiling of the energy, no more
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        optimizer.zero_grad()
        model.generator_loss(data).backward()
        optimizer.step()
    with torch.no_grad():
        inverse = model.flow.bijection.inverse
        b = inverse(torch.zeros(1, 2).double())[0][0]
        a = (inverse(torch.eye(2).double())[0] - b).T
    assert_close(b, mean, rtol=0, atol=0.05)
    assert_close(a @ a.T, torch.linalg.inv(precision), rtol=0, atol=0.1)


@pytest.mark.parametrize("size", [2, 16])
def test_log_z_of_normalised_energies(size, generator):
    """ELBO <= log Z <= the estimate + 3 standard errors, and within 0.05 nats."""
    means = 0.5 * torch.randn(3, size, generator=generator, dtype=torch.float64) / math.sqrt(size)
    mixture = Mixture(torch.tensor([0.5, 0.3, 0.2]), means, torch.tensor([0.9, 1.0, 1.1]))
    model = with_energy(lambda x: -mixture.log_prob(x), size)
    truth = model.energy_network.constant()  # q = exp(-U) / Z with U = -log mixture - constant
    found = model.log_normalizer(draws=20_000, generator=generator)
    assert found.elbo - 3 * found.elbo_error <= truth <= found.value + 3 * found.standard_error
    assert found.value == pytest.approx(truth, abs=0.05)
    assert found.elbo <= found.value
    assert found.standard_error < 0.02
    assert found.pareto_k < 0.7
    assert "NOT" not in str(found)
    model.settle()
    x = mixture.sample(200, generator)
    assert model.likelihood == "estimate"
    assert_close(model.log_prob(x), mixture.log_prob(x), rtol=0, atol=0.05)


def test_a_generator_that_misses_the_energy_says_so(generator):
    model = with_energy(lambda x: ((x - 4) ** 2).sum(1) * 2, 2)
    assert "NOT to be trusted" in str(model.log_normalizer(draws=500, generator=generator))


@pytest.mark.parametrize("sampler", ["mala", "hmc", "independence", "latent-mala", "latent-hmc"])
def test_every_sampler_draws_from_the_energy(sampler, generator):
    """From a generator that is wrong: moments within 0.12, at 2000 chains of 20 to 40 steps."""
    energy = Quadratic(2)
    steps = 10 if "hmc" in sampler else 40
    model = with_energy(energy, 2, sampler=sampler, sampler_steps=steps)
    randomized(model.generator, generator)
    torch.manual_seed(0)
    x = model.sample(2000)
    assert_close(x.mean(0), energy.m.detach(), rtol=0, atol=0.12)
    assert_close(x.var(0), (-energy.log_a.detach()).exp(), rtol=0.12, atol=0)
    if sampler in ("mala", "latent-mala"):
        cold = model.sample(2000, temperature=0.5).var(0)
        assert_close(cold, 0.25 * (-energy.log_a.detach()).exp(), rtol=0.15, atol=0)
    chains = model.chains(50, sampler=sampler, steps=30, warmup=20, every=1)
    assert chains.draws.shape == (30, 50, 2)
    assert 0.2 < float(chains.acceptance.mean()) <= 1


def random_model(generator, **options):
    model = EnergyModel(**{**SMALL, "event_shape": [2], **options}).double()
    randomized(model.energy_network, generator, 0.5)
    return model


@torch.no_grad()
def test_the_constant_is_pinned_and_z_is_finite(generator):
    model = random_model(generator, frequencies=2)
    x = 3 + 2 * torch.randn(500, 2, generator=generator, dtype=torch.float64)
    model.initialize(x)
    centre = model.normalization.mean[None]
    assert_close(model.correction(centre), torch.zeros(1).double(), rtol=0, atol=1e-12)
    for p in model.energy_network.network.layers[-1].parameters():
        if p.dim() == 1:
            before = model.energy(x)
            p.add_(7.0)
    assert_close(model.energy(x), before)
    far = torch.tensor([[1e4, -1e4], [1e6, 0.0]]).double()
    assert model.energy(far).isfinite().all()
    # beyond what the network sees, U is the normal's: f is the same
    assert_close(*model.correction(torch.tensor([[50.0, 60.0], [500.0, 600.0]]).double()))
    # the density integrates to one, by the log Z of a fine net
    edge = 20 / 400
    line = 3 - 10 + edge * (torch.arange(400) + 0.5).double()
    net = torch.cartesian_prod(line, line)
    truth = (-model.energy(net)).logsumexp(0) + 2 * math.log(edge)
    found = model.log_normalizer(draws=20_000, generator=generator)
    assert found.value == pytest.approx(float(truth), abs=4 * found.standard_error + 1e-3)
    model.settle()
    assert float(model.log_prob(net).exp().sum() * edge**2) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("entropy", ENTROPIES)
@pytest.mark.parametrize("classes", [None, 3])
def test_gradients_reach_every_weight_of_their_player_and_no_other(entropy, classes, generator):
    model = EnergyModel(**SMALL, event_shape=[3], entropy=entropy, num_classes=classes)
    randomized(model, generator)
    x = torch.randn(20, 3, generator=generator)
    labels = None if classes is None else torch.arange(20) % 3
    first, second = model.players()
    named = dict(model.named_parameters())
    owned = {id(p) for player in (first, second) for p in player.parameters}
    assert owned == {id(p) for p in named.values()}
    for player in (first, second):
        model.zero_grad()
        player.loss(x, labels).backward()
        for p in player.parameters:
            assert p.grad is not None
            assert p.grad.isfinite().all()
        assert sum(bool(p.grad.any()) for p in player.parameters) >= len(player.parameters) - 1
    assert model.loss(x, labels).isfinite()
    assert set(model.train().metrics()) >= {"energy", "generator", "entropy"}


@pytest.mark.parametrize("entropy", ENTROPIES)
def test_saved_and_loaded_it_is_the_same(entropy, generator, tmp_path):
    model = random_model(generator, entropy=entropy, num_classes=2)
    labels = torch.tensor([0, 1, 1])
    x = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    model.settle()
    model.save_pretrained(tmp_path / "model")
    other = GenerativeModel.from_pretrained(tmp_path / "model")
    assert other.config == model.config
    assert torch.equal(other.energy(x, labels), model.energy(x, labels))
    if entropy == "exact":
        assert torch.equal(other.log_prob(x, labels), model.log_prob(x, labels))
        assert_close(other.decode(other.encode(x, labels), labels), x)
    else:
        assert model.likelihood == "none"
        with pytest.raises(ValueError, match="no normaliser"):
            model.log_prob(x, labels)
        with pytest.raises(ValueError, match="no inverse"):
            model.encode(x, labels)


def test_a_tilted_flow_starts_as_the_flow_and_carries_it(tmp_path, generator):
    flow = RealNVP(event_shape=[2], couplings=2, hidden_features=[8])
    randomized(flow, generator, 0.3)
    flow.save_pretrained(tmp_path / "flow")
    x = torch.randn(50, 2, generator=generator)
    model = EnergyModel(**SMALL, event_shape=[2], tilt=str(tmp_path / "flow"))
    model.initialize(x)
    # f begins at zero: the energy is the flow's, its log Z is 0 and all weights are 1
    found = model.log_normalizer(draws=500, generator=generator)
    assert found.value == pytest.approx(0, abs=1e-5)
    assert found.effective_sample_size == pytest.approx(500, rel=1e-4)
    model.settle()
    with torch.no_grad():
        assert_close(model.log_prob(x), flow.log_prob(x), rtol=1e-4, atol=1e-4)
    model.penalty = 0.1
    before = {k: v.clone() for k, v in model.reference.state_dict().items()}
    result = fit(model, x, steps=5, batch_size=20, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in model.reference.state_dict().items())
    result.model.save_pretrained(tmp_path / "model")
    for file in (tmp_path / "flow").iterdir():
        file.unlink()
    other = GenerativeModel.from_pretrained(tmp_path / "model")  # without the flow's folder
    assert torch.equal(other.energy(x), model.energy(x))
    with pytest.raises(ValueError, match="is for examples of shape"):
        EnergyModel(**SMALL, event_shape=[3], tilt=model.config["tilt"])


@pytest.mark.parametrize("entropy", ENTROPIES)
def test_images_of_integers(entropy, generator):
    model = EnergyModel(**SMALL, event_shape=[1, 8, 8], entropy=entropy, num_classes=2, bits=4)
    x = torch.randint(16, (12, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(12) % 2
    model.initialize(x, labels)
    for player in model.players():
        player.loss(x, labels).backward()
    assert model.loss(x, labels).isfinite()
    drawn = model.sample(4, torch.tensor([1]))
    assert drawn.shape == (4, 1, 8, 8)
    assert drawn.dtype == torch.uint8
    assert int(drawn.max()) < 16
    assert model.energy(x, labels).shape == (12,)
    if entropy == "exact":
        found = model.log_normalizer(torch.tensor([1]), draws=50)
        assert math.isfinite(found.value)
        model.log_z.fill_(found.value)
        assert model.log_prob(x, labels).shape == (12,)
        assert torch.equal(model.decode(model.encode(x, labels), labels), x)


@torch.no_grad()
def test_log_prob_of_integers_is_that_of_their_bins(generator):
    """The cube holds 2^bits bins a pixel: without f every image is as likely as any other."""
    model = EnergyModel(**SMALL, event_shape=[1, 4, 4], bits=2)
    x = torch.randint(4, (5, 1, 4, 4), generator=generator, dtype=torch.uint8)
    model.initialize(x)
    model.log_z.zero_()
    assert_close(model.log_prob(x), torch.full((5,), -16 * math.log(4)))
    outside = torch.full((1, 1, 4, 4), 1.5)
    assert model.energy_of(outside).eq(math.inf).all()


@pytest.mark.slow
def test_training_fits_two_moons():
    """The energy beside the flow that it is trained with; spline flows reach 1.3 nats there."""
    from steadyflow import data

    result = fit(
        "energy",
        "moons",
        steps=1500,
        progress=False,
        model_options={"generator_layers": 4, "generator_features": [64, 64]},
        data_options={"n": 5000},
    )
    model, x = result.model, data.open("moons", n=5000).test.x
    found = model.log_normalizer()
    assert found.effective_sample_size > 0.3 * found.draws
    nll = -float(model.log_prob(x).mean())
    assert nll < -float(model.generator.log_prob(x).mean()) + 0.1
    assert nll < 1.0
    assert result.best_validation_loss == pytest.approx(nll / 2, abs=0.1)


@pytest.mark.parametrize("name", ["energy", "gan"])
def test_training_lowers_the_distance_to_the_data(name):
    """A network as generator, short: the energy distance of its draws falls to half."""
    torch.manual_seed(0)
    x = torch.randn(1000, 2) * torch.tensor([0.3, 2.0]) + torch.tensor([3.0, -1.0])
    options = {"hidden_features": [32, 32], "generator_features": [32, 32]}
    options |= {"entropy": "mutual-information"} if name == "energy" else {}
    built = {"energy": EnergyModel, "gan": GAN}[name](event_shape=[2], **options)
    built.initialize(x)
    before = float(built.loss(x))
    result = fit(built, x, steps=150, batch_size=128, progress=False, validate_every=50, warmup=0)
    assert result.best_validation_loss < before / 2
    assert result.model.likelihood == "none"
    row = [row for row in result.history if row["split"] == "train"][-1]
    assert row["nats"] is None
    assert row["generator"] is not None


def test_energy_distance_is_unbiased(generator):
    x, y = torch.randn(2, 400, 3, generator=generator)
    same = torch.stack(
        [energy_distance(a, b) for a, b in zip(x.split(40), y.split(40), strict=True)]
    )
    assert abs(same.mean()) < 4 * same.std() / math.sqrt(10)
    assert float(energy_distance(x, y + 1)) > 0.3


def test_weights_are_exact_where_enough_draws_count_and_flatter_where_not(generator):
    good = 0.5 * torch.randn(200, generator=generator)
    assert_close(steady_weights(good), good.softmax(0))
    bad = 30 * torch.randn(200, generator=generator)
    flat = steady_weights(bad)
    assert float(flat.sum()) == pytest.approx(1)
    assert 200 / 16 <= float(1 / flat.square().sum()) < 30
    assert torch.equal(flat.argsort(), bad.argsort())


def test_flattening_leaves_the_energies_of_data_alone():
    energy = torch.tensor([-3.0, 1.9, 2.0, 3.0, 200.0], requires_grad=True)
    flat = flattened(energy, torch.tensor(2.0))
    assert_close(flat[:3], energy[:3])
    (slope,) = torch.autograd.grad(flat.sum(), energy)
    assert_close(slope, torch.tensor([1.0, 1.0, 1.0, 0.5, 1 / 199]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"entropy": "exat"}, "did you mean 'exact'"),
        ({"entropy": "exact", "generator": "network"}, "density is known"),
        ({"entropy": "none", "negatives": "weighted"}, "density is known"),
        ({"negatives": "all"}, "kind of negatives"),
        ({"sampler": "nuts"}, "unknown sampler"),
        ({"entropy": "none", "sampler": "latent-mala"}, "latents of a flow"),
        ({"penalty": -1.0}, "penalty"),
        ({"generator_every": 0}, "generator_every"),
        ({"sampler_steps": 0}, "sampler_steps"),
        ({"latent_features": 0}, "latent_features"),
        ({"context_features": 2}, "another normaliser"),
        ({"generator": "diffusion"}, "no exact density"),
        ({"generator": "realnpv"}, "did you mean 'realnvp'"),
        ({"generator": {"name": "nice"}}, "is given as"),
        ({"tilt": "nowhere"}, "no model folder"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        EnergyModel(event_shape=[2], **options)


def test_mistakes_in_use(generator):
    model = EnergyModel(event_shape=[2], **SMALL)
    with pytest.raises(ValueError, match="not known yet"):
        model.log_prob(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"expected examples of shape \(batch, 2\)"):
        model.energy(torch.zeros(3, 4))
    with pytest.raises(TypeError, match="real numbers"):
        model.energy(torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="NaN"):
        model.initialize(torch.full((4, 2), math.nan))
    with pytest.raises(ValueError, match="runs no chain"):
        model.chains(3, sampler="generator")
    with pytest.raises(ValueError, match="penalty"):
        GAN(event_shape=[2], penalty=-1.0)
    x = torch.randn(3, 2, generator=generator, requires_grad=True)
    assert model.slope(x).shape == (3,)
    model.energy_loss(x)
    assert x.grad is None, "the caller's tensor is left alone"


def test_training_resumes_exactly(tmp_path):
    """The draws of both players follow from the seed and the step."""
    from steadyflow.training import resume

    def built():
        torch.manual_seed(1)
        return EnergyModel(event_shape=[2], generator_every=2, **SMALL)

    options = {"batch_size": 64, "progress": False, "data_options": {"n": 300}}
    whole = fit(built(), "moons", run=tmp_path / "whole", steps=8, schedule="constant", **options)
    fit(built(), "moons", run=tmp_path / "half", steps=4, schedule="constant", **options)
    rest = resume(tmp_path / "half", steps=8)
    state = rest.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert float(whole.model.log_z) == float(state["log_z"])


@pytest.mark.slow
def test_twenty_five_gaussians_are_all_found_and_sharp():
    """Draws of the energy: every mode, evenly, and nine in ten within 4 standard deviations."""
    line = torch.arange(-4, 5, 2, dtype=torch.float64)
    means = torch.cartesian_prod(line, line)
    mixture = Mixture(torch.ones(25), means, torch.full((25,), 0.05**2))
    x = mixture.sample(20_000, torch.Generator().manual_seed(0)).float()
    model = fit("energy", x, steps=800, learning_rate=4e-3, progress=False).model
    drawn = model.sample(5000)
    nearest = torch.cdist(drawn.double(), means).min(1)
    shares = torch.bincount(nearest.indices, minlength=25).double() / len(drawn)
    assert float((nearest.values < 0.2).double().mean()) > 0.9
    assert float(torch.special.xlogy(shares, 25 * shares).sum()) < 0.03
    fresh = mixture.sample(2000, torch.Generator().manual_seed(1)).float()
    with torch.no_grad():
        gap = float((mixture.log_prob(fresh) - model.log_prob(fresh)).mean())
    assert 0 < gap < 0.4
