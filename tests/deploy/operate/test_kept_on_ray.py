"""Clusters on Ray whose rows are in logs go on on another Ray."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")


@pytest.mark.ray
@pytest.mark.timeout(300)  # of which Ray takes most: it is started twice
@pytest.mark.slow
def test_rows_go_on_after_a_down_that_keeps_them_and_after_all_of_ray_was_killed(tmp_path) -> None:
    """A cluster on Ray could not be ended with its rows kept; an `up` after its Ray was gone began anew, in silence."""
    script = Path(__file__).parents[2] / "support/kept_on_ray.py"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stdout.endswith("each was applied once\n")
