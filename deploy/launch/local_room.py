"""Whether this machine has room for more shard servers: memory, open files and threads, where they can be known."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...proto.errors import Unavailable
from ...server.rows.limits import available
from ..config.memory import in_bytes

# What a server without rows takes at least, measured: Python and its libraries, without what servers share.
SERVER_BYTES = 64 << 20
SERVER_THREADS = 16
SERVER_FILES = 4  # of the process that starts it: two pipes, a connection, and one more while it starts


@dataclass(frozen=True)
class MachineRoom:
    """So many servers fit, because of `what`."""

    servers: int
    what: str


def check_room(servers: int) -> None:
    """Raises Unavailable if so many more servers do not fit; the message says how many do, and why not more."""
    room = min(_rooms(), key=lambda room: room.servers)
    if servers > room.servers:
        raise Unavailable(
            f"this machine has no room for {servers} more shard servers, {room.servers} fit: {room.what}. Ask for "
            "fewer shards, or use more machines (launcher: ray)"
        )


def _rooms() -> Iterator[MachineRoom]:
    memory = available()
    left = f"{memory.what}, {in_bytes(memory.bytes)}"
    yield MachineRoom(
        memory.bytes // SERVER_BYTES, f"one takes {in_bytes(SERVER_BYTES)} before it has rows, of {left}"
    )
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError):
        free = max(0, files - len(os.listdir("/proc/self/fd")))
        yield MachineRoom(free // SERVER_FILES, f"{free} of {files} open files are left (`ulimit -n`)")
    with contextlib.suppress(OSError, ValueError, IndexError):
        most = min(int(Path(f"/proc/sys/kernel/{name}").read_text()) for name in ("pid_max", "threads-max"))
        there = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
        free = max(0, most - there)
        yield MachineRoom(
            free // SERVER_THREADS, f"{free} of {most} threads are left (kernel.pid_max, kernel.threads-max)"
        )
