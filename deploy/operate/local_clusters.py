"""Clusters of processes on this machine that stay: a coordinator process of its own, and its shards with it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from ...proto.errors import RowloomError, Unavailable
from ..atomic_file import write_atomic
from ..config.config import DeployConfig
from ..launch.processes import (
    end_process,
    is_running,
    python,
    spawn_detached,
    started,
    wait_for_end,
    wait_until_up,
)
from ..storage import StateFile
from .directory import ClusterDirectory, Record
from .remote import Remote

BEYOND_S = 30.0  # what a coordinator takes to start, and to say so, beyond what its shards may take
END_S = 10.0  # what it gets to end, beyond its calls' grace


def up_local(config: DeployConfig, directory: ClusterDirectory) -> Record:
    """Start a coordinator process that outlives this one, and its shards with it. Returns when all serve.

    Raises:
        InvalidConfig: its storage cannot be used; nothing was started.
        Unavailable: it did not start; nothing is left running.
    """
    StateFile(config.storage)
    folder = directory.folder(config.name)
    ready, log, given = folder / "ready.json", folder / "cluster.log", folder / "config.json"
    ready.unlink(missing_ok=True)
    write_atomic(given, config.to_json())
    command = python("-m", "rowloom.deploy.coordinator_process")
    command += ["--config-json", str(given), "--ready-file", str(ready)]
    pid = spawn_detached(command, log)
    began = started(pid)
    limit_s = config.limits.start_timeout_s + BEYOND_S
    try:
        address = wait_until_up("the coordinator", pid, began, log, limit_s, lambda: _address_in(ready))
    except BaseException as e:
        end_process(pid, began, config.limits.stop_grace_s + END_S)
        if isinstance(e, RowloomError):
            raise Unavailable(f"cluster {config.name!r} did not start: {e} (log: {log})") from None
        raise
    grace_s = config.limits.stop_grace_s
    record = Record(
        config.name, "local", address, pid, began, storage=config.storage or "", stop_grace_s=grace_s
    )
    directory.put(record)
    return record


def _address_in(ready: Path) -> str | None:
    """What the coordinator wrote when it was up, or why it is not. None: nothing yet."""
    try:
        answer = json.loads(ready.read_text())
    except FileNotFoundError:
        return None
    if "error" in answer:
        raise Unavailable(answer["error"])
    return answer["address"]


def down_local(record: Record, end_s: float = END_S) -> None:
    """End a cluster that `up_local` started; its shards end with it. No error if it is gone already.

    Args:
        record: of the cluster.
        end_s: what its processes get beyond the grace for calls, until they are killed.
    """
    patience_s = record.stop_grace_s + end_s
    with contextlib.suppress(RowloomError), Remote(record.address, timeout_s=5.0) as remote:
        if is_running(record.pid, record.started):
            remote.shutdown()
            wait_for_end(record.pid, record.started, patience_s)
    end_process(record.pid, record.started, patience_s)
    StateFile(record.storage).clear()  # also when its process was killed
