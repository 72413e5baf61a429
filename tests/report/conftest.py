"""A small run of each kind of data, as the report sees it: untrained models, synthetic data."""

from types import SimpleNamespace

import pytest
import torch

from steadyflow import RealNVP

METRICS = [
    {"step": 10 * i, "split": split, "loss": 3.0 / (1 + i), "skipped": 2 if i > 5 else 0}
    for i in range(60)
    for split in ("train", "validation")
]


class FakeRun:
    """What `steadyflow.training.Run` offers, without training."""

    def __init__(self, folder, model, dataset):
        self.folder, self._model, self._data = folder, model, dataset
        self.config = {
            "model": {"name": model.name, "config": model.config},
            "data": {"source": dataset.name, "seed": 0, "fractions": {}, "options": {}},
            "training": {"steps": 40, "batch_size": 64, "seed": 1},
        }

    def model(self):
        return self._model

    def data(self):
        return self._data

    def metrics(self):
        return METRICS

    def path(self, name):
        return self.folder / name


def dataset(name, kind, x, y=None, **more):
    third = len(x) // 3
    parts = [slice(0, third), slice(third, 2 * third), slice(2 * third, None)]
    splits = [SimpleNamespace(x=x[p], y=None if y is None else y[p]) for p in parts]
    train, validation, test = splits
    values = {"classes": None, "columns": None, "bits": None, **more}
    return SimpleNamespace(
        name=name,
        kind=kind,
        event_shape=tuple(x.shape[1:]),
        train=train,
        validation=validation,
        test=test,
        **values,
    )


def images(folder, classes=None):
    torch.manual_seed(0)
    x = torch.randint(0, 17, (90, 1, 8, 8), dtype=torch.uint8)
    y = None if classes is None else torch.arange(90) % len(classes)
    model = RealNVP(
        event_shape=(1, 8, 8),
        num_classes=classes and len(classes),
        hidden_channels=4,
        blocks=1,
        bits=5,
    )
    return FakeRun(folder, model.eval(), dataset("noise", "image", x, y, classes=classes, bits=5))


def vectors(folder, d, name="points", num_classes=None):
    torch.manual_seed(0)
    x = torch.randn(120, d)
    y = None if num_classes is None else torch.arange(120) % num_classes
    model = RealNVP(event_shape=(d,), num_classes=num_classes, couplings=2, hidden_features=[8])
    return FakeRun(folder, model.eval(), dataset(name, "vector", x, y))


MAKERS = {
    "images": lambda folder: images(folder),
    "labelled images": lambda folder: images(
        folder, ["zero", "$one$", "a very long class name <2>"]
    ),
    "plane": lambda folder: vectors(folder, 2),
    "labelled plane": lambda folder: vectors(folder, 2, num_classes=2),
    "table": lambda folder: vectors(folder, 7),
}


@pytest.fixture
def make(tmp_path):
    """Makes the named run in an empty folder."""
    return lambda kind: MAKERS[kind](tmp_path)


@pytest.fixture(params=MAKERS)
def run(request, tmp_path):
    return MAKERS[request.param](tmp_path)
