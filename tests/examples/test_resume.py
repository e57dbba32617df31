"""A training that is killed with all that belongs to it, at any moment, and started again ends in the same bits."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from example_modules import EXAMPLES

pytest.importorskip("torch", reason="the example is written in PyTorch")
SCRIPT = EXAMPLES / "resume_torch.py"
KILLS = int(os.environ.get("ROWLOOM_KILLS", "1"))


def start(folder: Path, rule: str) -> subprocess.Popen[str]:
    """The example, with all of its processes in a group of their own."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(SCRIPT), str(folder), rule]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )


def losses(lines: list[str]) -> dict[int, str]:
    return {int(step): loss for step, loss in map(str.split, lines)}


def killed_at(folder: Path, rule: str, step: int) -> dict[int, str]:
    """Run until that step, then end everything. Returns the losses that were printed."""
    running = start(folder, rule)
    assert running.stdout is not None
    lines: list[str] = []
    for line in running.stdout:
        lines.append(line)
        if int(line.split()[0]) >= step:
            os.killpg(running.pid, signal.SIGKILL)
            break
    running.stdout.close()
    running.wait()
    return losses(lines)


def to_the_end(folder: Path, rule: str) -> dict[int, str]:
    running = start(folder, rule)
    out, _ = running.communicate(timeout=250)
    assert running.returncode == 0
    return losses(out.splitlines())


@pytest.mark.parametrize("rule", ["adagrad", "adam"])
def test_a_training_that_was_killed_goes_on_to_the_same_bits(rule, tmp_path) -> None:
    expected = to_the_end(tmp_path / "whole", rule)
    rng = random.Random(rule)
    for kill in range(KILLS):
        folder = tmp_path / f"killed-{kill}"
        seen = killed_at(folder, rule, rng.randrange(1, 59))
        for step, loss in (seen | to_the_end(folder, rule)).items():
            assert loss == expected[step], f"step {step}"
        with np.load(tmp_path / "whole/rows.npz") as mine, np.load(folder / "rows.npz") as theirs:
            for name in mine.files:
                assert np.array_equal(mine[name], theirs[name])
