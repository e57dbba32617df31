"""Fixtures of the launchers."""

import gc

import pytest


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
        gc.collect()  # while its warnings are ignored: sockets and files that it has left
