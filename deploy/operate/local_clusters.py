"""Clusters of processes on this machine that stay: a coordinator process of its own, and its shards with it.

The functions of a `ClusterLauncher`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from ...proto.errors import InvalidRequest, RowloomError, Unavailable
from ..atomic_file import write_atomic
from ..config.config import DeployConfig
from ..launch.processes import (
    end_marked,
    end_process,
    is_running,
    let_go_on,
    marked,
    python,
    spawn_detached,
    started,
    wait_for_end,
    wait_until_up,
)
from ..snapshots.kept import forget_kept
from ..storage import StateFile
from .directory import ELSEWHERE, BadHome, ClusterDirectory, Record
from .launchers import Tell
from .remote import Remote

BEYOND_S = 30.0  # what a coordinator takes to start, and to say so, beyond what its shards may take
END_S = 10.0  # what it gets to end, beyond its calls' grace
ROOM_BYTES = 2**16  # on disk, for the records and the log of a start
FOLLOW_S = 2.0  # what shards get to follow their coordinator


def up(config: DeployConfig, directory: ClusterDirectory, tell: Tell) -> tuple[Record, bool]:
    """As `ClusterLauncher`: a coordinator process that outlives this one, and its shards with it.

    Raises:
        InvalidConfig: its storage cannot be used; nothing was started.
        Unavailable: it did not start; nothing is left running.
    """
    known = directory.get(config.name)
    running = find(config.name, directory) if known is None else _whole(known, directory)
    if running is not None:
        if running != known:
            directory.put(running)
        return running, True
    StateFile(config.storage)
    _end(known or Record(config.name, "local", ""), directory, END_S)  # what is left of one that was killed
    record = _begun(config)
    try:
        directory.folder(config.name)
        record = _start(config, record, directory)
        directory.put(record)
    except BaseException as e:
        full = _full(directory)  # before what is ended gives room back
        _end(directory.get(config.name) or record, directory, END_S, keep=config.durability != "memory")
        directory.remove(config.name)
        if isinstance(e, BadHome) or (full and isinstance(e, RowloomError)):
            why = str(e) if isinstance(e, BadHome) else f"{e}{full}"
            raise BadHome(
                f"cluster {config.name!r} did not start, and nothing of it is left: {why}"
            ) from None
        if isinstance(e, RowloomError):
            log = _log(config.name, directory)
            raise Unavailable(f"cluster {config.name!r} did not start: {e} (log: {log})") from None
        raise
    return record, False


def _full(directory: ClusterDirectory) -> str:
    """In words, that there is no room for what a process would say of its end; empty if there is some."""
    with contextlib.suppress(OSError):
        disk = os.statvfs(directory.home)
        if disk.f_bavail * disk.f_frsize < ROOM_BYTES:
            return f"; the disk of the folder that remembers clusters, {directory.home}, is full: {ELSEWHERE}"
    return ""


def _begun(config: DeployConfig) -> Record:
    grace_s = config.limits.stop_grace_s
    return Record(config.name, "local", "", storage=config.storage or "", stop_grace_s=grace_s)


def _start(config: DeployConfig, record: Record, directory: ClusterDirectory) -> Record:
    """Start the coordinator and wait until it is up. Its process is on record before it does anything."""
    name = config.name
    ready, log, given = _ready(name, directory), _log(name, directory), directory.folder(name) / "config.json"
    with directory.usable():
        ready.unlink(missing_ok=True)
        write_atomic(given, config.to_json())
    command = python("-m", "rowloom.deploy.coordinator_process")
    command += ["--config-json", str(given), "--ready-file", str(ready)]

    def known(pid: int, began: int) -> None:
        directory.put(dataclasses.replace(record, pid=pid, started=began))

    pid = spawn_detached(command, log, mark=_mark(name, directory), known=known)
    began = started(pid)
    limit_s = config.limits.start_timeout_s + BEYOND_S
    address = wait_until_up("the coordinator", pid, began, log, limit_s, lambda: _address_in(ready))
    return dataclasses.replace(record, address=address, pid=pid, started=began)


def _mark(name: str, directory: ClusterDirectory) -> str:
    """What all processes of a cluster carry."""
    return str((directory.home / "clusters" / name).absolute())


def _ready(name: str, directory: ClusterDirectory) -> Path:
    return directory.home / "clusters" / name / "ready.json"


def _log(name: str, directory: ClusterDirectory) -> Path:
    return directory.home / "clusters" / name / "cluster.log"


def _address_in(ready: Path) -> str | None:
    """What the coordinator wrote when it was up, or why it is not. None: nothing yet."""
    answer = _read(ready)
    if "error" in answer:
        raise Unavailable(answer["error"])
    return answer.get("address")


def _read(file: Path) -> dict[str, Any]:
    """What a file of ours says; nothing if it is not there, or damaged."""
    try:
        answer = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return answer if isinstance(answer, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def down(record: Record, directory: ClusterDirectory, *, keep: bool = False) -> None:
    """As `ClusterLauncher`: its shards end with their coordinator, and are ended if they do not."""
    _end(record, directory, END_S, keep=keep)
    if keep:
        return
    try:
        _forget(StateFile(record.storage), record.storage)  # also when its process was killed
    except (Unavailable, OSError) as e:
        raise Unavailable(
            f"{record.name!r} was ended, but what it has left is not: {e}; mend that, then `rowloom down --name "
            f"{record.name}` again, or with --forget, which leaves it there"
        ) from e


def _forget(file: StateFile, storage: str) -> None:
    """Remove what a cluster could go on from. Raises Unavailable, OSError."""
    with contextlib.suppress(RowloomError):  # a damaged one leads to no logs
        stored = file.load()
        if stored is not None:
            forget_kept(storage, stored)
    file.clear()


def _end(record: Record, directory: ClusterDirectory, end_s: float, *, keep: bool = False) -> None:
    """End the processes.

    Args:
        record: of the cluster.
        directory: that knows it.
        end_s: what they get beyond the grace for calls, until they are killed.
        keep: rows in logs stay there. Raises InvalidRequest: there are no logs; nothing was ended.
    """
    patience_s = record.stop_grace_s + end_s
    let_go_on(record.pid, record.started)
    if record.address and is_running(record.pid, record.started):
        with _unless_refused(keep), Remote(record.address, timeout_s=5.0) as remote:
            remote.shutdown(keep=keep)
            wait_for_end(record.pid, record.started, patience_s)
    end_process(record.pid, record.started, patience_s)
    end_marked(_mark(record.name, directory), FOLLOW_S)


@contextlib.contextmanager
def _unless_refused(keep: bool) -> Generator[None]:
    """One that does not answer is ended all the same; one that says that it cannot keep its rows is not."""
    try:
        yield
    except InvalidRequest:
        if keep:
            raise
    except RowloomError:
        pass


def runs(record: Record) -> bool:
    """As `ClusterLauncher`."""
    return is_running(record.pid, record.started)


def find(name: str, directory: ClusterDirectory) -> Record | None:
    """As `ClusterLauncher`: by what the coordinator wrote when it was up, if that process runs."""
    ready, folder = _read(_ready(name, directory)), directory.home / "clusters" / name
    pid = ready.get("pid")
    began = dict(marked(_mark(name, directory))).get(pid, 0) if isinstance(pid, int) else 0
    if not began or not isinstance(pid, int) or "address" not in ready:
        return None
    given = _read(folder / "config.json")
    return Record(name, "local", ready["address"], pid, began, storage=given.get("storage") or "")


def find_again(record: Record, directory: ClusterDirectory) -> str | None:
    """As `ClusterLauncher`: where an `up` ended too early to hear of it, and the cluster came up nevertheless."""
    whole = _whole(record, directory)
    return whole.address if whole is not None else None


def _whole(record: Record, directory: ClusterDirectory) -> Record | None:
    """A record whose coordinator runs, with its address. None: it does not run, or is not up."""
    if not runs(record):
        return None
    ready = _read(_ready(record.name, directory))
    if record.address or ready.get("pid") != record.pid or "address" not in ready:
        return record if record.address else None
    return dataclasses.replace(record, address=ready["address"])
