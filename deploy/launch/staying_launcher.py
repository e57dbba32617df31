"""Shard servers on this machine that outlive the coordinator which started them, as actors of Ray do.

Why it is so. Trainers need the shards only; a coordinator that is killed must cost them nothing. So nothing ties a
server to it: no pipe, no session, no lock. The next coordinator finds the servers by their files (`ShardFolder`) and by
pid and begin of their processes, which it cannot wait for, because it is not their parent. Nothing but `rowloom down`,
a scaling or a coordinator that did not get to its start ends them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from ..config.config import DeployConfig
from .launcher import Launched, ServerProcess
from .local_room import check_room
from .local_server import KILL_AFTER_S, check_reached, server_command
from .processes import is_stopped, spawn_detached, started, wait_until_up
from .shard_folder import KnownServer, ShardFolder, shard_log


class StayingLauncher:
    """Each shard server in a process that stays until it is ended by its key.

    Args:
        config: for the interface and the time limits.
        servers: where they are remembered.
        log: where their errors go that are not logged.
        logs: the folder of their logs.
        mark: of their processes; see `spawn_detached`.
    """

    def __init__(
        self, config: DeployConfig, servers: ShardFolder, *, log: Path, logs: Path, mark: str
    ) -> None:
        self._config = config
        self.replicated = bool(config.replicas)
        self._servers = servers
        self._log, self._logs = log, logs
        self._mark = mark

    def reserve(self, keys: Sequence[int], apart: Sequence[int] = (), *, patient: bool = True) -> None:
        """As `Launcher`: whether this machine has it, which is the only one."""
        check_room(len(keys))

    def check_standbys(self, keys: Sequence[int]) -> None:
        """As `Launcher`."""
        check_room(len(keys))

    def start(self, key: int) -> Launched:
        """As `Launcher`."""
        with contextlib.suppress(OSError):  # the next one does it
            self._servers.forget_logs(self._logs)
        pid = spawn_detached(
            server_command(self._config, shard_log(self._logs, key), replicated=self.replicated),
            self._log,
            out=self._servers.printed(key),
            mark=self._mark,
            known=lambda pid, began: self._servers.put(KnownServer(key, pid, began)),
        )
        server = self._servers.get(key) or KnownServer(key, pid, started(pid))
        try:
            launched = wait_until_up(
                "a shard server",
                pid,
                server.began,
                self._log,
                self._config.limits.start_timeout_s,
                lambda: self._servers.launched(server),
                limit="limits.start_timeout_s",
            )
            check_reached(self._config, launched.address)
        except BaseException:
            self._servers.end([server], 0.0)
            raise
        return launched

    def stop(self, key: int, grace_s: float) -> None:
        """As `Launcher`."""
        server = self._servers.get(key)
        if server is not None:
            self._servers.end([server], grace_s + KILL_AFTER_S)

    def find(self, key: int) -> Launched | None:
        """As `Launcher`."""
        server = self._servers.get(key)
        return self._servers.launched(server) if server is not None and server.running else None

    def look(self, key: int) -> ServerProcess:
        """As `Launcher`."""
        server = self._servers.get(key)
        if server is None or not server.running:
            return ServerProcess("ended")
        launched = self._servers.launched(server)
        state = "stopped" if is_stopped(server.pid) else "running"
        return ServerProcess(state, launched.node if launched is not None else "", server.pid)

    def keep(self, keys: Sequence[int]) -> None:
        """End the servers under all other keys: what a coordinator left that ended in the middle of a change."""
        others = [server for server in self._servers.servers() if server.key not in keys]
        self._servers.end(others, KILL_AFTER_S)

    def close(self) -> None:
        """As `Launcher`: every server of this cluster, whoever started it. All at the same time."""
        self._servers.end(self._servers.servers(), self._config.limits.stop_grace_s + KILL_AFTER_S)
