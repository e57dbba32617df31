"""Whether the places that a cluster writes to can be written, and how fast: its storage, and the home of commands."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from ..config.config import DeployConfig
from ..config.memory import in_bytes
from ..operate.directory import ELSEWHERE, ClusterDirectory
from .diagnosis import Diagnosis, fault, warning, well
from .machine import can_write

SYNCS = 5
SLOW_SYNC_S = 0.05  # a push with durability disk waits for one
LEAST_FREE_BYTES = 1 << 30


def home(directory: ClusterDirectory) -> Diagnosis:
    """The folder that remembers clusters."""
    if (error := can_write(directory.home / "clusters")) is not None:
        return fault("home", f"{directory.home} cannot be written: {error.strerror or error}", ELSEWHERE)
    return well("home", str(directory.home))


def storage(config: DeployConfig) -> Iterator[Diagnosis]:
    """Where logs, snapshots and the layout are kept."""
    if config.storage is None:
        fix = "`storage: FOLDER` keeps them"
        yield warning(
            "storage", "none: a shard loses its rows with its process, and there are no snapshots", fix
        )
    elif "://" in config.storage and not config.storage.startswith("file://"):
        yield _at_url(config.storage)
    else:
        yield from _folder(Path(config.storage.removeprefix("file://")), config.durability)


def _at_url(url: str) -> Diagnosis:
    began = time.monotonic()
    try:
        fs, path = _opened(url)
        name = f"{path.rstrip('/')}/rowloom-doctor-{os.getpid()}"
        fs.pipe_file(name, b"x" * 4096)
        same = fs.cat_file(name) == b"x" * 4096
        fs.rm_file(name)
    except Exception as e:  # stores raise errors of their own
        fix = "credentials, the bucket's name and its rights; and the package that reads such URLs"
        return fault("storage", f"{url} cannot be used: {type(e).__name__}: {e}", fix)
    if not same:
        return fault(
            "storage", f"{url} gives back other bytes than were written", "a store that is consistent"
        )
    return well("storage", f"{url}: written, read and removed in {1e3 * (time.monotonic() - began):.0f} ms")


def _opened(url: str) -> tuple[Any, str]:
    return fsspec.core.url_to_fs(url)  # pyright: ignore[reportUnknownVariableType]


def _folder(folder: Path, durability: str) -> Iterator[Diagnosis]:
    if (error := can_write(folder)) is not None:
        fix = "make it, with rights for this user, or make room; or another `storage:`"
        yield fault("storage", f"{folder} cannot be written: {error.strerror or error}", fix)
        return
    there = folder
    while not there.exists():
        there = there.parent
    will = "" if there == folder else " (it will be made)"
    disk = os.statvfs(there)
    free = disk.f_bavail * disk.f_frsize
    said = f"{folder}{will}: {in_bytes(free)} free"
    if free < LEAST_FREE_BYTES:
        yield warning("storage", said, "room for all rows twice, and 64 MiB for the log of each shard")
    else:
        yield well("storage", said)
    seconds = sync_s(there)
    said = f"a sync takes {1e3 * seconds:.1f} ms"
    if durability == "disk" and seconds > SLOW_SYNC_S:
        yield warning(
            "sync", f"{said}, and each push waits for one", "a faster disk, or `durability: interval`"
        )
    else:
        yield well("sync", said)


def sync_s(folder: Path) -> float:
    """How long fsync of a small write takes there, in seconds: the median of some."""
    taken: list[float] = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(SYNCS):
            file.write(b"x" * 4096)
            began = time.monotonic()
            os.fsync(file.fileno())
            taken.append(time.monotonic() - began)
    return statistics.median(taken)
