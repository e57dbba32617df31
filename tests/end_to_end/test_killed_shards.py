"""Shards that are killed while trainers go on: nothing that was acknowledged is lost, nothing is applied twice."""

import os
import signal

import numpy as np
import pytest

from rowloom.client import SGD, TableSpec, Zeros, connect
from rowloom.deploy.config.config import parse
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch.local_launcher import ProcessLauncher

IDS = np.arange(40)


@pytest.mark.parametrize("durability", ["process", "interval", "disk"])
def test_a_killed_shard_comes_back_with_every_push_that_was_acknowledged(durability, tmp_path) -> None:
    spec = TableSpec("t", 1000, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())
    config = parse(
        {"name": "k", "shards": 2, "storage": str(tmp_path), "durability": durability, "tables": [spec]}
    )
    launcher = ProcessLauncher(config, tmp_path / "out")
    server = CoordinatorServer(config, launcher)
    server.start()
    try:
        with connect(server.address, timeout_s=60.0) as client:
            table = client.table("t")
            done = 0
            for life in range(4):
                for _ in range(30):
                    table.push(IDS, np.full((len(IDS), 4), -1.0, np.float32))
                    done += 1
                key = server.coordinator.state.keys[life % 2]
                os.kill(launcher.pid(key), signal.SIGKILL)
            table.push(IDS, np.full((len(IDS), 4), -1.0, np.float32))
            assert (table.pull(IDS) == done + 1).all()
    finally:
        server.stop()
