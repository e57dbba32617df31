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

# What a server without rows has for itself, without what servers share (Private_Dirty of smaps_rollup), measured with
# 1, 2 and 4 servers: 80 MiB where the kernels were on disk; 190 MiB, for as long as it lives, where it compiled them,
# as each server of a first start on a machine does. A figure for later starts would promise that first one too much.
SERVER_BYTES = 192 << 20
SERVER_THREADS = 16
SERVER_FILES = 4  # of the process that starts it: two pipes, a connection, and one more while it starts


@dataclass(frozen=True)
class MachineRoom:
    """So many servers fit, because of `what`."""

    servers: int
    what: str

    def lacking(self, servers: int) -> str:
        """In words, that so many do not fit, how many do, and why not more; empty: they fit."""
        if servers <= self.servers:
            return ""
        return f"this machine has no room for {servers} more shard servers, {self.servers} fit: {self.what}"


def room() -> MachineRoom:
    """For how many more servers there is room now."""
    return min(_rooms(), key=lambda room: room.servers)


def check_room(servers: int, copied: int = 0) -> None:
    """Raises Unavailable if so many more servers do not fit; the message says how many do, and why not more.

    copied: bytes of rows of other servers that these will have, too, as standbys do.
    """
    if lacking := room().lacking(servers):
        raise Unavailable(f"{lacking}. Ask for fewer shards, or use more machines (launcher: ray)")
    memory = available()
    if copied and copied + servers * SERVER_BYTES > memory.bytes:
        raise Unavailable(
            f"this machine has no room for standbys: they take the rows of all shards once more, {in_bytes(copied)}, "
            f"and each {in_bytes(SERVER_BYTES)} before it has rows, of {memory.what}, {in_bytes(memory.bytes)}. Leave "
            "`replicas` at 0, or free memory"
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
