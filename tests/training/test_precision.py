import math

import pytest
import torch
from watchers import Losses

from steadyflow import RealNVP
from steadyflow.training import load


def losses(fit, model, dataset, **options):
    watch = Losses()
    fit(model, dataset, callbacks=[watch], **options)
    return watch.losses


def test_bfloat16_networks_give_nearly_the_same_losses(points, small, fit):
    full = losses(fit, small(), points)
    mixed = losses(fit, small(), points, precision="bf16-mixed")
    assert mixed == pytest.approx(full, abs=0.02)
    assert mixed != full


def test_bfloat16_images(fit):
    def model():
        torch.manual_seed(1)
        return RealNVP(event_shape=(1, 8, 8), hidden_channels=4, blocks=1, scales=1, bits=5)

    full = losses(fit, model(), "digits", steps=4)
    mixed = losses(fit, model(), "digits", steps=4, precision="bf16-mixed")
    assert all(map(math.isfinite, mixed))
    assert mixed == pytest.approx(full, abs=0.05)


def test_log_determinants_stay_float32_under_bfloat16(points, small, fit):
    seen = []

    class Look(Losses):
        def on_train_batch_start(self, trainer, training, *_):
            with trainer.precision_plugin.train_step_context():
                seen.append(training.model.log_prob(training.batches.batch(0)[0]).dtype)

    fit(small(), points, steps=2, precision="bf16-mixed", callbacks=[Look()])
    assert seen == [torch.float32, torch.float32]


@pytest.mark.parametrize("data", ["moons", "digits"])
def test_float64(data, fit, tmp_path):
    image = {"hidden_channels": 4, "blocks": 1, "scales": 1}
    options = image if data == "digits" else {"couplings": 2}
    before = torch.get_default_dtype()
    result = fit(
        "realnvp", data, model_options=options, steps=3, precision="float64", run=tmp_path / "run"
    )
    assert torch.get_default_dtype() == before
    assert {p.dtype for p in result.model.parameters()} == {torch.float64}
    assert math.isfinite(result.best_validation_loss)
    assert {p.dtype for p in load(tmp_path / "run").parameters()} == {torch.float64}
