"""Shard servers on this machine, without Ray: as processes, or as threads of this one."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

from ...server.access.settings import ServerSecurity
from ...server.serve import Server
from ..config.config import DeployConfig
from .keeping import snapshots_of
from .launcher import Launched, ServerProcess
from .local_room import check_room
from .local_server import KILL_AFTER_S, check_reached, server_command
from .processes import Child, is_stopped


class ProcessLauncher:
    """Each shard server in a process that ends when this one does.

    Args:
        config: for the interface and the time limits.
        logs: folder for the servers' logs; none: their errors go where this process's go.
    """

    def __init__(self, config: DeployConfig, logs: Path | None = None) -> None:
        self._config = config
        self.replicated = bool(config.replicas)
        self._logs = logs
        self._lock = threading.Lock()
        self._running: dict[int, tuple[Child, Launched]] = {}

    def reserve(self, keys: Sequence[int], apart: Sequence[int] = (), *, patient: bool = True) -> None:
        """As `Launcher`: whether this machine has it, which is the only one."""
        check_room(len(keys))

    def check_standbys(self, keys: Sequence[int]) -> None:
        """As `Launcher`."""
        check_room(len(keys))

    def start(self, key: int) -> Launched:
        """As `Launcher`."""
        log = self._logs / f"shard-{key}.log" if self._logs is not None else None
        command = [*server_command(self._config, replicated=self.replicated), "--until-stdin-closes"]
        child = Child("a shard server", command, log=log)
        try:
            line = child.first_line(self._config.limits.start_timeout_s, "limits.start_timeout_s")
            ready = json.loads(line)
            check_reached(self._config, ready["address"])
        except BaseException:
            child.end(0.0)
            child.close()
            raise
        launched = Launched(ready["address"], ready["incarnation"], socket.gethostname(), ready["pid"])
        with self._lock:
            self._running[key] = (child, launched)
        return launched

    def stop(self, key: int, grace_s: float) -> None:
        """As `Launcher`."""
        with self._lock:
            child, _ = self._running.pop(key, (None, None))
        if child is not None:
            child.end(grace_s + KILL_AFTER_S)
            child.close()

    def find(self, key: int) -> Launched | None:
        """As `Launcher`."""
        child, launched = self._running.get(key, (None, None))
        return launched if child is not None and child.poll() is None else None

    def look(self, key: int) -> ServerProcess:
        """As `Launcher`."""
        child, launched = self._running.get(key, (None, None))
        if child is None or launched is None or child.poll() is not None:
            return ServerProcess("ended")
        state = "stopped" if is_stopped(child.pid) else "running"
        return ServerProcess(state, launched.node, child.pid)

    def pid(self, key: int) -> int:
        """The process of a server."""
        return self._running[key][0].pid

    def close(self) -> None:
        """As `Launcher`. All at the same time."""
        for child, _ in list(self._running.values()):
            child.ask_to_end()
        for key in list(self._running):
            self.stop(key, self._config.limits.stop_grace_s)


class ThreadLauncher:
    """Shard servers inside this process.

    Args:
        storage: where they put snapshots; none: they make none.
        security: what protects them.
        tracing: URL that spans of traced calls go to; none: there are none.
        replicated: shards have standbys.
    """

    def __init__(
        self,
        storage: str | None = None,
        security: ServerSecurity | None = None,
        tracing: str = "",
        *,
        replicated: bool = False,
    ) -> None:
        self._security = security
        self._tracing = tracing
        self.replicated = replicated
        self._snapshots = snapshots_of(storage) if storage is not None else ""
        self._running: dict[int, Server] = {}

    def reserve(self, keys: Sequence[int], apart: Sequence[int] = (), *, patient: bool = True) -> None:
        """As `Launcher`: this machine needs none."""

    def check_standbys(self, keys: Sequence[int]) -> None:
        """As `Launcher`: threads need none."""

    def start(self, key: int) -> Launched:
        """As `Launcher`."""
        server = Server(
            snapshots=self._snapshots,
            security=self._security,
            tracing=self._tracing,
            replicated=self.replicated,
        )
        server.start()
        self._running[key] = server
        return Launched(server.address, server.incarnation, socket.gethostname(), os.getpid())

    def stop(self, key: int, grace_s: float) -> None:
        """As `Launcher`."""
        server = self._running.pop(key, None)
        if server is not None:
            server.stop(grace_s)

    def find(self, key: int) -> Launched | None:
        """As `Launcher`."""
        server = self._running.get(key)
        if server is None:
            return None
        return Launched(server.address, server.incarnation, socket.gethostname(), os.getpid())

    def look(self, key: int) -> ServerProcess:
        """As `Launcher`: the process is this one."""
        if key not in self._running:
            return ServerProcess("ended")
        return ServerProcess("running", socket.gethostname(), os.getpid())

    def close(self) -> None:
        """As `Launcher`."""
        for key in list(self._running):
            self.stop(key, 0.0)
