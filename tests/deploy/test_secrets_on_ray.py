"""No secret of a cluster on Ray is seen where others may look, and one that were there would be seen."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.slow]  # `test_cli_secure.py` looks at a cluster without Ray
SCRIPT = Path(__file__).parents[1] / "support/secrets_on_ray.py"
LEAST = {
    "arguments": 10,
    "environment": 5,
    "gcs": 3,
    "home": 3,
    "kv": 10,
    "page": 7,
    "ray": 20,
    "said": 5,
    "state": 6,
    "storage": 3,
}
"""How many texts of each kind there are at least: who looks at nothing finds nothing."""

ALL = {f"{name} key" for name in ("ca", "server", "client")} | {
    *("cluster token", "trainer token", "prometheus token", "refused token"),
    *("token of the environment", "token of Ray", "object store"),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What `secrets_on_ray.py` found."""
    root = tmp_path_factory.mktemp("secrets")
    with tempfile.TemporaryDirectory(prefix="rl", dir="/tmp", ignore_cleanup_errors=True) as short:
        env = {
            **os.environ,
            "RAY_TMPDIR": short,
            # What Ray's head knows, with the arguments of actors, is in files then, which can be looked through.
            "RAY_gcs_storage": "rocksdb",
            "RAY_gcs_storage_path": str(root / "gcs"),
        }
        command = [sys.executable, SCRIPT, root, root / "places.json"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads((root / "places.json").read_text())


def test_no_secret_is_in_arguments_environments_logs_pages_answers_or_anything_that_ray_keeps(places):
    found = places["found"]
    assert found.keys() == ALL
    # Servers read and write an object store: what it wants to be shown is in their environment, and nowhere else.
    of_store = found.pop("object store")
    assert of_store
    assert all(where.startswith("environment: ") for where in of_store)
    assert {name: where for name, where in found.items() if where} == {}


def test_the_look_was_at_everything(places):
    assert places["looked"].keys() == LEAST.keys()
    assert {kind: n for kind, n in places["looked"].items() if n < LEAST[kind]} == {}


@pytest.mark.parametrize(
    ("secret", "kinds"),
    [
        pytest.param("argument", {"gcs", "ray"}, id="an argument, packed, and printed"),
        pytest.param("variable", {"environment", "gcs", "state"}, id="a variable that Ray is told to set"),
        pytest.param("stored", {"gcs", "kv"}, id="a value of Ray's own store"),
        pytest.param("written", {"storage"}, id="a file, in base64"),
        pytest.param("typed", {"arguments"}, id="what ps shows"),
    ],
)
def test_a_secret_that_is_put_there_is_seen(places, secret, kinds):
    assert kinds <= {where.partition(":")[0] for where in places["planted"][secret]}
