"""A snapshot rolled forward to a point in time by the logs of the cluster that took it, to be restored like any other.

    snapshot + logs ─▶ which records count (one pass) ─▶ each shard by itself: rows, records, increment ─▶ manifest

The increment lies where `scratch.py` says while it is wanted, and then goes. Logs are only read: their cluster may be
dead, or run and go on. Anything that is not there whole is refused: what is restored has every push before the point.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction

from ...proto.errors import InvalidRequest, RowloomError, SnapshotCorrupt, Unavailable
from ...proto.errors import in_words as error_in_words
from ...proto.snapshots.extra import CHECKPOINT, encode_extra
from ...proto.snapshots.folder import SnapshotFolder
from ...proto.snapshots.listing import list_snapshots
from ...proto.snapshots.snapshot import StoredSnapshot
from ...proto.snapshots.stored import StoredShard
from ...proto.spec import TableEntry
from ...server.durable.counting import Counting, PushName, ShardPart
from ...server.durable.disk import Disk
from ...server.durable.extents import Owner
from ...server.durable.history import NoLog, ShardHistory
from ...server.durable.point import Point
from ...server.durable.records import LogCorrupt
from ...server.durable.shard_log import FULL, log_folder
from ...server.ledger import Ledger
from ...server.snapshots.commit import commit_snapshot
from ...server.snapshots.forward import rolled_shard, write_increment
from ...server.snapshots.target import target_of
from ..config.words import counted
from ..control.hold import unfinished
from ..launch.keeping import logs_beside
from .moments import in_words
from .removing import remove_folder
from .scratch import PREFIX, folder_for_increment

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PointInTime:
    """A snapshot that was rolled forward.

    Attributes:
        url: its folder, for as long as it is there.
        id: its name.
        rows: of all tables.
        pushes: that came after the snapshot and count.
        left_out: that had begun before the point and were not on all of their shards.
        lsns: the last record of each shard's log that lies before the point.
    """

    url: str
    id: str
    rows: int
    pushes: int
    left_out: int
    lsns: tuple[int, ...]

    def __str__(self) -> str:
        ends = ",".join(map(str, self.lsns))
        told = f"{counted(self.pushes, 'push', 'pushes')} after the snapshot, up to record {ends}"
        if self.left_out:
            several = f"{self.left_out:,} that were not yet on all of their shards are"
            told += f"; {several if self.left_out > 1 else 'one that was not yet on all of its shards is'} left out"
        return told


@contextmanager
def rolled_forward(
    snapshot: StoredSnapshot,
    point: Point,
    logs: str | None = None,
    *,
    storage: str | None = None,
) -> Generator[PointInTime]:
    """The cluster of a snapshot at a later point, as a snapshot that is there while the block runs.

    Args:
        snapshot: an earlier one.
        point: up to where its cluster's logs count.
        logs: the folder of the logs; None: it is found from where the snapshot lies.
        storage: of the cluster that is to begin with it.

    Raises:
        InvalidRequest: the point is before the snapshot or behind the logs, or the logs do not reach back to the
            snapshot; the message says what can be restored.
        LogCorrupt: a log is damaged before the point; the message says up to when it is whole.
        RowloomError: something cannot be read or written. In each case nothing is left.
    """
    if not point.lsns and point.before_s <= snapshot.manifest.created_s:
        raise InvalidRequest(
            f"{in_words(point.before_s)} is not after snapshot {snapshot.id}, which is of "
            f"{in_words(snapshot.manifest.created_s)}: {_instead(snapshot, point)}"
        )
    histories = _histories(snapshot, point, logs)
    counting = Counting(
        [history.after for history in histories],
        _begun(snapshot),
        {entry.number: entry.spec.name for entry in snapshot.tables.values()},
    )
    _count_all(snapshot, histories, point, counting)
    _check_reached(snapshot, histories, point)
    day = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    id = f"{PREFIX}{day}-{random.SystemRandom().getrandbits(32):08x}"
    with ExitStack() as stack:
        try:
            url = f"{stack.enter_context(folder_for_increment(snapshot.url, storage)).rstrip('/')}/{id}"
        except OSError as e:
            raise Unavailable(
                f"the rows at that point have no place in {storage}: {error_in_words(e)}"
            ) from e
        stack.callback(remove_folder, url)
        yield _made(snapshot, histories, point, counting, id, url)


def _histories(snapshot: StoredSnapshot, point: Point, logs: str | None) -> list[ShardHistory]:
    layout, root = snapshot.layout, logs or logs_beside(snapshot.url)
    if root is None:
        raise InvalidRequest(
            f"the logs that belong to {snapshot.url} are not beside it: name their folder (`--logs`)"
        )
    shards = snapshot.manifest.shards
    if point.lsns:
        lsns = ",".join(str(shard.lsn) for shard in shards)
        if len(point.lsns) != layout.n or any(p < s.lsn for p, s in zip(point.lsns, shards, strict=True)):
            raise InvalidRequest(
                f"a position has the last record of each of {layout.n} shards, none before the snapshot, which is at "
                f"{lsns}; got {','.join(map(str, point.lsns))}"
            )
    owners = [Owner(layout.cluster_id, layout.epoch, shard) for shard in range(layout.n)]
    taken_s = snapshot.manifest.created_s
    found = [
        ShardHistory(log_folder(root, o), o, s.lsn, taken_s) for o, s in zip(owners, shards, strict=True)
    ]
    _check_there(root, snapshot, found, point)
    return found


def _check_there(root: str, snapshot: StoredSnapshot, found: Sequence[ShardHistory], point: Point) -> None:
    disk, layout = Disk(), snapshot.layout
    if all(disk.has_folder(history.folder) for history in found):
        return
    cluster = f"{root}/{layout.cluster_id}"
    if not disk.has_folder(cluster):
        raise NoLog(
            f"there are no logs of cluster {layout.cluster_id!r} in {root}: they lie elsewhere (`--logs`), or it kept "
            "none (`durability: memory`), or `rowloom down` without `--keep` has removed them"
        )
    there = sorted(name for name in disk.names(cluster) if name.startswith("epoch-"))
    raise NoLog(
        f"the logs of epoch {layout.epoch}, in which {snapshot.id} was taken, are not all there: {cluster} has "
        f"{', '.join(there) or 'nothing'}. When a cluster is scaled its shards begin new logs, and those before go: "
        f"{_instead(snapshot, point)}"
    )


def _begun(snapshot: StoredSnapshot) -> dict[PushName, Fraction]:
    """Pushes of which only a part is in the snapshot, and which part."""
    reports = [_latest(snapshot, shard) for shard in range(snapshot.layout.n)]
    return {
        (client, push): sum((Fraction(count, of) for count, of in shares.values()), Fraction(0))
        for client, (push, shares) in unfinished(reports).items()
    }


def _latest(snapshot: StoredSnapshot, shard: int):
    ledger = Ledger()
    for piece in snapshot.ledger(shard):
        ledger.merge(piece)
    return ledger.latest()


def _count_all(
    snapshot: StoredSnapshot, histories: Sequence[ShardHistory], point: Point, counting: Counting
) -> None:
    damages: list[LogCorrupt] = []
    for history in histories:  # to the end, also behind a damaged one: each has a last record that can be had
        try:
            _count(snapshot, history, point, counting)
        except LogCorrupt as e:
            damages.append(e)
    if damages:
        ends = [history.end for history in histories]
        whole = any(end > history.after for end, history in zip(ends, histories, strict=True))
        upto = (
            f"--until {','.join(map(str, ends))}, the last records before that,"
            if whole
            else "the snapshot itself"
        )
        raise LogCorrupt(f"{'; '.join(map(str, damages))}. {upto} can be restored") from damages[0]


def _count(snapshot: StoredSnapshot, history: ShardHistory, point: Point, counting: Counting) -> None:
    try:
        for record in history.until(point):
            counting.add(history.owner.shard, record)
    except NoLog as e:
        raise NoLog(f"{e}; {_instead(snapshot, point)}") from e
    except OSError as e:
        raise Unavailable(f"the log of {history.owner} cannot be read: {e}") from e


def _check_reached(snapshot: StoredSnapshot, histories: Sequence[ShardHistory], point: Point) -> None:
    """Raise InvalidRequest if the logs end before the point.

    To a time it is enough that one of them does not: a shard that nobody pushes to writes nothing.
    """
    if point.lsns:
        ends = tuple(history.end for history in histories)
        if ends != point.lsns:
            raise InvalidRequest(
                f"the logs end with record {','.join(map(str, ends))}, before {','.join(map(str, point.lsns))}"
            )
        return
    newest = max(history.newest_s for history in histories)
    if any(history.reached for history in histories) or newest + 1 == point.before_s:
        return
    what = (
        f"--until {in_words(newest + 1)} is the newest point that they have"
        if newest
        else "restore it by itself"
    )
    raise InvalidRequest(
        f"the logs of cluster {snapshot.layout.cluster_id!r} end before {in_words(point.before_s)}: "
        + (f"their last record is of {in_words(newest)}" if newest else f"nothing came after {snapshot.id}")
        + f", so nobody knows what followed; {what}"
    )


def _made(
    snapshot: StoredSnapshot,
    histories: Sequence[ShardHistory],
    point: Point,
    counting: Counting,
    id: str,
    url: str,
) -> PointInTime:
    parts: Sequence[ShardPart] = counting.parts()
    stored: list[StoredShard] = []
    tables: Sequence[TableEntry] = ()
    try:
        for history, part in zip(histories, parts, strict=True):
            shard, count = rolled_shard(snapshot, history, point, part)
            written, entries = write_increment(snapshot, shard, id, url, part.end)
            if stored and entries != tables:
                raise LogCorrupt(
                    f"shard {shard.index} has tables {entries} at that point, the others {tables}: choose a later one"
                )
            stored.append(written)
            tables = entries
            log.info("shard %d: %d records of its log count, up to %d", shard.index, count, part.end)
        manifest = commit_snapshot(
            target_of(url),
            id=id,
            cluster_name=snapshot.manifest.cluster_name,
            created_s=point.before_s or max(snapshot.manifest.created_s, *(h.newest_s for h in histories)),
            layout=snapshot.layout,
            shards=stored,
            tables=tables,
            parent=snapshot.manifest.name,
            extra=_extra(snapshot),
        )
    except OSError as e:
        said = f"the rows at that point cannot be written to {url}: {error_in_words(e)}"
        raise Unavailable(said + (_elsewhere(snapshot) if e.errno in FULL else "")) from e
    lsns = tuple(part.end for part in parts)
    return PointInTime(url, id, manifest.rows, counting.pushes, counting.left_out, lsns)


def _elsewhere(snapshot: StoredSnapshot) -> str:
    """In words, what can be done where the disk has no room for the increment."""
    above = SnapshotFolder(snapshot.url).beside("").url.rstrip("/")
    logs = logs_beside(snapshot.url) or "FOLDER"
    return (
        f". Nothing was changed. Make room there, or give the new cluster a `storage` on a disk that has some; or copy "
        f"{above} to such a disk, and restore {snapshot.id} from the copy, with `--logs {logs}`"
    )


def _extra(snapshot: StoredSnapshot) -> bytes:
    """What its trainer kept with it; without a model, which would be one of another moment than the rows."""
    if not snapshot.manifest.extra:
        return b""
    return encode_extra({key: value for key, value in snapshot.extra.items() if key != CHECKPOINT})


def _instead(snapshot: StoredSnapshot, point: Point) -> str:
    """In words, which other snapshot there is for a point."""
    above = SnapshotFolder(snapshot.url).beside("").url
    try:
        found = [
            one
            for one in list_snapshots(above)
            if one.manifest is not None
            and not one.problem
            and one.manifest.cluster_id == snapshot.layout.cluster_id
            and (one.manifest.created_s < point.before_s or point.lsns)
            and one.id != snapshot.id
            and not one.id.startswith(PREFIX)
        ]
    except (RowloomError, SnapshotCorrupt):
        found = []
    if not found:
        return f"{above} has no other one of this cluster that is older than that point"
    best = found[-1]
    assert best.manifest is not None
    return f"the newest one before it is {best.url}, of {in_words(best.manifest.created_s)}"
