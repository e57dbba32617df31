"""The coordinator as a Ray actor, which Ray starts again when it crashes."""

from __future__ import annotations

import logging
import os
import threading
import time

from ..proto.errors import RowloomError
from .config.config import from_json
from .coordinator_server import CoordinatorServer
from .launch.ray_actors import NAME_FREE_S, end_actor, interface
from .launch.ray_launcher import RayLauncher
from .launch.ray_storage import storage_of
from .storage import StateFile

log = logging.getLogger(__name__)


class CoordinatorActor:
    """The coordinator. Ray runs the constructor again after a crash: it then takes up the cluster from storage."""

    def __init__(self, config_json: str) -> None:
        import ray

        self._config = config = from_json(config_json)
        host, advertise = interface(config)
        self._storage = config.storage or storage_of(config.name)
        self._launcher = RayLauncher(config)
        self._server = CoordinatorServer(
            config, self._launcher, host=host, port=config.port, advertise=advertise, storage=self._storage
        )
        if ray.get_runtime_context().was_current_actor_reconstructed:
            stored = StateFile(self._storage).load()
            self._launcher.keep(stored.keys if stored is not None else [])
            self._server.take_up()
        else:
            self._server.start()
        threading.Thread(target=self._end_with_server, name="rowloom-end", daemon=True).start()

    def _end_with_server(self) -> None:
        """Someone who knows no Ray may end the cluster by a call to the server: the actor must go with it."""
        self._server.wait()
        until = time.monotonic() + NAME_FREE_S
        while self._launcher.keys() and time.monotonic() < until:
            time.sleep(0.1)
        try:
            StateFile(self._storage).clear()
        except RowloomError as e:
            log.warning("%s", e)  # the actor must go all the same
        time.sleep(1.0)  # for the answers under way
        end_actor(self._launcher.ray, f"{self._config.name}/coordinator", None)

    def info(self) -> tuple[str, str, int]:
        """(address, hash of the config that it was started with, pid)."""
        return self._server.address, self._server.config.hash, os.getpid()

    def stop(self) -> None:
        """End the shards, their placement groups, and the server."""
        self._server.stop()
