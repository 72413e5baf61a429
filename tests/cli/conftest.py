"""Verbs are run in this process through `main([...])`; a few tests start a true one."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from steadyflow.cli.main import main

TINY = ["--couplings", "2", "--hidden-features", "8", "8", "--batch-size", "64", "--warmup", "2"]
TINY_IMAGE = ["--scales", "1", "--blocks", "1", "--hidden-channels", "4", "--batch-size", "64"]


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys):
    """Runs one command: exit code, stdout, stderr."""

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(cli):
    """Runs a command that must fail: with its code, in one sentence, with nothing on stdout."""

    def run(code, *words):
        outcome = cli(*words)
        assert outcome.code == code, outcome
        assert_one_sentence(outcome.err)
        return outcome.err

    return run


def assert_one_sentence(err):
    assert err.startswith("steadyflow: "), err
    assert err.count("\n") == 1, err
    for never in ("Traceback", "--debug", "filled in"):
        assert never not in err, err


@pytest.fixture
def process(tmp_path):
    """Runs one command as a process of its own."""

    def run(*words, **settings):
        return subprocess.run(
            [sys.executable, "-m", "steadyflow", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            **{"cwd": tmp_path, **settings},
        )

    return run


@pytest.fixture(scope="session")
def moons_run(tmp_path_factory):
    """A run on two-dimensional points."""
    folder = tmp_path_factory.mktemp("runs") / "moons"
    words = ["train", "realnvp", "moons", "--n", "500", "--steps", "5", *TINY]
    assert main([*words, "--run", str(folder), "--no-report"]) == 0
    return folder


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A class-conditional run on images."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    words = ["train", "realnvp", "digits", "--conditional", "--steps", "5", *TINY_IMAGE]
    assert main([*words, "--run", str(folder), "--no-report"]) == 0
    return folder
