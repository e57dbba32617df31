"""The scripts of docs/resume.md, killed once and started again: they go on where they had kept something."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/resume.md").read_text(encoding="utf-8")
SCRIPTS = dict(re.findall(r"^## (\w+)\n.*?^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def start(script: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(script)],
        cwd=script.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("name", ["numpy", "Keras"])
def test_what_was_killed_goes_on_where_it_had_kept_something(name, tmp_path) -> None:
    if name == "Keras":
        pytest.importorskip("keras", reason="the script is written in Keras")
    script = tmp_path / "script.py"
    script.write_text(SCRIPTS[name])
    with start(script) as running:
        assert running.stdout is not None
        kept = next((line for line in running.stdout if line.startswith("kept")), "")
        os.killpg(running.pid, signal.SIGKILL)
        assert kept, running.stderr.read() if running.stderr else ""
    with start(script) as again:
        out, err = again.communicate(timeout=250)
    assert again.returncode == 0, err
    first, *_, last = out.splitlines()
    at = int(first.removeprefix("goes on at step "))
    assert at >= int(kept.split()[-1])
    assert int(last.split()[-1]) > at
