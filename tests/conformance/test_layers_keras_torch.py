"""The same tests of the Keras layers on the PyTorch backend: Keras takes one backend a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras", reason="needs Keras: pip install keras torch")
pytest.importorskip("torch", reason="needs PyTorch: pip install torch")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("test_layers_keras.py", "type_and_shape or optimizer"),
        ("test_layers_keras.py", "not type_and_shape and not optimizer"),
        ("test_layers_keras_shared.py", ""),
    ],
)
def test_the_keras_layers_on_pytorch(name, part):
    here = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", part, str(here / name)]
    done = subprocess.run(
        command,
        env={**os.environ, "KERAS_BACKEND": "torch"},
        cwd=here.parents[1],
        capture_output=True,
        text=True,
        timeout=58,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
