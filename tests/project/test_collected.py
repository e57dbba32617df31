"""A fresh machine that has only the `dev` extra collects every test: what compares us with a framework is left out."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

COLLECT = """
import sys, pytest
from importlib.machinery import PathFinder

class Fresh(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        left_out = name.partition(".")[0] in {"torch", "tensorflow", "keras", "jax", "jaxlib", "moto", "s3fs"}
        return None if left_out else super().find_spec(name, path, target)

sys.meta_path[:] = [Fresh if finder is PathFinder else finder for finder in sys.meta_path]
sys.exit(pytest.main(["--collect-only", "-q", "tests/conformance", "tests/examples"]))
"""


def test_every_test_is_collected_where_no_framework_is_installed() -> None:
    """One file once imported safetensors.torch at its top, and the README's command ended before its first test."""
    collected = subprocess.run(
        [sys.executable, "-c", COLLECT], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert collected.returncode == 0, collected.stdout[-3000:]
    assert "compared with PyTorch" in collected.stdout  # they were left out: nothing was found after all
