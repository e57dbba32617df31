"""Fixtures of the launchers."""

import gc

import pytest


@pytest.fixture(scope="module")
def head():
    """A Ray of one node on this machine, attached."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        try:
            ray.init(address=cluster.address, namespace="rowloom", log_to_driver=False)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
            gc.collect()  # while its warnings are ignored: sockets and files that it has left


@pytest.fixture
def two_raylets(head):
    """The same with a second node; yields (its address, a function that kills the second node)."""
    second = head.add_node(num_cpus=2)
    head.wait_for_nodes()
    yield head.address, lambda: head.remove_node(second, allow_graceful=False)
    if second in head.list_all_nodes():
        head.remove_node(second)
