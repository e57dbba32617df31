"""Clusters of processes on this machine that stay: a coordinator process, and shards that outlive it.

`up` begins with what runs. A coordinator that runs is the cluster; shards that run without one are taken over, with the
config that they have, and whatever fails then ends the new coordinator only; anything else is what is left of a start,
and is ended.

The functions of a `ClusterLauncher`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from ...proto.atomic_file import write_atomic
from ...proto.errors import InvalidRequest, RowloomError, SnapshotCorrupt, Unavailable
from ..config.config import DeployConfig
from ..config.storage_url import storage_folder
from ..config.words import to_a_port
from ..launch.cluster_folder import config_in, config_of, log_in, mark_of, ready_in, shards_in, tidy
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
from ..snapshots.kept import has_kept
from .directory import ELSEWHERE, BadHome, ClusterDirectory, Record, shown_to
from .launchers import RESTORE_S, Restore, Tell
from .left import check_goes_on, check_own_storage, check_there, elsewhere, forget, is_kept, placed
from .left_shards import find_left, folder_of, serving_on, unread_in_words, up_of
from .remote import Remote

BEYOND_S = 30.0  # what a coordinator takes to start, and to say so, beyond what its shards may take
END_S = 10.0  # what it gets to end, beyond its calls' grace
ROOM_BYTES = 2**16  # on disk, for the records and the log of a start
UNREAD_S = 5.0  # between two looks at why a start takes long
FOLLOW_S = 2.0  # what other processes of a cluster get to end by themselves


def up(
    config: DeployConfig, directory: ClusterDirectory, tell: Tell, restore: Restore | None = None
) -> tuple[Record, bool]:
    """As `ClusterLauncher`: a coordinator process that outlives this one; shards that serve on without one are its own.

    Raises:
        InvalidConfig: its storage cannot be used, or is another cluster's; nothing was started.
        SnapshotCorrupt: what it was to begin with is damaged; nothing is left running.
        Unavailable: it did not start; nothing is left running, or the shards that were.
    """
    known = directory.get(config.name)
    running = find(config.name, directory) if known is None else _whole(known, directory)
    if running is not None and is_running(running.pid, running.started):
        if running != known:
            directory.put(running)
        return running, True
    known = known or running
    left = find_left(config.name, directory)
    if left is not None:
        known = known or _begun(config)
        if restore is not None:
            return known, True
        tell(f"{config.name!r} runs without its coordinator, and {left.words()}: a new one takes them over")
        return _take_over(left.config or config, known, directory, tell)
    if known is not None:
        check_there(known, config_of(folder_of(config.name, directory)))
        check_goes_on(config, known, ended=True)
    check_own_storage(config)
    left_over = dataclasses.replace(known or _begun(config), address="")  # nobody tells it to remove its logs
    _end(left_over, directory, END_S)
    record = _begun(config, known)
    try:
        directory.folder(config.name)
        record, _ = _start(config, record, directory, tell, restore)
        directory.put(record)
    except BaseException as e:
        full = _full(directory)  # before what is ended gives room back
        _end(directory.get(config.name) or record, directory, END_S, keep=config.durability != "memory")
        _leave(record, directory)
        if isinstance(e, BadHome) or (full and isinstance(e, RowloomError)):
            why = str(e) if isinstance(e, BadHome) else f"{e}{full}"
            raise BadHome(
                f"cluster {config.name!r} did not start, and nothing of it is left: {why}"
            ) from None
        if isinstance(e, RowloomError):
            log = log_in(folder_of(config.name, directory))
            kind = SnapshotCorrupt if isinstance(e, SnapshotCorrupt) else Unavailable
            todo = _full_storage(record, str(e)) or to_a_port(config.port, str(e))
            raise kind(f"cluster {config.name!r} did not start: {e}{todo} (log: {log})") from None
        raise
    return record, False


def _leave(record: Record, directory: ClusterDirectory) -> None:
    """Forget a cluster that did not start, unless rows of it are in logs: then it is as if it was kept."""
    if is_kept(record):
        directory.put(record.as_kept())
    else:
        directory.remove(record.name)
        tidy(folder_of(record.name, directory))


def _take_over(
    config: DeployConfig, known: Record, directory: ClusterDirectory, tell: Tell
) -> tuple[Record, bool]:
    """A new coordinator for shards that run. Whether it found them: they may end meanwhile.

    The record keeps the old address until there is a new one: it is of a cluster that was up.

    Raises:
        Unavailable: it did not start; the shards run on.
    """
    _end_coordinator(known, END_S)  # of an `up` that was killed, and not up yet
    record = dataclasses.replace(_begun(config), address=known.address, cluster_id=known.cluster_id)
    try:
        record, took_over = _start(config, record, directory, tell)
        directory.put(record)
    except BaseException as e:
        record = directory.get(config.name) or record
        _end_coordinator(record, END_S)
        if isinstance(e, RowloomError):
            log = log_in(folder_of(config.name, directory))
            todo = to_a_port(config.port, str(e), runs=True)
            raise Unavailable(
                f"a new coordinator of {config.name!r} did not start: {e}{todo} (log: {log}). Its shards run on: mend "
                f"that, then {up_of(config.name, directory)}"
            ) from None
        raise
    return record, took_over


def _full(directory: ClusterDirectory) -> str:
    """In words, that there is no room for what a process would say of its end; empty if there is some."""
    with contextlib.suppress(OSError):
        disk = os.statvfs(directory.home)
        if disk.f_bavail * disk.f_frsize < ROOM_BYTES:
            return f"; the disk of the folder that remembers clusters, {directory.home}, is full: {ELSEWHERE}"
    return ""


def _full_storage(record: Record, said: str) -> str:
    """In words, that there is no room where logs and snapshots go; empty if there is some, or that is not known.

    said: why it did not start, which may say it already: then only what is to be done.
    """
    if os.strerror(errno.ENOSPC) in said:
        return f". Make room there{_or_elsewhere(record)}"
    folder = storage_folder(record.storage) or ""
    with contextlib.suppress(OSError):
        disk = os.statvfs(folder if os.path.exists(folder) else os.path.dirname(folder) or ".")
        if folder and disk.f_blocks and disk.f_bavail * disk.f_frsize < ROOM_BYTES:
            return f". The disk of its storage, {record.storage}, is full: make room there{_or_elsewhere(record)}"
    return ""


def _or_elsewhere(record: Record) -> str:
    """In words, what else than to make room: in another storage a cluster begins without the rows of this one."""
    if is_kept(record):
        return f", and run `rowloom up` again. {elsewhere(record.name, record.storage)}"
    return ", or say another `storage`, and run `rowloom up` again"


def _begun(config: DeployConfig, before: Record | None = None) -> Record:
    """Of a cluster that is not up yet. before: what is known of that name; it is the same one if its rows are there."""
    shown = shown_to(config)
    shown["cluster_id"] = before.cluster_id if before is not None and is_kept(before) else ""
    grace_s = config.limits.stop_grace_s
    return Record(config.name, "local", "", storage=placed(config.storage), stop_grace_s=grace_s, **shown)


def _start(
    config: DeployConfig,
    record: Record,
    directory: ClusterDirectory,
    tell: Tell,
    restore: Restore | None = None,
) -> tuple[Record, bool]:
    """Start the coordinator and wait until it is up. Its process is on record before it does anything.

    Returns:
        Its record, and whether it took shards over that ran.
    """
    name = config.name
    folder = folder_of(name, directory)
    ready, log, given = _ready(name, directory), log_in(folder), config_in(folder)
    with directory.usable():
        write_atomic(ready, json.dumps({"starting": True}))  # what the one before said is true no more
        write_atomic(given, config.to_json())
    command = python("-m", "rowloom.deploy.coordinator_process")
    command += ["--config-json", str(given), "--ready-file", str(ready)]
    limit_s = config.limits.start_timeout_s + BEYOND_S
    on_rows = None
    if restore is not None:
        command += ["--restore", restore.url]
        limit_s, on_rows = RESTORE_S, restore.on_rows

    def known(pid: int, began: int) -> None:
        directory.put(dataclasses.replace(record, pid=pid, started=began))

    pid = spawn_detached(command, log, mark=mark_of(folder), known=known)
    began = started(pid)
    unread = _Unread(name, directory, tell)
    address = wait_until_up(
        "the coordinator", pid, began, log, limit_s, lambda: _address_in(ready, on_rows) or unread.look()
    )
    said = _read(ready)
    id = said.get("cluster_id", "")
    return dataclasses.replace(record, address=address, pid=pid, started=began, cluster_id=id), bool(
        said.get("took_over")
    )


class _Unread:
    """Tells, once, why a start waits for a shard that cannot be read from its log."""

    def __init__(self, name: str, directory: ClusterDirectory, tell: Tell) -> None:
        self._name, self._directory, self._tell = name, directory, tell
        self._next_s = time.monotonic() + UNREAD_S

    def look(self) -> None:
        """To be called from time to time."""
        if time.monotonic() < self._next_s:
            return
        why = unread_in_words(self._name, self._directory)
        if why:
            self._tell(why)
        self._next_s = math.inf if why else time.monotonic() + UNREAD_S


def _ready(name: str, directory: ClusterDirectory) -> Path:
    return ready_in(folder_of(name, directory))


def _address_in(ready: Path, on_rows: Callable[[int, int], None] | None = None) -> str | None:
    """What the coordinator wrote when it was up, or why it is not. None: nothing yet, or how far a restore is."""
    answer = _read(ready)
    if "error" in answer:
        raise (SnapshotCorrupt if answer.get("corrupt") else Unavailable)(answer["error"])
    if "restored_rows" in answer and on_rows is not None:
        on_rows(answer["restored_rows"], answer["rows"])
    return answer.get("address")


def _read(file: Path) -> dict[str, Any]:
    """What a file of ours says; nothing if it is not there, or damaged."""
    try:
        answer = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return answer if isinstance(answer, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def down(record: Record, directory: ClusterDirectory, *, keep: bool = False) -> None:
    """As `ClusterLauncher`: its shards end with it, whether or not there is a coordinator."""
    _end(record, directory, END_S, keep=keep)
    if not keep:  # also when its process was killed
        forget(record, record.storage or str(folder_of(record.name, directory)))
        tidy(folder_of(record.name, directory))


def _end(record: Record, directory: ClusterDirectory, end_s: float, *, keep: bool = False) -> None:
    """End the processes.

    Args:
        record: of the cluster.
        directory: that knows it.
        end_s: what they get beyond the grace for calls, until they are killed.
        keep: rows in logs stay there. Raises InvalidRequest: there are no logs; nothing was ended.
    """
    folder = folder_of(record.name, directory)
    patience_s = record.stop_grace_s + end_s
    if not record.pid and (found := find(record.name, directory)) is not None:
        # One that the record does not know of would start its shards again.
        record = dataclasses.replace(record, pid=found.pid, started=found.started)
    let_go_on(record.pid, record.started)
    if record.address and is_running(record.pid, record.started):
        with _unless_refused(keep), Remote(record.address, 5.0, record.credentials) as remote:
            remote.shutdown(keep=keep)
            wait_for_end(record.pid, record.started, patience_s)
    elif keep and record.address and shards_in(folder).running() and not has_kept(record.storage or None):
        raise InvalidRequest(
            f"rows of {record.name!r} are in memory only, so none can be kept: `durability: memory`. Its shards run on "
            f"without a coordinator: {up_of(record.name, directory)} starts a new one"
        )
    _end_coordinator(record, end_s)
    shards = shards_in(folder)
    shards.end(shards.servers(), patience_s)
    end_marked(mark_of(folder), FOLLOW_S)  # whatever the files do not say


def _end_coordinator(record: Record, end_s: float) -> None:
    """End the coordinator's process, and nothing else."""
    end_process(record.pid, record.started, record.stop_grace_s + end_s)


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


