"""The coordinator as a Ray actor, which Ray starts again when it crashes."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from ..proto.errors import InvalidRequest, RowloomError
from .config.config import DeployConfig
from .coordinator_server import CoordinatorServer
from .launch.observed import begin_log_of
from .launch.ray_actors import NAME_FREE_S, end_actor, interface, node_here
from .launch.ray_arguments import unpacked
from .launch.ray_launcher import RayLauncher
from .launch.ray_storage import storage_of
from .nodes.ray_mover import begin_to_move
from .operate.remote import Remote
from .snapshots.kept import goes_on
from .storage import StateFile

log = logging.getLogger(__name__)
ASK_S = 3.0  # for a coordinator that is up, or is not


class CoordinatorActor:
    """The coordinator. Ray runs the constructor again after a crash: it then takes up the cluster from storage.

    Args:
        given: the config, packed.
        restore: the folder of a snapshot that the cluster begins with.
        kept: the id of the cluster whose logs are in its storage, as seen by who starts it; empty: there are none.
        takes_up: it follows another one, whose shards run.
    """

    def __init__(
        self, given: bytes | str, restore: str | None = None, kept: str = "", takes_up: bool = False
    ) -> None:
        import ray

        self._config = config = unpacked(given)
        log_file = begin_log_of(config, "coordinator")
        host, advertise = interface(config)
        storage = config.storage or storage_of(config.name)
        context: Any = ray.get_runtime_context()
        again: bool = takes_up or context.was_current_actor_reconstructed
        self._left = False
        from_logs = not again and restore is None and _goes_on(config, kept)
        self._launcher = RayLauncher(config)
        self._server = CoordinatorServer(
            config,
            self._launcher,
            host=host,
            port=config.port,
            advertise=advertise,
            storage=storage,
            log_file=log_file,
            nodes=self._launcher,
            leave=self._go_elsewhere,
        )
        if again:
            stored = StateFile(storage).load()
            self._launcher.keep(stored.server_keys if stored is not None else [])
        if again or from_logs:
            self._server.take_up()
        elif restore is not None:
            self._server.restore(restore)
        else:
            self._server.start()
        threading.Thread(target=self._end_with_server, name="rowloom-end", daemon=True).start()

    def _end_with_server(self) -> None:
        """Someone who knows no Ray may end the cluster by a call to the server: the actor must go with it."""
        self._server.wait()
        if self._left:
            return
        until = time.monotonic() + NAME_FREE_S
        while self._launcher.keys() and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(1.0)  # for the answers under way
        end_actor(self._launcher.ray, f"{self._config.name}/coordinator", None)

    def info(self) -> tuple[str, str, int]:
        """(address, hash of the config that it was started with, pid)."""
        return self._server.address, self._server.config.hash, os.getpid()

    def keeps(self) -> bool:
        """Whether rows are in logs."""
        return self._server.keeps

    def _go_elsewhere(self, avoided: Sequence[str]) -> None:
        begin_to_move(CoordinatorActor, self._server.config, avoided)

    def offer(self, runtime_env: str) -> None:
        """As `CoordinatorServer.offer`: whoever calls an actor can run code on this Ray anyway."""
        self._server.offer(runtime_env)

    def leave(self) -> None:
        """End the server; the shards go on, and another coordinator takes them up."""
        self._left = True
        self._server.leave()

    def node(self) -> str:
        """The id of the node that it is on."""
        return self._launcher.here()

    def stop(self, keep: bool = False) -> None:
        """End the shards, their placement groups, and the server. keep: what is in logs stays there."""
        self._server.stop(keep=keep)


def _goes_on(config: DeployConfig, kept: str) -> bool:
    """Whether there is a cluster to go on with: in logs, seen from this node.

    Why it asks: an old coordinator that Ray has lost may live on, with its shards, on a node that lost Ray's head.

    Raises:
        InvalidConfig: there is one, and its rows would be passed over.
        InvalidRequest: there is one, and it runs; or whoever starts it sees one that this node does not see.
    """
    stored = StateFile(config.storage).load() if goes_on(config) else None
    layout = stored.layout if stored is not None else None
    if kept and (layout is None or layout.cluster_id != kept):
        raise InvalidRequest(
            f"the storage {config.storage} holds the logs of cluster {kept!r}, which can go on, and node {node_here()} "
            "does not see them: mount the folder there; nothing was started"
        )
    if layout is not None and _runs(layout.coordinator, layout.cluster_id, config):
        raise InvalidRequest(
            f"cluster {layout.cluster_id!r}, whose logs are in {config.storage}, runs still, at {layout.coordinator}: "
            "`rowloom down --keep --address` with that ends it"
        )
    return layout is not None


def _runs(address: str, cluster_id: str, config: DeployConfig) -> bool:
    try:
        with Remote(address, ASK_S, config.security.settings().credentials()) as remote:
            return remote.status().layout.cluster_id == cluster_id
    except RowloomError:
        return False
