"""The rendered parameters, config and script on a real Ray, two nodes of this machine in place of pods."""

import os
import random
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from free_ports import free_port
from rendered import head, rendered, worker
from waiting import until

from rowloom.client import connect
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.render.fitted import CONFIG_AT

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.ray]
NODES = ("127.0.0.21", "127.0.0.22")
OFF = ("dashboard-host",)


def ray_start(group: dict, *more: str) -> str:
    """As KubeRay has a shell run it: each parameter as it stands."""
    words = [f"--{name}={value}" for name, value in group["rayStartParams"].items() if name not in OFF]
    return " ".join(["ray start --block --disable-usage-stats", *more, *words])


@pytest.fixture
def pods(tmp_path):
    """Starts lines of a shell that stay, and runs others; those that stay end with the test, in reverse."""
    (tmp_path / "bin").mkdir()
    for name, module in (("ray", "ray.scripts.scripts"), ("rowloom", "rowloom.deploy.cli")):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        program.chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "ROWLOOM_HOME": str(tmp_path / "home"),
    }
    env |= {"RAY_AUTH_MODE": "disabled", "RAY_prestart_worker_first_driver": "0"}
    staying: list[subprocess.Popen[bytes]] = []

    def start(line: str) -> None:
        with open(tmp_path / f"log-{len(staying)}", "wb") as log:
            staying.append(
                subprocess.Popen(
                    ["bash", "-c", f"exec {line}"], env=env, stdout=log, stderr=log, start_new_session=True
                )
            )

    def run(line: str, **more: str) -> str:
        done = subprocess.run(
            ["bash", "-c", line], env=env | more, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    yield start, run
    for child in reversed(staying):
        child.send_signal(signal.SIGTERM)
    for child in staying:
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def test_the_rendered_files_start_a_cluster_with_its_coordinator_on_the_head_and_apply_a_change(
    pods, tmp_path
):
    start, run = pods
    coordinator, gcs = (free_port(random.Random()) for _ in range(2))
    small = {"memory_per_shard": "64MiB"}

    def made(shards: int):
        return rendered({"shards_per_pod": 3, "spare": 0}, shards=shards, port=coordinator, ray=small)

    with tempfile.TemporaryDirectory(prefix="rl", dir="/tmp", ignore_cleanup_errors=True) as short:
        first = made(2)
        start(
            ray_start(
                head(first),
                "--head --include-dashboard=false",
                f"--port={gcs}",
                f"--node-ip-address={NODES[0]}",
                f"--temp-dir={short}",
            )
        )
        address = f"{NODES[0]}:{gcs}"
        until(
            lambda: (
                run(f"ray health-check --address {address} && echo up || echo down").strip().endswith("up")
            ),
            60,
        )
        start(ray_start(worker(first), f"--address={address}", f"--node-ip-address={NODES[1]}"))

        def up(one) -> None:
            for name, text in one.manifests["config.yaml"][0]["data"].items():
                (tmp_path / name).write_text(text.replace(CONFIG_AT, str(tmp_path)))
            run(f"bash {tmp_path}/up.sh {one.fitted.config.hash}", RAY_ADDRESS=address)

        up(first)
        ids = np.arange(100)
        with connect(f"{NODES[0]}:{coordinator}") as client:
            client["users"].push(ids, np.ones((100, 64), np.float32))
            rows = client["users"].pull(ids)
            up(made(3))
            np.testing.assert_array_equal(client["users"].pull(ids), rows)
        with Remote(f"{NODES[0]}:{coordinator}") as remote:
            hosts = [s.shard.address.partition(":")[0] for s in remote.status().shards]
        assert hosts == 3 * [NODES[1]]
        run("rowloom down --yes", RAY_ADDRESS=address)
