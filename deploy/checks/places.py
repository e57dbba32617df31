"""Whether the places that a cluster writes to can be written, and how fast: its storage, and the home of commands."""

from __future__ import annotations

import errno
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ...proto.errors import InvalidRequest
from ...proto.snapshots.folder import opened_url, words_of
from ...server.durable.segments import SEGMENT_BYTES
from ..config.config import DeployConfig
from ..config.memory import in_bytes, memory
from ..config.storage_url import storage_folder
from ..config.words import counted
from ..operate.directory import ELSEWHERE, ClusterDirectory
from ..operate.left import elsewhere
from ..storage import file_in
from .diagnosis import Diagnosis, fault, warning, well
from .machine import can_write

SYNCS = 5
SLOW_SYNC_S = 0.05  # a push with durability disk waits for one
LEAST_FREE_BYTES = 1 << 30
LOG_BYTES = 2 * SEGMENT_BYTES  # of a shard: a segment that is written, and the next one, which is made ahead
STORE_S = 30.0  # for a store that is no folder to be written and read


def home(directory: ClusterDirectory) -> Diagnosis:
    """The folder that remembers clusters."""
    if (error := can_write(directory.home / "clusters")) is not None:
        what = f"the folder that remembers clusters, {directory.home}, cannot be written"
        return fault("home", f"{what}: {error.strerror or error}", ELSEWHERE)
    return well("home", f"{directory.home}; logs of processes are in {directory.home}/clusters/NAME/logs")


def storage(config: DeployConfig) -> Iterator[Diagnosis]:
    """Where logs, snapshots and the layout are kept; and how long a sync takes there, if shards wait for it."""
    if config.storage is None:
        fix = "`storage: FOLDER` keeps them"
        yield warning(
            "storage", "none: a shard loses its rows with its process, and there are no snapshots", fix
        )
        return
    usable = True
    for one in place(config):
        usable = usable and one.state != "fault"
        yield one
    if usable and (folder := _folder_of(config)) is not None:
        yield _sync(_there(folder), config.durability)


def place(config: DeployConfig) -> Iterator[Diagnosis]:
    """Whether a storage can be written, and has room for the rows. Nothing where there is none."""
    if config.storage is not None:
        folder = _folder_of(config)
        yield from [_at_url(config.storage)] if folder is None else _folder(folder, config)


def _folder_of(config: DeployConfig) -> Path | None:
    """The storage as a folder of this machine; None: it is a URL of something else, or there is none."""
    folder = storage_folder(config.storage)
    return None if folder is None else Path(folder)


def _there(folder: Path) -> Path:
    """The nearest folder above that exists, or the folder itself."""
    while not folder.exists():
        folder = folder.parent
    return folder


def _at_url(url: str) -> Diagnosis:
    """A store, which may take as long as it likes: it is given up after a while, and its thread left alone."""
    answers: list[Diagnosis] = []
    asker = threading.Thread(target=lambda: answers.append(_tried(url)), name="rowloom-storage", daemon=True)
    asker.start()
    asker.join(STORE_S)
    if answers:
        return answers[0]
    fix = "is it the right URL, and can this machine reach it?"
    return fault("storage", f"{url} does not answer within {STORE_S:.0f} s", fix)


def _tried(url: str) -> Diagnosis:
    began = time.monotonic()
    try:
        fs, path = opened_url(url)
        name = f"{path.rstrip('/')}/rowloom-doctor-{os.getpid()}"
        fs.pipe_file(name, b"x" * 4096)
        same = fs.cat_file(name) == b"x" * 4096
        fs.rm_file(name)
    except InvalidRequest as e:  # nothing here opens it
        return fault("storage", str(e), "mend that, or say another `storage:`")
    except Exception as e:  # stores raise errors of their own
        fix = "look at its credentials, endpoint, bucket and rights"
        return fault("storage", f"{url} cannot be used: {words_of(e)}", fix)
    if not same:
        return fault(
            "storage", f"{url} gives back other bytes than were written", "a store that is consistent"
        )
    return well("storage", f"{url}: written, read and removed in {1e3 * (time.monotonic() - began):.0f} ms")


def _folder(folder: Path, config: DeployConfig) -> Iterator[Diagnosis]:
    below = [folder / name for name in ("logs", "snapshots") if os.path.lexists(folder / name)]
    whole = unwritable(folder)
    faults = [whole] if whole else [why for one in below if (why := unwritable(one))]
    instead = "; or another `storage:`"
    if _has_logs(folder):  # then another one would begin without the rows in them
        instead = f". {elsewhere(config.name, str(folder))}"
    yield from (fault("storage", found, f"{fix}{instead}") for found, fix in faults)
    if faults:
        return
    there = _there(folder)
    will = "" if there == folder else " (it will be made)"
    disk = os.statvfs(there)
    free = disk.f_bavail * disk.f_frsize
    said = f"{folder}{will}: {in_bytes(free)} free"
    needed, what = needed_bytes(config)
    first = 0 if config.durability == "memory" or _has_logs(folder) else config.shards * LOG_BYTES
    if free < first:
        each = f"the log of each of {counted(config.shards, 'shard')} needs {in_bytes(LOG_BYTES)}"
        fix = "make room there, or another `storage:`, and run `rowloom up` again"
        yield fault("storage", f"no room in {said}, and {each}", fix)
    elif free < max(needed, LEAST_FREE_BYTES):
        little = f"that is little: {in_bytes(LEAST_FREE_BYTES)} is the least that a cluster does well with"
        less = f"it may need {in_bytes(needed)}: {what}" if free < needed else little
        yield warning("storage", f"{said}, and {less}", "make room there, or another `storage:`")
    else:
        yield well("storage", said)


def _has_logs(folder: Path) -> bool:
    """Whether a cluster has logs there, so that it runs, or goes on from them, and needs little more."""
    logs = folder / "logs"
    return logs.is_dir() and any(logs.iterdir())


def unwritable(folder: Path) -> tuple[str, str] | None:
    """Why no file can be made in a folder, which need not be there, and what mends that; None: one can be."""
    if file := file_in(folder):
        found = f"{file} is a file, and a folder is wanted"
        if file != str(folder):
            found = f"{folder} cannot be made: {found}"
        return found, "move that file away"
    if (error := can_write(folder)) is not None:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "make room there" if full else "make it, with rights for this user"
        return f"{folder} cannot be written: {error.strerror or error}", fix
    return None


def needed_bytes(config: DeployConfig) -> tuple[int, str]:
    """About how much a storage has to hold, and of what, in words: two snapshots, and what logs have beyond them.

    Open-ended tables do not count: nobody knows how many rows they will have.
    """
    rows = config.shards * sum(table.bound_bytes or 0 for table in memory(config).tables)
    logs = 0 if config.durability == "memory" else config.shards * LOG_BYTES
    parts = [f"{in_bytes(rows)} of rows, twice, once every id was pushed"] if rows else []
    parts += [f"{in_bytes(LOG_BYTES)} for the log of each shard"] if logs else []
    return 2 * rows + logs, " and ".join(parts)


def _sync(folder: Path, durability: str) -> Diagnosis:
    seconds = sync_s(folder)
    said = f"a sync takes {1e3 * seconds:.1f} ms"
    if durability == "disk" and seconds > SLOW_SYNC_S:
        fix = "a faster disk, or `durability: interval`"
        return warning("sync", f"{said}, and each push waits for one", fix)
    return well("sync", said)


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
