"""Whitening as a flow: an exact Gaussian, fitted in one step by the trainer as by hand."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

import steadyflow
from steadyflow import Whitening, data
from steadyflow.evaluation import latent_gaussianity
from steadyflow.models import GenerativeModel
from steadyflow.whitening import Moments


@pytest.fixture(scope="module")
def x():
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    return torch.randn(3000, 6, generator=generator, dtype=torch.float64) @ mix + 4


def fitted(x, **options):
    return Whitening(event_shape=[x.shape[1]], **options).double().fit(x)


@pytest.mark.parametrize(
    "options", [{}, {"gamma": 0.5}, {"gamma": 0.0}, {"rotation": "zca"}, {"gamma": -1.0}], ids=str
)
def test_log_prob_is_scipys_for_every_form(x, options):
    truth = multivariate_normal(x.mean(0).numpy(), np.cov(x.T.numpy(), bias=True)).logpdf(x[:99])
    np.testing.assert_allclose(fitted(x, **options).log_prob(x[:99]), truth, rtol=1e-8)


def test_log_det_is_that_of_the_jacobian(x):
    model = fitted(x, gamma=0.7)
    jacobian = torch.autograd.functional.jacobian(lambda v: model.encode(v[None])[0], x[0])
    _, log_det = model.flow.bijection(x[:1])
    truth = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(log_det[0], truth, rtol=1e-9, atol=1e-9)


def test_round_trip_and_the_shown_part(x):
    model = fitted(x, components=2, drop_top=1, gamma=0.5)
    torch.testing.assert_close(model.decode(model.encode(x)), x, rtol=0, atol=1e-10)
    torch.testing.assert_close(model.transform(x), model.encode(x)[:, 1:3])
    np.testing.assert_allclose(
        model.transform(x[:50]), model.solution.transform(x[:50].numpy()), atol=1e-10
    )
    zca = fitted(x, components=2, rotation="zca")
    np.testing.assert_allclose(
        zca.transform(x[:50]), zca.solution.transform(x[:50].numpy()), atol=1e-10
    )


def test_samples_have_the_covariance(x, generator):
    """n = 40,000: each entry within five of its standard errors."""
    n, model = 40_000, fitted(x)
    drawn = model.sample(n, generator=generator)
    covariance = x.T.cov(correction=0)
    spread = (covariance.diag()[:, None] * covariance.diag() + covariance**2) / n
    assert ((drawn.T.cov() - covariance).abs() < 5 * spread.sqrt()).all()
    assert ((drawn.mean(0) - x.mean(0)).abs() < 5 * (covariance.diag() / n).sqrt()).all()


def test_empty_directions(x):
    flat = torch.cat((x, x[:, :1] - x[:, 1:2]), 1)
    model = fitted(flat)
    assert model.support_rank == 6
    assert model.transform(flat).shape == (3000, 6)
    # the density on the hull: that of six of the columns, but for the volume of the map
    rows = flat[:50]
    change = model.log_prob(rows) - fitted(x).log_prob(x[:50])
    torch.testing.assert_close(change, change[:1].expand(50), rtol=0, atol=1e-7)
    drawn = model.sample(100)
    torch.testing.assert_close(drawn[:, 6], drawn[:, 0] - drawn[:, 1], rtol=0, atol=1e-6)
    full = fitted(flat, shrinkage="oas")
    assert full.support_rank == 7


def test_parts_merge(x):
    whole, part = fitted(x), fitted(x[:1000])
    merged = fitted(x[1000:]).merge(part)
    stepwise = fitted(x[:10]).partial_fit(x[10:1500]).partial_fit(x[1500:])
    gathered = Whitening(event_shape=[6]).double().fit(Moments.of(x[:7]) + Moments.of(x[7:]))
    for other in (merged, stepwise, gathered):
        torch.testing.assert_close(other.log_prob(x), whole.log_prob(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(part.log_prob(x), fitted(x[:1000]).log_prob(x), rtol=0, atol=0)


def test_saved_with_its_moments(x, tmp_path):
    fitted(x[:1000], components=3).save_pretrained(tmp_path / "w")
    names = {file.name for file in (tmp_path / "w").iterdir()}
    assert names == {"config.json", "model.safetensors", "moments.safetensors"}
    model = GenerativeModel.from_pretrained(tmp_path / "w").partial_fit(x[1000:])
    torch.testing.assert_close(
        model.transform(x), fitted(x, components=3).transform(x), rtol=0, atol=1e-8
    )


def test_the_trainer_fits_it_in_one_step(x, tmp_path):
    source = data.from_arrays(x.float().numpy())
    done = steadyflow.fit("whitening", source, run=tmp_path / "run", steps=50)
    assert done.steps == 1
    again = steadyflow.load(tmp_path / "run")
    held_out = again.log_prob(source.test.x)
    train = source.train.x.double().numpy()
    truth = multivariate_normal(train.mean(0), np.cov(train.T, bias=True))
    np.testing.assert_allclose(held_out, truth.logpdf(source.test.x.double()), rtol=1e-4)
    nats = -done.best_validation_loss * 6
    assert nats == pytest.approx(truth.logpdf(source.validation.x.double()).mean(), rel=1e-4)
    assert [row["split"] for row in done.history] == ["train", "validation"]
    with pytest.raises(ValueError, match="nothing to continue"):
        steadyflow.training.resume(tmp_path / "run", data=source)


def test_no_affine_flow_beats_it(x):
    source = data.from_arrays(x.float().numpy())
    flow = steadyflow.fit(
        "realnvp",
        source,
        steps=150,
        model_options={"couplings": 2, "hidden_features": [16]},
        progress=False,
    )
    best = steadyflow.fit("whitening", source)
    assert best.best_validation_loss < flow.best_validation_loss + 0.02


def test_latents_are_gaussian(x):
    model = fitted(x, gamma=0.3)
    found = latent_gaussianity(model, x)
    np.testing.assert_allclose(found.std, 1, atol=1e-3)
    flat = fitted(torch.cat((x, x[:, :1]), 1))
    assert latent_gaussianity(flat, torch.cat((x, x[:, :1]), 1)).scores.shape[1] == 6


def test_single_precision_far_from_zero():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4000, 5, generator=generator) + 1000
    model = Whitening(event_shape=[5]).fit(x)
    assert (model.transform(x).T.cov() - torch.eye(5)).abs().max() < 2e-3
    assert model.log_prob(x).mean().item() == pytest.approx(
        -2.5 * (1 + math.log(2 * math.pi)), abs=0.1
    )


def test_similarity(x):
    model = fitted(x)
    assert model.similarity(x[:3], x[:3]).tolist() == pytest.approx([1, 1, 1])


def test_on_the_command_line(cli_main, x, tmp_path):
    np.save(tmp_path / "x.npy", x.float().numpy())
    run = str(tmp_path / "run")
    assert cli_main("train", "whitening", tmp_path / "x.npy", "--run", run) == 0
    assert (tmp_path / "run" / "report.html").is_file()
    assert cli_main("train", "--resume", run) == 2
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["model"] == "whitening"


@pytest.fixture
def cli_main(monkeypatch, tmp_path):
    from steadyflow.cli.main import main

    monkeypatch.chdir(tmp_path)
    return lambda *words: main([str(word) for word in words])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"event_shape": [1, 2, 2]}, "flatten"),
        ({"event_shape": [3], "num_classes": 2}, "unconditional"),
        ({"event_shape": [3], "components": 0.0}, "components"),
    ],
)
def test_bad_constructor(options, said):
    with pytest.raises(ValueError, match=said):
        Whitening(**options)


def test_bad_rows(x):
    model = fitted(x)
    before = model.log_prob(x)
    for bad in (x[:1], x[:, :2], torch.full((9, 6), math.nan), torch.ones(9, 6)):
        with pytest.raises(ValueError, match="rows"):
            model.fit(bad)
    assert torch.equal(model.log_prob(x), before), "what was fitted stays"
    with pytest.raises(ValueError, match="loaded without its moments"):
        model.merge(Whitening(event_shape=[6]))
