"""A cluster for one program: notebooks, tests, a single machine. No Ray, no config file."""

from __future__ import annotations

import functools
import logging
import os
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ..client import Client, connect
from ..client.opening import open_client
from ..proto import rowloom_pb2 as pb
from ..proto.errors import InvalidRequest, RowloomError
from ..proto.security.credentials import VARIABLES
from ..proto.snapshots.snapshot import open_snapshot
from ..proto.spec import Dealing, TableSpec
from .config.config import DeployConfig, parse
from .coordinator_server import CoordinatorServer
from .launch.launcher import Launcher
from .launch.local_launcher import ProcessLauncher, ThreadLauncher
from .operate.left import check_not_live
from .operate.remote import Remote
from .operate.status import MEMORY_ONLY

log = logging.getLogger(__name__)


class LocalCluster:
    """Shards on this machine that end with this object. Made by `local_cluster`.

    Attributes:
        address: of the coordinator, for `connect` in this or another process.
    """

    def __init__(
        self,
        config: DeployConfig,
        launcher: Launcher,
        restore: str | os.PathLike[str] | None = None,
        until: str | None = None,
    ) -> None:
        self._server = CoordinatorServer(config, launcher, storage="")
        if restore is not None and until is not None:
            # With the kernels, which commands that only look do not wait for.
            from .snapshots.moments import point_of
            from .snapshots.point_in_time import rolled_forward

            point = point_of(until, time.time())
            with rolled_forward(open_snapshot(restore), point, storage=config.storage) as there:
                self._server.restore(there.url)
        elif restore is not None:
            self._server.restore(restore)
        else:
            self._server.start()
        self.address = self._server.address
        self._credentials = config.security.settings().credentials()
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
        """A client, which shows what servers show; options as `rowloom.client.connect`. Closed with the cluster."""
        if any(option in options for option in (*VARIABLES, "tls")):
            client = connect(self.address, **options)
        else:
            client = open_client(self.address, self._credentials, **options)
        self._clients.add(client)
        return client

    def scale(
        self,
        shards: int,
        on_progress: Callable[[int, int], None] | None = None,
        *,
        partitions: Mapping[str, Literal["mod", "div"]] | None = None,
    ) -> float:
        """Move every row to its owner among `shards` shards, while clients go on.

        Args:
            shards: how many there will be.
            on_progress: called with (rows moved, rows in all).
            partitions: by table, how ids are to be dealt from then on; of all others as they are.

        Returns:
            Seconds for which pushes waited.

        Raises:
            InvalidRequest, TableNotFound, Unavailable: nothing changed.
        """
        remote = Remote(self.address, credentials=self._credentials)
        dealings = {name: Dealing(strategy) for name, strategy in (partitions or {}).items()}

        def tell(reply: pb.ScaleReply) -> None:
            if on_progress is not None:
                on_progress(reply.rows, reply.rows_total)

        try:
            return float(remote.scale(shards, tell, dealings).pause_s)
        finally:
            remote.close()

    def close(self) -> None:
        """End the shards. Their rows are gone."""
        for client in list(self._clients):
            client.close()
        self._server.stop()


def local_cluster(
    shards: int = 2,
    *,
    processes: bool = False,
    tables: list[TableSpec] | None = None,
    name: str = "local",
    storage: str | os.PathLike[str] | None = None,
    durability: str = "memory",
    replicas: int = 0,
    standby: Mapping[str, Any] | None = None,
    restore: str | os.PathLike[str] | None = None,
    until: str | None = None,
    security: Mapping[str, Any] | None = None,
    tracing: Mapping[str, Any] | None = None,
    quotas: Mapping[str, Any] | None = None,
) -> LocalCluster:
    """Start a cluster on this machine that lasts as long as the `with` block.

    Args:
        shards: how many shard servers.
        processes: each in a process of its own, instead of threads of this one. Faster with several cores.
        tables: tables to make at once.
        name: what it is called.
        storage: a folder or URL where `client.snapshot` puts snapshots, and logs are; as in a deploy config.
        durability: what a push survives: "memory", "process", "interval" or "disk"; as in a deploy config. Any other
            than "memory" needs `processes` and `storage`. A shard whose process ends is then started again, with its
            rows. The logs end with the cluster.
        replicas: 1: each shard has a standby, a second server that has all that it has and takes its place when it
            ends.
        standby: how these are kept; as in a deploy config.
        restore: a snapshot's folder: the cluster begins with all that it holds. `tables` may say where rows lie
            (`partition`), and tables that the snapshot lacks.
        until: a later point, to which the logs of the snapshot's cluster take it, which lie beside it in the same
            storage: such as "2026-11-28T07:15:00Z" or "10m" (ago); as `rowloom restore --until`.
        security: TLS and tokens, as in a deploy config: files such as `rowloom secure init` makes. None: neither.
        tracing: where shards send spans, as in a deploy config. None: nowhere.
        quotas: what principals may have, as in a deploy config; needs `security` with tokens. None: no bounds.

    Returns:
        A context manager; `.connect()` gives a client, `.address` lets other processes connect.

    Raises:
        InvalidRequest: an argument is out of range, or `tables` contradicts the snapshot, or the logs do not have all
            that was pushed between it and `until`; or a cluster runs whose layout and logs are in `storage`.
        SnapshotCorrupt: it is not whole; the message names the file and the block.
        Unavailable: the shards cannot be started, or the snapshot not be read.

    Example:
        >>> from rowloom.deploy import local_cluster
        >>> with local_cluster(shards=2) as cluster:
        ...     cluster.shards
        2
    """
    given: dict[str, Any] = {"name": name, "shards": shards, "launcher": "local", "durability": durability}
    given["replicas"] = replicas
    if standby is not None:
        given["standby"] = dict(standby)
    if storage is not None:
        given["storage"] = os.fspath(storage)
    if restore is not None:
        given["tables"] = list(tables or [])
    elif until is not None:
        raise InvalidRequest(f"until={until!r} needs restore=, a snapshot that was taken before")
    if security is not None:
        given["security"] = dict(security)
    if tracing is not None:
        given["tracing"] = dict(tracing)
    if quotas is not None:
        given["quotas"] = dict(quotas)
    config = parse(given)
    if config.storage is not None:
        check_not_live(config.storage, config.security.settings().credentials())
    if durability != "memory" and not processes:
        raise InvalidRequest(f"durability {durability!r} needs processes=True: threads have no logs")
    if processes:
        launcher: Launcher = ProcessLauncher(config)
    else:
        endpoint = config.tracing.otlp_endpoint or ""
        settings = config.security.settings()
        launcher = ThreadLauncher(config.storage, settings, endpoint, replicated=bool(replicas))
    # Threads of this program end with it, which surprises nobody.
    if processes and durability == "memory" and not replicas:
        _say_once()
    cluster = LocalCluster(config, launcher, restore, until)
    try:
        if tables and restore is None:
            with cluster.connect() as client:
                for spec in tables:
                    client.create_table(spec)
    except RowloomError:
        cluster.close()
        raise
    return cluster


@functools.cache
def _say_once() -> None:
    log.warning("local_cluster: %s (`rowloom up`)", MEMORY_ONLY)
