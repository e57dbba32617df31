"""How much memory this process may use, and who says so: the machine, or a control group that it runs in.

Who takes more is killed, so a shard must know of it before. Read from Linux; elsewhere the machine's memory is all that
is known.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")


@dataclass(frozen=True)
class Limit:
    """So many bytes, and what they are in a message: such as "the machine's memory"."""

    bytes: int
    what: str


@dataclass(frozen=True)
class _Names:
    """Files of a control group; the entry of memory.stat that counts pages which are given up when there is need."""

    limit: str
    used: str
    idle: str


_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Names("memory.max", "memory.current", "inactive_file")


@functools.cache
def total(root: Path = _ROOT) -> Limit:
    """The least of the machine's memory and the limits of all groups around this process. root: for tests."""
    return min(_totals(root), key=lambda limit: limit.bytes)


def available(root: Path = _ROOT) -> Limit:
    """The least that any of them has left now. Takes about 0.1 ms."""
    machine = _entry(root / "proc/meminfo", "MemAvailable:")
    found = [] if machine is None else [Limit(machine * 1024, "what the machine's memory has left")]
    for folder, names in _groups(root):
        limit, used = _number(folder / names.limit), _number(folder / names.used)
        if limit is not None and used is not None:
            idle = _entry(folder / "memory.stat", names.idle) or 0
            left = max(0, limit - used + idle)
            found.append(Limit(left, f"what the limit of {limit} bytes in {folder / names.limit} has left"))
    return min(found, key=lambda limit: limit.bytes, default=total(root))


def _totals(root: Path) -> Iterator[Limit]:
    yield Limit(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "the machine's memory")
    for folder, names in _groups(root):
        limit = _number(folder / names.limit)
        if limit is not None:
            yield Limit(limit, f"the limit in {folder / names.limit}")


def _groups(root: Path) -> Iterator[tuple[Path, _Names]]:
    """Folders of the groups around this process, innermost first, and what their files are called.

    In a container the path may be one of the host's: what is not there is passed over, the top is the container's.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            mounts, names = ("sys/fs/cgroup", "sys/fs/cgroup/unified"), _V2
        elif "memory" in kinds.split(","):
            mounts, names = ("sys/fs/cgroup/memory",), _V1
        else:
            continue
        inside = Path(path.lstrip("/"))
        for mount in mounts:
            for part in (inside, *inside.parents) if inside.parts else (inside,):
                yield root / mount / part, names


def _number(file: Path) -> int | None:
    """A whole number; None where there is none: no such file, or "max"."""
    try:
        value = int(file.read_text())
    except (OSError, ValueError):
        return None
    return value if 0 <= value < 1 << 62 else None  # version 1 says "no limit" with a number of about 2**63


def _entry(file: Path, name: str) -> int | None:
    """The number behind a name, in a file with one on each line."""
    try:
        for line in file.read_text().splitlines():
            word, *rest = line.split()
            if word == name and rest:
                return int(rest[0])
    except (OSError, ValueError):
        pass
    return None
