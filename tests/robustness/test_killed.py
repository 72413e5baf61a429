"""Killed at any moment, a training can be used and continued: what is on the disk is whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = int(os.environ.get("KILLS", "12"))


@pytest.mark.slow
def test_the_last_checkpoint_loads_after_kill_minus_nine(tmp_path):
    script = Path(__file__).with_name("killed.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path / "run", str(KILLS), "0"],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    steps = [kill["step"] for kill in found["kills"]]
    assert None not in steps
    assert steps == sorted(steps)  # nothing that was saved is lost
    assert steps[-1] > steps[0]
    assert all(kill["model"] for kill in found["kills"]), found["kills"]
    assert found["resumed"] == steps[-1] + 3
    assert found["litter"] == []
    assert found["rows"] == sorted(found["rows"])
