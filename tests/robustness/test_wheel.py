"""The wheel alone: built, installed into an empty environment, used away from the repository."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NO_INDEX = ("No matching distribution", "Failed to establish a new connection", "ConnectionError")


def run(*words, cwd):
    """Runs a command without what this environment adds to Python's path."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    env = {**clean, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=env, capture_output=True, text=True
    )
    if done.returncode and any(text in done.stderr for text in NO_INDEX):
        pytest.skip("needs a package index")
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "-w",
        folder,
        ROOT,
        cwd=folder,
    )
    return next(folder.glob("steadyflow-*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_what_is_not_python(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for path in (ROOT / "src").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            assert str(path.relative_to(ROOT / "src")) in names
    assert not [name for name in names if name.startswith(("tests/", "docs/", "benchmarks/"))]
    assert wheel.stat().st_size < 15 * 2**20


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_an_empty_environment_with_the_wheel_works(wheel, tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "--quiet", "-c", constraints, wheel, cwd=tmp_path)
    steadyflow = tmp_path / "venv" / "bin" / "steadyflow"
    assert run(steadyflow, "--version", cwd=tmp_path).startswith("steadyflow ")
    assert "realnvp" in run(steadyflow, "--help", cwd=tmp_path)
    trained = json.loads(run(steadyflow, "models", "--trained", "--json", cwd=tmp_path))
    assert trained
    run(steadyflow, "sample", "digits-realnvp", "-n", 4, "--out", "x.png", cwd=tmp_path)
    assert (tmp_path / "x.png").is_file()
    words = ["--n", 200, "--steps", 5, "--run", "runs/m"]
    run(steadyflow, "train", "realnvp", "moons", *words, cwd=tmp_path)
    assert (tmp_path / "runs" / "m" / "report.html").is_file()
    code = (
        "import steadyflow; m = steadyflow.load('runs/m'); "
        "print(m.log_prob(m.sample(3)).isfinite().all().item(), steadyflow.__file__)"
    )
    said = run(python, "-c", code, cwd=tmp_path)
    assert said.startswith("True")
    assert str(ROOT) not in said  # the installed one, not the repository's
