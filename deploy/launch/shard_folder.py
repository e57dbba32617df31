"""The shard servers of a cluster on this machine that outlive its coordinator: files by which others find them.

`KEY.json` has the pid of a server and when it began, and is written before the server does anything. `KEY.out` is what
the server prints, one line when it is up. Both name the process, so what an earlier server of that key printed is never
taken for this one's.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...proto.atomic_file import write_atomic
from .launcher import Launched
from .processes import end_process, is_running

END_THREADS = 32  # servers that end at the same time
LOGS_KEPT = 64  # of servers that have ended: keys are never used again, so the logs of all would have no end


@dataclass(frozen=True)
class KnownServer:
    """A server that was started here.

    Attributes:
        key: the launcher's.
        pid, began: its process, and when that began, in ticks since boot.
    """

    key: int
    pid: int
    began: int

    @property
    def running(self) -> bool:
        """Whether that very process lives."""
        return is_running(self.pid, self.began)


def shard_log(folder: Path, key: int) -> Path:
    """The log of a server, in the folder of the cluster's logs."""
    return folder / f"shard-{key}.log"


def logged_keys(folder: Path) -> list[int]:
    """Of the servers whose logs are in a folder, rising."""
    stems = [path.stem.removeprefix("shard-") for path in folder.glob("shard-*.log")]
    return sorted(int(stem) for stem in stems if stem.isdecimal())


class ShardFolder:
    """The folder with those files. What is damaged in it is passed over.

    Args:
        folder: need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return f"<ShardFolder {self._folder}>"

    def put(self, server: KnownServer) -> None:
        """Remember a server. Raises OSError."""
        write_atomic(self._record(server.key), json.dumps({"pid": server.pid, "began": server.began}))

    def printed(self, key: int) -> Path:
        """Where a server of that key is to print to; the folder is there then. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{key}.out"

    def get(self, key: int) -> KnownServer | None:
        """The server of a key, which may have ended; None if there is none."""
        pid, began = (_read(self._record(key)).get(name) for name in ("pid", "began"))
        return KnownServer(key, pid, began) if isinstance(pid, int) and isinstance(began, int) else None

    def launched(self, server: KnownServer) -> Launched | None:
        """What a server printed when it was up; None: it is not yet."""
        said = _read(self._folder / f"{server.key}.out")
        if said.get("pid") != server.pid or "address" not in said:
            return None
        return Launched(said["address"], said["incarnation"], socket.gethostname(), server.pid)

    def forget_logs(self, folder: Path) -> None:
        """Remove the logs of servers that ended long ago."""
        known = {server.key for server in self.servers()}
        ended = [key for key in logged_keys(folder) if key not in known]
        for key in ended[:-LOGS_KEPT]:
            for path in folder.glob(f"{shard_log(folder, key).name}*"):
                path.unlink(missing_ok=True)

    def servers(self) -> list[KnownServer]:
        """All that are remembered, by key."""
        keys = sorted(int(path.stem) for path in self._folder.glob("*.json") if path.stem.isdecimal())
        return [server for key in keys if (server := self.get(key)) is not None]

    def running(self) -> list[KnownServer]:
        """Those whose processes live."""
        return [server for server in self.servers() if server.running]

    def end(self, servers: Sequence[KnownServer], grace_s: float) -> None:
        """End servers, all at the same time: SIGTERM, and SIGKILL after `grace_s`. Those are forgotten then."""

        def end(server: KnownServer) -> None:
            end_process(server.pid, server.began, grace_s)
            self._record(server.key).unlink(missing_ok=True)
            self.printed(server.key).unlink(missing_ok=True)

        _side_by_side(end, servers)

    def _record(self, key: int) -> Path:
        return self._folder / f"{key}.json"


def _side_by_side(act: Callable[[KnownServer], None], servers: Sequence[KnownServer]) -> None:
    if servers:
        with ThreadPoolExecutor(min(END_THREADS, len(servers)), thread_name_prefix="rowloom-end") as pool:
            list(pool.map(act, servers))


def _read(file: Path) -> dict[str, Any]:
    """What a file says; nothing if it is not there, not whole, or damaged."""
    try:
        said = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}  # pyright: ignore[reportUnknownVariableType]
