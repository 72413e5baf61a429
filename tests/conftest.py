"""What every test has: one thread for each worker, a fixed seed, and the way to shared data."""

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parents[2] / "shared" / "data"

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def shared_data():
    """Gives the path of a file of the data beside the repository, or skips."""

    def find(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"needs ../shared/data/{name}, which is not on this machine")
        return SHARED / name

    return find
