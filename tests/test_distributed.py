"""A function over files, in this process and in others."""

import os
import time

import pytest

from steadyflow.distributed import map_files
from steadyflow.errors import UsageError


def process_of(file):
    time.sleep(0.05)
    return os.getpid()


def broken(file):
    if file == "b":
        raise ValueError("file b is broken")
    return file


def test_results_keep_the_order_of_the_files():
    assert map_files(len, ["a", "bbb", "cc"]) == [1, 3, 2]


@pytest.mark.slow
def test_workers_are_other_processes():
    pytest.importorskip("distributed")
    found = set(map_files(process_of, [str(i) for i in range(20)], workers=2))
    assert len(found) == 2
    assert os.getpid() not in found


def test_errors_come_back():
    with pytest.raises(ValueError, match="file b"):
        map_files(broken, ["a", "b", "c"])
    with pytest.raises(UsageError, match="scheduler"):
        map_files(broken, ["a"], workers=2, scheduler="tcp://localhost:1")


@pytest.mark.slow
def test_errors_of_workers_come_back():
    pytest.importorskip("distributed")
    with pytest.raises(ValueError, match="file b"):
        map_files(broken, ["a", "b", "c"], workers=2)
