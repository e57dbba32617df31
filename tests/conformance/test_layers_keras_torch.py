"""The same tests of the Keras layers on the PyTorch backend: Keras takes one backend a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras", reason="needs Keras: pip install keras torch")
pytest.importorskip("torch", reason="needs PyTorch: pip install torch")


@pytest.mark.timeout(180)  # half a minute on two idle cores, most of it imports
def test_the_keras_layers_on_pytorch():
    here = Path(__file__).parent
    files = [str(here / "test_layers_keras.py"), str(here / "test_layers_keras_shared.py")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *files],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        cwd=here.parents[1],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
