"""Two raylets; one dies under its shard."""

import time

import numpy as np
import pytest

from rowloom.client import SGD, StateLost, TableSpec, Unavailable, Zeros, connect
from rowloom.deploy.config.config import parse

pytestmark = pytest.mark.ray


@pytest.fixture
def two_raylets(monkeypatch):
    """A Ray of two nodes on this machine, attached; yields (its address, a function that kills the second node)."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=2)
        ray.init(address=cluster.address, namespace="rowloom", log_to_driver=False)
        yield cluster.address, lambda: cluster.remove_node(second, allow_graceful=False)
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.filterwarnings("ignore")  # Ray's test cluster leaves sockets to the garbage collector
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
        }
    )
    with connect(up_ray(config), timeout_s=4) as client:
        spec = TableSpec("t", 100, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())
        table = client.create_table(spec)
        table.push(np.arange(100), np.ones((100, 4)))
        kill_second()
        seen = set()
        until = time.monotonic() + 25
        while not seen and time.monotonic() < until:
            began = time.monotonic()
            try:
                np.testing.assert_array_equal(table.pull(np.arange(100)), np.full((100, 4), -1, np.float32))
            except (Unavailable, StateLost) as e:
                seen.add(type(e))
            assert time.monotonic() - began < 4 + 4
        assert seen
        # The rows of the shard that lives are served, trained, as before.
        served = 0
        for shard in range(2):
            try:
                rows = table.pull(np.arange(shard, 100, 2))
            except (Unavailable, StateLost):
                continue
            served += 1
            np.testing.assert_array_equal(rows, np.full((50, 4), -1, np.float32))
        assert served == 1
    down_ray("spread")
