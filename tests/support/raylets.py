"""A Ray of several nodes: raylets of this machine with loopback addresses of their own, and a head that keeps what it
knows in a folder.

By itself no other Ray is found or disturbed: its files are below RAY_TMPDIR, its ports are free ones.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

POOL = {"pool": "ps"}  # the labels of all nodes but the head
OPTIONS = {"num_cpus": 6, "object_store_memory": 80_000_000}
SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_prestart_worker_first_driver": "0",
    # Ray takes a node that is silent for dead within some seconds, not within half a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}


class Raylets:
    """They run.

    Attributes:
        crashes: how often the head's server ended by itself, and was started again by `supervised`.
    """

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._nodes: dict[str, Any] = {}
        self._lock = threading.Lock()  # held while the head's server is away on purpose
        self.crashes = 0

    @property
    def address(self) -> str:
        """Of the head, host:port."""
        return self._cluster.address

    def add(self, *addresses: str) -> None:
        """More nodes of the pool; returns when Ray has them."""
        for address in addresses:
            self._nodes[address] = self._cluster.add_node(
                **OPTIONS, node_ip_address=address, labels=POOL, wait=False
            )
        self._cluster.wait_for_nodes()

    def kill(self, address: str) -> None:
        """A node, with all that runs there."""
        self._cluster.remove_node(self._nodes.pop(address), allow_graceful=False)

    @contextlib.contextmanager
    def head_away(self) -> Generator[None]:
        """Without the head's server, of which nobody thinks that it crashed."""
        with self._lock:
            self.kill_head_server()
            try:
                yield
            finally:
                self.start_head_server()

    @contextlib.contextmanager
    def supervised(self) -> Generator[None]:
        """The head's server is started again when it ends by itself, as whoever runs one has it done."""
        ending = threading.Event()

        def supervise() -> None:
            while not ending.wait(0.5):
                with self._lock:
                    servers = self._cluster.head_node.all_processes.get("gcs_server", [])
                    if servers and servers[0].process.poll() is not None:
                        self.crashes += 1
                        self._cluster.head_node.kill_gcs_server(check_alive=False)
                        self.start_head_server()

        thread = threading.Thread(target=supervise, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()

    def kill_head_server(self) -> None:
        """What knows all; the raylets wait for it."""
        self._cluster.head_node.kill_gcs_server()

    def start_head_server(self) -> None:
        """It goes on from its folder."""
        self._cluster.head_node.start_gcs_server()


@contextlib.contextmanager
def raylets(head: str, others: Sequence[str], folder: Path, *, dashboard_port: int = 0) -> Generator[Raylets]:
    """This process is attached meanwhile.

    Args:
        head: its address.
        others: those of the other nodes.
        folder: of what the head knows.
        dashboard_port: of Ray's dashboard, which takes jobs; 0: none.
    """
    kept = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(folder)}
    with patch.dict(os.environ, SETTINGS | kept):
        from ray.cluster_utils import Cluster

        from rowloom.deploy.launch.ray_session import attached

        of_head: dict[str, Any] = {**OPTIONS, "node_ip_address": head, "include_dashboard": False}
        if dashboard_port:
            of_head |= {"include_dashboard": True, "dashboard_port": dashboard_port, "dashboard_host": head}
        cluster: Any = Cluster(initialize_head=True, head_node_args=of_head)
        try:
            found = Raylets(cluster)
            found.add(*others)
            with attached(cluster.address):
                yield found
        finally:
            cluster.shutdown()
            gc.collect()
