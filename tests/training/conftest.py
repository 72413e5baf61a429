"""Small models and data that train in a fraction of a second."""

import numpy as np
import pytest
import torch

from steadyflow import RealNVP, data
from steadyflow.training import fit as real_fit


@pytest.fixture(scope="session")
def points():
    """500 points of two moons."""
    return data.open("moons", n=500)


@pytest.fixture(scope="session")
def labelled():
    """200 points of two classes."""
    x = np.random.default_rng(0).normal(size=(200, 2))
    return data.from_arrays(x, (x[:, 0] > 0).astype(int), name="two classes")


@pytest.fixture
def small():
    """Builds a small model; the same weights every time."""

    def build(**options):
        torch.manual_seed(1)
        return RealNVP(
            **{"event_shape": (2,), "couplings": 2, "hidden_features": (16,), **options}
        )

    return build


@pytest.fixture
def fit():
    """`fit` in short: few steps, small batches, no progress bar."""

    def run(model, dataset, **options):
        return real_fit(
            model, dataset, **{"steps": 12, "batch_size": 48, "progress": False, **options}
        )

    return run
