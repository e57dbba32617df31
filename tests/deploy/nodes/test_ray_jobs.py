"""`ray job submit`: a cluster that is started by a job and outlives it, and a trainer that is another one.

A Ray of one node; see `raylets.py`.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys

import pytest
from free_ports import free_port
from raylets import raylets
from waiting import until

from rowloom.deploy import address_of
from rowloom.deploy.operate.remote import Remote
from rowloom.proto.errors import Unavailable

ray = pytest.importorskip("ray")
pytest.importorskip("aiohttp_cors", reason="jobs need ray[default]")

from rowloom.deploy.operate.ray_clusters import down_ray  # noqa: E402

# By hand: `pytest -m slow` of this file. What is ignored is of what Ray's test cluster leaves open.
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),
]
HEAD = "127.0.0.34"
CONFIG = """
name: ads
shards: 2
launcher: ray
security: {insecure: true}
storage: STORAGE
durability: process
tables:
"""
# So that the config is more than Ray keeps of arguments when the job that gave them has ended.
NOTE = "a note about this table " * 5000
TRAINER = """
import numpy as np
from functools import partial
from rowloom.client import connect
from rowloom.deploy import address_of

with connect(partial(address_of, "ads")) as client:
    table = client.table("t")
    for _ in range(20):
        table.push(np.arange(50), np.ones((50, 4), np.float32))
    print("trained", table.pull([49]).tolist())
"""


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory):
    """The URL that jobs are sent to."""
    port = free_port(random.Random(os.getpid()))
    with raylets(HEAD, [], tmp_path_factory.mktemp("head"), dashboard_port=port):
        yield f"http://{HEAD}:{port}"
        down_ray("ads")


def job(dashboard: str, folder, *command: str) -> str:
    """What `ray job submit` prints, which waits for the end of the job; it must succeed."""
    submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", dashboard]
    home = json.dumps({"env_vars": {"ROWLOOM_HOME": str(folder.parent / "home")}})
    sent = ["--working-dir", str(folder), "--runtime-env-json", home, "--", sys.executable, *command]
    done = subprocess.run(
        [*submit, *sent],
        env={**os.environ, "RAY_ADDRESS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def coordinator_pid() -> int:
    with contextlib.suppress(ValueError, ray.exceptions.RayError):  # Ray is just starting it again
        return ray.get(ray.get_actor("ads/coordinator", "rowloom").info.remote())[-1]
    return 0


def serves() -> bool:
    with contextlib.suppress(Unavailable), Remote(address_of("ads")) as remote:
        return all(shard.health == "serving" for shard in remote.status().shards)
    return False


def test_a_cluster_that_a_job_has_started_serves_jobs_and_survives_its_coordinator(dashboard, tmp_path):
    folder = tmp_path / "sent"
    folder.mkdir()
    table = f"  - {{name: t, num_embeddings: 1000, dim: 4, metadata: {{note: '{NOTE}'}}, "
    rows = "initializer: zeros, optimizer: {sgd: {lr: 1.0}}}\n"
    (folder / "deploy.yaml").write_text(CONFIG.replace("STORAGE", str(tmp_path / "kept")) + table + rows)
    (folder / "train.py").write_text(TRAINER)
    job(dashboard, folder, "-m", "rowloom.deploy.cli", "up", "deploy.yaml")
    assert "trained [[-20.0, -20.0, -20.0, -20.0]]" in job(dashboard, folder, "train.py")
    before = coordinator_pid()
    os.kill(before, signal.SIGKILL)
    until(lambda: coordinator_pid() not in (0, before) and serves())
    assert "trained [[-40.0, -40.0, -40.0, -40.0]]" in job(dashboard, folder, "train.py")
