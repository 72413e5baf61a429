"""What only a process of its own can show: signals, pipes, exit codes, several processes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import TINY, assert_one_sentence

from steadyflow.cli import failures
from steadyflow.cli.main import main
from steadyflow.training import Run


def test_exit_codes_and_streams(process):
    done = process("train", "realnpv", "moons")
    assert (done.returncode, done.stdout) == (2, "")
    assert_one_sentence(done.stderr)
    done = process("data", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)  # the words for people are on stderr
    assert "moons" in done.stderr


@pytest.mark.parametrize("words", [["--debug", "evaluate", "x"], ["evaluate", "x", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(cli, words):
    outcome = cli(*words)
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("steadyflow: there is no run 'x'")


def test_a_defect_is_one_line_too(cli, monkeypatch):
    from steadyflow.cli import models

    def broken(name=None):
        """Breaks."""
        return {}["no\nkey"]

    broken.__module__ = "steadyflow.cli.models"
    monkeypatch.setattr(models, "models", broken)
    outcome = cli("models")
    assert outcome.code == 1
    assert outcome.err == (
        "steadyflow: KeyError: 'no\\nkey' (run again with --debug for the traceback)\n"
    )


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "runs/x"), 1, "disk is full while writing runs/x"),
        (MemoryError(), 1, "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "--batch-size"),
        (FileNotFoundError(2, "No such file or directory", "a.csv"), 1, "a.csv: no such file"),
        (RuntimeError("odd\nlines"), 1, "RuntimeError: odd lines"),
    ],
)
def test_sentences(error, code, said):
    assert failures.exit_code(error) == code
    assert said in failures.sentence(error)
    assert "\n" not in failures.sentence(error)


def test_a_closed_pipe_is_no_error(tmp_path):
    command = f"{sys.executable} -m steadyflow data | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.stderr == ""
    assert done.returncode in (0, failures.CLOSED)


def test_ctrl_c_leaves_a_usable_run(cli, tmp_path):
    command = [sys.executable, "-m", "steadyflow", "train", "realnvp", "moons", "--n", "200"]
    command += [*TINY, "--steps", "1000000", "--validate-every", "20", "--run", "run"]
    started = subprocess.Popen(
        command,
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    wait_for(tmp_path / "run" / "model")
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=120)
    assert started.returncode == 130, err
    assert_one_sentence(err)
    assert "--resume run" in err
    run = tmp_path / "run"
    assert cli("evaluate", run).code == 0
    done = max(row["step"] for row in Run.open(run).metrics())
    words = ["train", "--resume", run, "--steps", done + 50, "--no-report", "--json"]
    assert json.loads(cli(*words).out)["steps"] == done + 50


@pytest.mark.slow
def test_two_processes_print_once(process):
    words = ["train", "realnvp", "moons", "--n", 200, "--steps", 4, *TINY, "--processes", 2]
    done = process(*words, "--run", "run", "--no-report", "--json")
    assert (done.returncode, json.loads(done.stdout)["steps"]) == (0, 4), done.stderr
    assert done.stderr.count("trained for") == 1
    assert "Warning" not in done.stderr


def test_other_processes_of_torchrun_are_silent(cli, moons_run, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    outcome = cli("evaluate", moons_run)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


def test_main_gives_an_exit_code():
    assert main(["--version"]) == 0


def wait_for(path, seconds=180):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)
