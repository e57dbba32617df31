"""The same tests of the Keras layers on the PyTorch backend: Keras takes one backend a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras", reason="needs Keras: pip install keras torch")
pytest.importorskip("torch", reason="needs PyTorch: pip install torch")


def test_the_keras_layers_on_pytorch():
    here = Path(__file__).parent
    names = [
        "layers_keras" + name
        for name in ("", "_shared", "_collections", "_sharing", "_rates", "_export", "_watch")
    ]
    names.append("checkpoints_keras")
    files = [str(here / f"test_{name}.py") for name in names]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *files],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        cwd=here.parents[1],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
