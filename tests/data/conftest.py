"""Data that the tests make, and the way to the shared data."""

from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def shared():
    """Gives the path of a file of the shared data, or skips."""

    def find(name: str) -> str:
        if not (SHARED / name).exists():
            pytest.skip(f"needs ../shared/data/{name}, which is not on this machine")
        return str(SHARED / name)

    return find


@pytest.fixture
def table(tmp_path):
    """Writes a text file and gives its path."""

    def write(text: str, name: str = "table.csv") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write
