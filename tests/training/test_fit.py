import math

import pytest
import torch
from watchers import Losses, Spoil

import steadyflow
from steadyflow import RealNVP, data
from steadyflow.errors import TrainingError
from steadyflow.training import Run, load


def test_learns_two_moons(points, fit):
    model = RealNVP(event_shape=(2,), couplings=4, hidden_features=(32,))
    result = fit(model, points, steps=200, batch_size=128, learning_rate=5e-3)
    normal = torch.distributions.MultivariateNormal(points.train.x.mean(0), points.train.x.T.cov())
    with torch.no_grad():
        assert model.log_prob(points.test.x).mean() > normal.log_prob(points.test.x).mean() + 0.2
    assert result.model is model
    assert not model.training
    assert result.steps == 200


def test_a_model_by_name_is_built_for_the_data(fit):
    options = {"couplings": 2, "hidden_features": [8]}
    result = steadyflow.fit(
        "realnvp", "moons", data_options={"n": 100}, model_options=options, steps=2, progress=False
    )
    assert result.model.event_shape == (2,)
    assert result.model.config["couplings"] == 2


def test_images_get_their_bits(fit):
    options = {"hidden_channels": 4, "blocks": 1, "scales": 1}
    result = fit("realnvp", "digits", model_options=options, steps=2, batch_size=16)
    assert result.model.config["bits"] == 5
    assert result.history[-1]["bits_per_dim"] == pytest.approx(
        result.history[-1]["loss"] / math.log(2)
    )


def test_classes_go_to_the_model(labelled, fit):
    result = fit(
        "realnvp",
        labelled,
        conditional=True,
        model_options={"couplings": 2},
        steps=60,
        learning_rate=1e-2,
    )
    x, y = labelled.test.x, labelled.test.y
    assert result.model.num_classes == 2
    with torch.no_grad():
        right, wrong = result.model.log_prob(x, y), result.model.log_prob(x, 1 - y)
    assert (right > wrong).float().mean() > 0.8


def test_the_same_seed_gives_the_same_run(points, small, fit):
    first, second, other = (
        fit(small(), points, seed=seed).model.state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_leaves_the_global_randomness_alone(points, small, fit):
    model = small()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    fit(model, points)
    assert torch.equal(torch.rand(1), expected)


def test_leaves_a_complete_run(tmp_path, points, small, fit):
    result = fit(small(), points, run=tmp_path / "run", validate_every=5, log_every=4)
    run = Run.open(tmp_path / "run")
    names = {path.name for path in run.folder.iterdir()}
    assert names == {"config.yaml", "model", "checkpoint.safetensors", "metrics.csv"}
    assert [(row["step"], row["split"]) for row in run.metrics()] == [
        (4, "train"),
        (5, "validation"),
        (8, "train"),
        (10, "validation"),
        (12, "train"),
        (12, "validation"),
    ]
    losses = [row["loss"] for row in run.metrics() if row["split"] == "validation"]
    assert result.best_validation_loss == pytest.approx(min(losses), rel=1e-6)
    assert result.history == run.metrics()
    loaded = load(run)
    x = points.test.x
    torch.testing.assert_close(loaded.log_prob(x), result.model.log_prob(x))
    torch.testing.assert_close(
        loaded.loss(points.validation.x).item(), result.best_validation_loss, rtol=1e-5, atol=0
    )


def test_nothing_is_left_without_a_run(tmp_path, points, small, fit, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    result = fit(small(), points, progress=True)
    assert result.run is None
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_best_weights_are_kept_not_the_last(points, small, fit):
    wild = {"learning_rate": 0.5, "ema": 0, "clip": 0, "warmup": 0, "schedule": "constant"}

    def losses(steps):
        result = fit(small(), points, steps=steps, validate_every=1, **wild)
        return result, [row["loss"] for row in result.history if row["split"] == "validation"]

    _, seen = losses(40)
    worse = next(step for step in range(2, 40) if seen[step] > min(seen[:step]))
    result, seen = losses(worse + 1)
    assert seen[-1] > min(seen)
    found = result.model.loss(points.validation.x).item()
    assert found == pytest.approx(min(seen), rel=1e-4)


def test_patience_ends_a_training_that_gets_worse(points, small, fit):
    result = fit(
        small(),
        points,
        steps=400,
        validate_every=2,
        patience=3,
        learning_rate=0.5,
        ema=0,
        clip=0,
        warmup=0,
        schedule="constant",
    )
    assert result.steps < 400
    assert "3 validations without a better one" in result.message
    assert not result.interrupted


def test_minutes_end_a_training(points, small, fit):
    result = fit(small(), points, steps=None, minutes=0.02, validate_every=5)
    assert 0.5 < result.seconds < 6
    rates = [row["learning_rate"] for row in result.history if row["split"] == "train"]
    assert rates[-1] < max(rates) / 5


def test_epochs_end_a_training(points, small, fit):
    assert fit(small(), points, steps=None, epochs=2).steps == 2 * (400 // 48)


@pytest.mark.parametrize("rows", [4, 7])
def test_fewer_rows_than_a_batch(rows, small, fit):
    x = torch.randn(rows, 2)
    result = fit(small(), x, steps=3, data_options={"name": "few"})
    assert math.isfinite(result.best_validation_loss)


def test_no_validation_examples_keep_the_last_weights(small, fit):
    ds = data.from_arrays(torch.randn(60, 2), validation=0, test=0)
    result = fit(small(), ds)
    assert result.best_validation_loss is None
    assert result.model.log_prob(ds.train.x).isfinite().all()


def test_accumulation_gives_the_same_weights(points, small, fit):
    whole, parts = (
        fit(small(), points, accumulate=n, batch_size=50).model.state_dict() for n in (1, 3)
    )
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-4, atol=1e-6)


def test_data_dependent_parameters_come_from_the_training_examples(points, small, fit):
    model = fit(small(), points, initialization_examples=400).model
    standardization = model.flow.bijection.bijections[0]
    torch.testing.assert_close(standardization.mean, points.train.x.mean(0))


def test_single_bad_losses_are_skipped_and_counted(points, small, fit):
    watch = Losses()
    result = fit(small(), points, callbacks=[Spoil({3, 6}), watch])
    assert result.skipped == 2
    assert result.history[-1]["skipped"] == 2
    assert math.isnan(watch.losses[3])
    assert all(math.isfinite(watch.losses[i]) for i in (4, 5, 7, 11))
    assert result.model.log_prob(points.test.x).isfinite().all()


def test_persisting_bad_losses_end_the_run_with_advice(tmp_path, points, small, fit):
    spoil = Spoil(range(5, 100))
    with pytest.raises(TrainingError, match=r"10 steps in a row.*lower learning rate.*model"):
        fit(small(), points, steps=50, run=tmp_path / "run", callbacks=[spoil])
    model = load(tmp_path / "run")
    assert model.log_prob(points.test.x).isfinite().all()
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()


@pytest.mark.slow
def test_a_compiled_loss_trains_the_same(points, small, fit):
    pytest.importorskip("torch._inductor")
    plain, compiled = Losses(), Losses()
    fit(small(), points, steps=3, callbacks=[plain])
    fit(small(), points, steps=3, callbacks=[compiled], compile=True)
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-4)
