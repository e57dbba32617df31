"""Shards on Ray whose process or node ends: with logs they come back with every row, without they are an error."""

import os
import signal

import numpy as np
import pytest
from waiting import least_seconds, until

from rowloom.client import SGD, StateLost, TableSpec, Unavailable, Zeros, connect
from rowloom.deploy.config.config import parse
from rowloom.deploy.operate.clusters import down
from rowloom.deploy.operate.directory import ClusterDirectory, Record
from rowloom.deploy.operate.remote import Remote

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings(
        "ignore"
    ),  # Ray's test cluster leaves sockets and files to the garbage collector
]
IDS = np.arange(100)
ONES = np.full((100, 4), -1.0, np.float32)


@pytest.mark.slow
def test_rows_outlive_the_process_and_the_node_of_their_shard(two_raylets, tmp_path) -> None:
    from rowloom.deploy.operate.ray_clusters import up_ray

    address, kill_second = two_raylets
    spec = TableSpec("t", 100, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())
    config = parse(
        {
            "name": "kept",
            "shards": 2,
            "launcher": "ray",
            "ray": {"address": address, "placement": "SPREAD"},
            "storage": str(tmp_path / "shared"),
            "durability": "process",
            "security": {"insecure": True},  # the nodes have addresses of a network of their own
            "tables": [spec],
        }
    )
    coordinator = up_ray(config)
    try:
        with connect(coordinator, timeout_s=90.0) as client, Remote(coordinator) as remote:
            table = client.table("t")
            table.push(IDS, ONES)
            for pid in [shard.pid for shard in remote.status().shards]:
                os.kill(pid, signal.SIGKILL)
            table.push(IDS, ONES)
            np.testing.assert_array_equal(table.pull(IDS), 2.0)
            assert remote.take_snapshot().rows == 100
            table.push(IDS, ONES)
            kill_second()
            table.push(IDS, ONES)
            np.testing.assert_array_equal(table.pull(IDS), 4.0)
    finally:
        record = Record("kept", "ray", coordinator, ray=address, storage=config.storage or "")
        down(record, ClusterDirectory(tmp_path / "home"))
    assert not (tmp_path / "shared" / "logs").exists()


@pytest.mark.slow
def test_a_raylet_killed_under_a_shard_is_an_error_within_the_deadline_never_initial_rows(
    two_raylets, tmp_path
) -> None:
    from rowloom.deploy.operate.ray_clusters import down_ray, up_ray

    address, kill_second = two_raylets
    config = parse(
        {
            "name": "spread",
            "shards": 2,
            "launcher": "ray",
            "ray": {"address": address, "placement": "STRICT_SPREAD"},
            "storage": f"file://{tmp_path}/state",
            "security": {"insecure": True},  # the nodes have addresses of a network of their own
        }
    )
    with connect(up_ray(config)) as client:
        spec = TableSpec("t", 100, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())
        table = client.create_table(spec)
        table.push(IDS, np.ones((100, 4)))
        kill_second()
        client.timeout_s = 4.0

        def served(ids: np.ndarray) -> bool:
            """Trained, as before, if they are."""
            try:
                rows = table.pull(ids)
            except (Unavailable, StateLost):
                return False
            np.testing.assert_array_equal(rows, np.full((len(ids), 4), -1, np.float32))
            return True

        until(lambda: not served(IDS))
        assert least_seconds(lambda: served(IDS), 2 * client.timeout_s) < 2 * client.timeout_s
        # The rows of the shard that lives are served; on a busy machine not at once.
        halves = [IDS[shard::2] for shard in range(2)]
        until(lambda: any(served(ids) for ids in halves))
        assert not all(served(ids) for ids in halves)
    down_ray("spread")