def runs(record: Record, directory: ClusterDirectory) -> bool:
    """As `ClusterLauncher`: its coordinator, or shards without one."""
    if is_running(record.pid, record.started):
        return True
    return bool(shards_in(folder_of(record.name, directory)).running())


def find(name: str, directory: ClusterDirectory) -> Record | None:
    """As `ClusterLauncher`: by what the coordinator wrote when it was up, if that process or its shards run."""
    ready, folder = _read(_ready(name, directory)), folder_of(name, directory)
    pid, address = ready.get("pid"), ready.get("address")
    began = dict(marked(mark_of(folder))).get(pid, 0) if isinstance(pid, int) else 0
    given = config_of(folder)
    storage = (given.storage if given is not None else None) or ""
    shown = shown_to(given) if given is not None else {}
    shown["cluster_id"] = ready.get("cluster_id", "")
    if began and isinstance(pid, int) and address:
        return Record(name, "local", address, pid, began, storage=storage, **shown)
    left = serving_on(name, directory)
    if left is None:
        return None
    return Record(name, "local", address or left.addresses[0], storage=storage, **shown)


def find_again(record: Record, directory: ClusterDirectory) -> str | None:
    """As `ClusterLauncher`: where an `up` ended too early to hear of it, and the cluster came up nevertheless."""
    whole = _whole(record, directory)
    return whole.address if whole is not None else None


def _whole(record: Record, directory: ClusterDirectory) -> Record | None:
    """A record whose coordinator runs, with its address. None: it does not run, or is not up."""
    if not is_running(record.pid, record.started):
        return None
    ready = _read(_ready(record.name, directory))
    if not ready:  # removed, or damaged
        return record if record.address else None
    if ready.get("pid") != record.pid or "address" not in ready:
        return None
    id = ready.get("cluster_id") or record.cluster_id
    return dataclasses.replace(record, address=ready["address"], cluster_id=id)
