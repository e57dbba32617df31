"""A cluster for one program: notebooks, tests, a single machine. No Ray, no config file."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from ..client import Client, connect
from ..proto.errors import RowloomError
from ..proto.spec import TableSpec
from .config.config import DeployConfig, parse
from .coordinator_server import CoordinatorServer
from .launch.launcher import Launcher
from .launch.local_launcher import ProcessLauncher, ThreadLauncher
from .operate.remote import Remote


class LocalCluster:
    """Shards on this machine that end with this object. Made by `local_cluster`.

    Attributes:
        address: of the coordinator, for `connect` in this or another process.
    """

    def __init__(self, config: DeployConfig, launcher: Launcher) -> None:
        self._server = CoordinatorServer(config, launcher, storage="")
        self._server.start()
        self.address = self._server.address
        # Those that their users let go close by themselves.
        self._clients: weakref.WeakSet[Client] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"<LocalCluster {self.address} shards={self.shards}>"

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def shards(self) -> int:
        """How many there are."""
        return self._server.coordinator.layout.n

    @property
    def launcher(self) -> Launcher:
        """What runs the shard servers."""
        return self._server.launcher

    def connect(self, **options: Any) -> Client:
        """A client; options as `rowloom.client.connect`. Closed with the cluster."""
        client = connect(self.address, **options)
        self._clients.add(client)
        return client

    def scale(self, shards: int, on_progress: Callable[[int, int], None] | None = None) -> float:
        """Move every row to its owner among `shards` shards, while clients go on.

        Args:
            shards: how many there will be.
            on_progress: called with (rows moved, rows in all).

        Returns:
            Seconds for which pushes waited.

        Raises:
            InvalidRequest, Unavailable: nothing changed.
        """
        remote = Remote(self.address)
        try:
            return float(remote.scale(shards, on_progress).pause_s)
        finally:
            remote.close()

    def close(self) -> None:
        """End the shards. Their rows are gone."""
        for client in list(self._clients):
            client.close()
        self._server.stop()


def local_cluster(
    shards: int = 2, *, processes: bool = False, tables: list[TableSpec] | None = None, name: str = "local"
) -> LocalCluster:
    """Start a cluster on this machine that lasts as long as the `with` block.

    Args:
        shards: how many shard servers.
        processes: each in a process of its own, instead of threads of this one. Faster with several cores.
        tables: tables to make at once.
        name: what it is called.

    Returns:
        A context manager; `.connect()` gives a client, `.address` lets other processes connect.

    Raises:
        InvalidRequest: shards is out of range.

    Example:
        >>> from rowloom.deploy import local_cluster
        >>> with local_cluster(shards=2) as cluster:
        ...     cluster.shards
        2
    """
    config = parse({"name": name, "shards": shards, "launcher": "local"})
    launcher: Launcher = ProcessLauncher(config) if processes else ThreadLauncher()
    cluster = LocalCluster(config, launcher)
    try:
        if tables:
            with connect(cluster.address) as client:
                for spec in tables:
                    client.create_table(spec)
    except RowloomError:
        cluster.close()
        raise
    return cluster
