"""What training asks of a model besides its loss: a schedule to follow, parts of the loss."""

import pytest
import torch
from watchers import Signal

from steadyflow import RealNVP
from steadyflow.training import Run, history, resume


class Scheduled(RealNVP):
    """Notes the progress that it is told; its loss has two parts."""

    name = "realnvp"  # so that a run of it can be resumed

    def begin_step(self, progress):
        self.told = [*getattr(self, "told", []), progress]

    def loss(self, x, context=None):
        self.first = (x**2).mean()
        return super().loss(x, context)

    def metrics(self):
        return {"first": self.first, "second": 2.0}


def scheduled():
    torch.manual_seed(1)
    return Scheduled(event_shape=(2,), couplings=2, hidden_features=(16,))


def test_a_model_is_told_the_progress_before_each_step(points, fit):
    model = scheduled()
    fit(model, points, steps=8)
    assert model.told == [step / 8 for step in range(8)]


def test_parts_of_the_loss_become_columns(tmp_path, points, fit):
    result = fit(scheduled(), points, run=tmp_path / "run", log_every=6, validate_every=12)
    rows = Run.open(tmp_path / "run").metrics()
    assert list(rows[0]) == [*history.COLUMNS, "first", "second"]
    assert rows == [pytest.approx(row) for row in result.history]
    assert {row["split"] for row in rows} == {"train", "validation"}
    held_out = next(row for row in rows if row["split"] == "validation")
    assert held_out["first"] == pytest.approx((points.validation.x**2).mean().item(), rel=1e-5)
    assert {row["second"] for row in rows} == {2.0}


def test_a_model_without_parts_has_the_columns_of_before(tmp_path, points, small, fit):
    fit(small(), points, run=tmp_path / "run")
    assert tuple(Run.open(tmp_path / "run").metrics()[0]) == history.COLUMNS


def test_parts_continue_exactly(tmp_path, points, fit, monkeypatch):
    monkeypatch.setattr("steadyflow.training.matching.build", lambda *_: scheduled())
    options = {"steps": 20, "log_every": 6, "validate_every": 7}
    whole = fit(scheduled(), points, run=tmp_path / "whole", **options)
    fit(scheduled(), points, run=tmp_path / "half", callbacks=[Signal(9)], **options)
    rest = resume(tmp_path / "half")
    parts = [[row["first"] for row in result.history] for result in (whole, rest)]
    assert parts[1] == pytest.approx(parts[0], rel=1e-8)
    assert rest.model.told[0] == 10 / 20


def test_columns_widen_when_a_part_appears_late(tmp_path):
    kept = history.History(tmp_path / "metrics.csv")
    kept.start(step=0)
    kept.add(step=10, split="train", loss=0.5)
    kept.add(step=20, split="train", loss=0.25, rate=3.0)
    again = history.History(tmp_path / "metrics.csv")
    again.start(step=10)
    again.add(step=20, split="train", loss=0.125, rate=4.0)
    rows = history.read(tmp_path / "metrics.csv")
    assert [(row["loss"], row["rate"]) for row in rows] == [(0.5, None), (0.125, 4.0)]
