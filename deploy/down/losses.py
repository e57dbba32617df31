"""What a cluster's rows are when it is to be ended: how many, whether they could be had again, and how.

Why it is so. Who ends a cluster that runs means to, and rows go with it, as `rowloom down` says. Who ends one that has
ended already, or has no coordinator, may only mean to tidy up: what could be had again goes when somebody said so.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from ...proto.errors import RowloomError
from ..config.memory import in_bytes
from ..config.words import counted
from ..launch.keeping import logs_at, size_of_logs
from ..launch.processes import is_running, is_stopped
from ..operate.directory import ClusterDirectory, Record
from ..operate.left import is_kept
from ..operate.left_shards import LeftShards, config_of, folder_of, serving_on
from ..operate.remote import Remote
from ..operate.status import READABLE
from ..snapshots.kept import kept_by

LOST_S = 6.0  # for a cluster that is to end to say what it holds


@dataclass(frozen=True)
class Loss:
    """The rows that end with a cluster.

    Attributes:
        words: which, and what keeps them; empty: it has none.
        can_go_on: it does not serve them now, and could again: nobody ends it in passing.
    """

    words: str = ""
    can_go_on: bool = False


def lost_with(record: Record, directory: ClusterDirectory) -> Loss:
    """The rows that end with a cluster. One that does not answer, and is not known to have ended, may hold rows."""
    ended = record.launcher == "local" and not is_running(record.pid, record.started)
    left = serving_on(record.name, directory) if ended else None
    if left is not None and (rows := left.rows()) != 0:
        return Loss(_of_shards(record, directory, left, rows), True)
    if not record.address or left is not None or (ended and record.pid):
        return Loss(_in_logs(record, directory), True) if is_kept(record) else Loss()
    return _of_running(record, directory)


def _of_shards(record: Record, directory: ClusterDirectory, left: LeftShards, rows: int | None) -> str:
    """Of shards without a coordinator."""
    held = "rows, how many is not known," if rows is None else f"{rows:,} {'row' if rows == 1 else 'rows'}"
    ways = f"{_up(record, directory)} starts a coordinator for them"
    if is_kept(record):
        ways += f", {_keep(record, directory)} leaves them in its logs"
    return f"{record.name!r} has no coordinator, and its shards hold {held} that are lost with it. {ways}."


def _in_logs(record: Record, directory: ClusterDirectory) -> str:
    """Of a cluster that has ended, with its rows in logs."""
    ended = "is down" if record.kept else "has ended"
    ways = f"{_up(record, directory)} goes on from them"
    if not record.kept:
        ways += f", {_keep(record, directory)} leaves them"
    lost = f"`rowloom down` would remove {_logs(record)}, and the rows of {record.name!r} with them"
    return f"{record.name!r} {ended}; {lost}. {ways}."


def _logs(record: Record) -> str:
    """In words, the logs that a cluster has left: how large, and where."""
    with contextlib.suppress(RowloomError, OSError):
        id = kept_by(record.storage or None)
        return f"{in_bytes(size_of_logs(record.storage, id))} of logs in {logs_at(record.storage, id)}"
    return f"its logs in {record.storage}"


def _up(record: Record, directory: ClusterDirectory) -> str:
    known = config_of(folder_of(record.name, directory)) is not None
    return f"`rowloom up --name {record.name}`" if known else "`rowloom up` with its config"


def _keep(record: Record, directory: ClusterDirectory) -> str:
    return f"`rowloom down --keep{directory.option(record.name)}`"


def _of_running(record: Record, directory: ClusterDirectory) -> Loss:
    """Of a cluster that should answer."""
    try:
        with Remote(record.address, LOST_S, record.credentials) as remote:
            status = remote.status()
    except RowloomError:
        who = repr(record.name) if record.name else f"the cluster at {record.address}"
        still = f" `kill -CONT {record.pid}` lets it go on." if record.pid and is_stopped(record.pid) else ""
        if is_kept(record):
            still += f" {_keep(record, directory)} leaves them: {_logs(record)}."
        words = f"{who} does not answer, so how many rows it holds is not known, and they are lost with it.{still}"
        return Loss(words, True)
    rows = sum(t.rows for s in status.shards for t in s.statistics.tables)
    silent = [s for s in status.shards if s.health not in (*READABLE, "lost", "dead")]
    if not rows and not silent:
        return Loss()
    held = f"{rows:,} rows in {counted(len(status.tables), 'table')}"
    if silent:
        who = ", ".join(f"shard {s.shard.index} is {s.health}" for s in silent)
        held = f"at least {held} ({who} and may hold more)"
    option = directory.option(record.name) if record.launcher else f" --address {record.address}"
    ways = f"`rowloom export TABLE FILE{option}` keeps rows."
    return Loss(f"{status.name!r} holds {held}, and they are lost with it. {ways}")
