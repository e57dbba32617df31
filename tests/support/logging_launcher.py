"""Shard servers in threads of a test, with logs and a place for snapshots."""

import time
from collections.abc import Callable

from rowloom.deploy.launch.launcher import Launched
from rowloom.deploy.launch.local_launcher import ThreadLauncher
from rowloom.server.durable.log import Mode
from rowloom.server.durable.shard_log import ShardLogs
from rowloom.server.serve import Server


class LoggingLauncher(ThreadLauncher):
    """Servers in threads that have logs below a folder.

    Args:
        folder: of logs and snapshots.
        clock: what records say of when they were made.

    Attributes:
        servers: all that were ever started, by key.
    """

    def __init__(self, folder: str, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._clock = clock
        self._folder = folder
        self.servers: dict[int, Server] = {}

    def start(self, key: int) -> Launched:
        """As `Launcher`."""
        logs = ShardLogs(f"{self._folder}/logs", Mode.PROCESS, segment_bytes=1 << 16, clock=self._clock)
        server = Server(logs=logs, snapshots=f"{self._folder}/snapshots")
        server.start()
        self.servers[key] = self._running[key] = server
        return Launched(server.address, server.incarnation)
