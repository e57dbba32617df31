"""What a cluster's rows are when it is to be ended: how many, whether they could be had again, and how.

Why it is so. Who ends a cluster that is well means to, and rows go with it, as `rowloom down` says. Who ends one that
has ended already, has no coordinator or has a shard that does not serve, may only mean to tidy up: its rows go when
somebody said so. Nor is one that runs forgotten in passing: it would run on with its rows, and nobody would end it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from ...proto import rowloom_pb2 as pb
from ...proto.errors import RowloomError
from ..config.config import from_json
from ..config.memory import in_bytes
from ..config.words import counted, shards_named
from ..launch.cluster_folder import config_of
from ..launch.keeping import logs_at, size_of_logs
from ..launch.processes import is_running, is_stopped
from ..operate.directory import ClusterDirectory, Record
from ..operate.left import is_kept
from ..operate.left_shards import LeftShards, folder_of, running_unknown, serving_on, up_of
from ..operate.remote import Remote
from ..operate.status import AGAIN, GOOD, PULLS_ONLY, READABLE
from ..snapshots.kept import going_in_words, kept_by

LOST_S = 6.0  # for a cluster that is to end to say what it holds
FORGET_S = 3.0  # for one that is to be forgotten, whose machines are most likely gone


@dataclass(frozen=True)
class Loss:
    """The rows that end with a cluster.

    Attributes:
        words: which, and what keeps them; empty: it has none.
        to_confirm: not all of it serves, or it would run on unknown: a script, too, has to say that this is meant.
        held: how many rows, as far as is known; empty: none, or nobody can say.
        empty: it is known to have none.
    """

    words: str = ""
    to_confirm: bool = False
    held: str = ""
    empty: bool = False


@dataclass(frozen=True)
class NotKept:
    """What a `down --keep` of a cluster that runs cannot keep.

    Attributes:
        words: which, after "its rows are kept"; empty: nothing that is known of.
        failed: shards whose logs have failed, and lack what was pushed since.
        question: what of these is taken back, and what keeps it; empty: nothing.
    """

    words: str = ""
    failed: Sequence[int] = ()
    question: str = ""


def lost_with(record: Record, directory: ClusterDirectory) -> Loss:
    """The rows that end with a cluster. One that does not answer, and is not known to have ended, may hold rows."""
    ended = record.launcher == "local" and not is_running(record.pid, record.started)
    left = serving_on(record.name, directory) if ended else None
    if left is not None and (rows := left.rows()) != 0:
        return Loss(_of_shards(record, directory, left, rows), True)
    pids = running_unknown(record.name, directory) if ended and left is None and record.address else []
    if pids and not _keeps_logs(record, directory):
        return Loss(_of_unknown(record, directory, pids), True)
    if not record.address or left is not None or (ended and record.pid):
        return Loss(_in_logs(record, directory), True) if is_kept(record) else Loss()
    return _of_running(record, directory)


def _of_shards(record: Record, directory: ClusterDirectory, left: LeftShards, rows: int | None) -> str:
    """Of shards without a coordinator."""
    held = "rows, how many is not known," if rows is None else f"{rows:,} {'row' if rows == 1 else 'rows'}"
    ways = f"{up_of(record.name, directory)} starts a coordinator for them"
    if is_kept(record):
        ways += f", {_keep(record, directory)} leaves them in its logs"
    ways += f".{_short(record)}"
    return f"{record.name!r} has no coordinator, and its shards hold {held} that are lost with it. {ways}"


def _keeps_logs(record: Record, directory: ClusterDirectory) -> bool:
    """Whether a cluster was last started with logs. Not if that cannot be told."""
    config = config_of(folder_of(record.name, directory))
    return config is not None and config.durability != "memory"


def _of_unknown(record: Record, directory: ClusterDirectory, pids: Sequence[int]) -> str:
    """Of servers without a coordinator, and without a layout that says what they are."""
    return (
        f"{record.name!r} has no coordinator, servers of it run (processes {', '.join(map(str, pids))}), and how many "
        f"rows they hold is not known, and they are lost with it: its layout cannot be read from "
        f"{record.storage or 'its folder'}. With that back, {up_of(record.name, directory)} takes them over."
    )


def _in_logs(record: Record, directory: ClusterDirectory) -> str:
    """Of a cluster that has ended, with its rows in logs."""
    ended = "is down" if record.kept else "has ended"
    ways = f"{up_of(record.name, directory)} goes on from them"
    if not record.kept:
        ways += f", {_keep(record, directory)} leaves them"
    short = going_in_words(record.storage)
    also = f" and {short}" if short else ""
    lost = f"`rowloom down` would remove {_logs(record)}{also}, and the rows of {record.name!r} with them"
    return f"{record.name!r} {ended}; {lost}. {ways}."


def stays_of(name: str, directory: ClusterDirectory) -> str:
    """What stays of a cluster that is forgotten, after "nothing was ended"; empty: nothing, as far as is known here."""
    with contextlib.suppress(RowloomError):
        record = directory.get(name)
        if record is not None and is_kept(record):
            return f", and {_logs(record)} stay: `rowloom up` with its config goes on from them"
    return ""


def _logs(record: Record) -> str:
    """In words, the logs that a cluster has left: how large, and where."""
    with contextlib.suppress(RowloomError, OSError):
        id = kept_by(record.storage or None)
        return f"{in_bytes(size_of_logs(record.storage, id))} of logs in {logs_at(record.storage, id)}"
    return f"its logs in {record.storage}"


def _short(record: Record) -> str:
    """A sentence about the snapshots and old logs that go with the logs; empty: none do."""
    short = going_in_words(record.storage) if is_kept(record) else ""
    return f" `rowloom down` removes {short} too." if short else ""


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
            still += f" {_keep(record, directory)} leaves them: {_logs(record)}.{_short(record)}"
        words = f"{who} does not answer, so how many rows it holds is not known, and they are lost with it.{still}"
        return Loss(words, True)
    keeps = keeps_logs(status)
    bad = [s for s in status.shards if s.health not in GOOD]
    # Of these it is not known how many rows they have; what is dead comes again with those of its log.
    silent = [s for s in bad if s.health not in READABLE and (keeps or s.health not in ("lost", "dead"))]
    if not _rows(status) and not silent:
        return Loss(empty=not bad)
    who = ", ".join(f"shard {s.shard.index} is {s.health}" for s in bad)
    held = f"{'at least ' if silent else ''}{_held(status)}"
    if who:
        held += f" ({who}{' and may hold more' if silent else ''})"
    option = directory.option(record.name) if record.launcher else f" --address {record.address}"
    short = _short(record) if keeps else ""
    ways = _ways(status.shards, option, keeps, bool(short)) + short
    return Loss(f"{status.name!r} holds {held}, and they are lost with it.{ways}", bool(bad), held)


def _ways(shards: Sequence[pb.ShardStatus], option: str, keeps: bool, snapshot: bool) -> str:
    """Sentences about what keeps the rows of a cluster that is to end, each after a blank; only what works now.

    Args:
        shards: of the cluster.
        option: of commands that mean it.
        keeps: it has logs.
        snapshot: name that way too.
    """
    others = [s for s in shards if s.health not in READABLE]
    ways = [
        f"`kill -CONT {s.pid}` on {s.node} lets shard {s.shard.index} go on, with its rows."
        for s in others
        if s.health == "stopped"
    ]
    ways += [
        f"Shard {s.shard.index} cannot be started again yet: {s.stays_dead}." for s in others if s.stays_dead
    ]
    if keeps and any(s.health in (*AGAIN, "dead") and not s.stays_dead for s in others):
        ways.append(
            "A shard that is dead, or starts anew, is started again by itself and reads its rows from its log: wait "
            f"some seconds, and ask again (`rowloom status{option}`)."
        )
    partial = " --partial" if others else ""
    export = f"`rowloom export TABLE FILE{partial}{option}` keeps rows" if len(others) < len(shards) else ""
    keep = f"`rowloom down --keep{option}` leaves them in its logs{_but_failed(shards)}" if keeps else ""
    if keep or export:
        ways.append("; ".join(filter(None, (keep, export))) + ".")
    if snapshot and not others:  # every shard has its part in one
        full = any(s.health == PULLS_ONLY for s in shards)
        after = ", once there is room on the disk of its storage" if full else ""
        ways.append(f"So does `rowloom snapshot{option}`{after}.")
    return "".join(f" {way}" for way in ways)


def not_kept(record: Record, option: str = "") -> NotKept:
    """What a `down --keep` of a cluster that runs cannot keep. option: of commands that mean it."""
    try:
        with Remote(record.address, LOST_S, record.credentials) as remote:
            shards = remote.status().shards
    except RowloomError:
        return NotKept()
    lost = [s.shard.index for s in shards if s.health == "lost"]
    failed, words, question = _failed(shards), "", ""
    if lost:
        words = f"; but {shards_named(lost)} cannot be read from the log as that is: "
        words += f"`rowloom logs {lost[0]}{option}` says why"
    if failed:
        question = (
            f"What was pushed since the log of {shards_named(failed)} had failed is not in it: no trainer was told "
            "that it is kept, but pulls have shown it, and `rowloom down --keep` takes it back. With room on the disk "
            f"of the log the cluster keeps it by itself: wait until `rowloom status{option}` says serving."
        )
    return NotKept(_but_failed(shards) + words, failed, question)


def _failed(shards: Sequence[pb.ShardStatus]) -> list[int]:
    """The shards whose logs have failed."""
    return [s.shard.index for s in shards if s.health == PULLS_ONLY]


def _but_failed(shards: Sequence[pb.ShardStatus]) -> str:
    """In words, what is not in logs that failed."""
    failed = _failed(shards)
    return f", but for what was pushed since the log of {shards_named(failed)} had failed" if failed else ""


def keeps_logs(status: pb.StatusReply) -> bool:
    """Whether a cluster that runs writes logs, so that `down --keep` can leave its rows there."""
    with contextlib.suppress(RowloomError, ValueError):
        return from_json(status.config).durability != "memory"
    return False


def _rows(status: pb.StatusReply) -> int:
    return sum(t.rows for s in status.shards for t in s.statistics.tables)


def _held(status: pb.StatusReply) -> str:
    rows = _rows(status)
    return f"{rows:,} {'row' if rows == 1 else 'rows'} in {counted(len(status.tables), 'table')}"


def run_on_with(record: Record, directory: ClusterDirectory) -> Loss:
    """What would run on, and be known here no more, if a cluster were forgotten; empty: nothing is known to run."""
    who, runs, holds = repr(record.name), "", ""
    here = record.launcher == "local"
    if here and not is_running(record.pid, record.started):
        if serving_on(record.name, directory) is None:
            return Loss()
        runs = "has no coordinator, and shards of it run"
    elif record.address:
        with (
            contextlib.suppress(RowloomError),
            Remote(record.address, FORGET_S, record.credentials) as remote,
        ):
            status = remote.status()
            if status.name == record.name:  # else another one has its port
                runs, holds = f"runs, its coordinator is {record.address}", f", and holds {_held(status)}"
    if not runs and not here:
        return Loss()
    runs = runs or f"does not answer, and its coordinator, process {record.pid}, is alive"
    option = directory.option(record.name)
    ways = f"`rowloom down{option}` ends it"
    if is_kept(record):
        ways += f", `rowloom down --keep{option}` too, and leaves its rows in its logs"
    return Loss(
        f"{who} {runs}{holds}. --forget ends nothing: it would run on, unknown to `rowloom list`. {ways}.",
        True,
    )
