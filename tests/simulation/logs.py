"""The logs of made-up servers: the real ones, on a disk in memory, whose records take virtual time.

`Scribe` does what `server.durable.writer.Writer` does with threads: the same calls of `Log` and `Segments` in the same
order, each when its time comes. So what is not covered here, and by tests of its own only, is how the writer's threads
wait for each other, and its spare segments being made beside them.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Collection, Sequence
from typing import Any

from simulation.world import World
from virtual_disk import VirtualDisk

from rowloom.proto.errors import PushUnresolved
from rowloom.server.durable.extents import LogEnd, Owner
from rowloom.server.durable.log import Log, Mode, Ticket
from rowloom.server.durable.records import HEAD_BYTES, Kind, encode
from rowloom.server.durable.segments import Segments
from rowloom.server.durable.shard_log import Noted, ShardLog, ShardLogs
from rowloom.server.durable.writer import INTERVAL_S
from rowloom.server.journal import Journal

ROOT = "/logs"
Then = Callable[[PushUnresolved | None], object]
At = Callable[..., None]


class Storage:
    """What the servers of a world keep their logs on: one disk, of which each has folders.

    Attributes:
        mode: when a push may be acknowledged.
        disk: of all of them.
        segment_bytes: of each file.
        slow_s: what a write takes, in the mean; a sync takes twice as long.
        failing: by server's key, what of its part of the disk fails: "full", "write" or "sync"; "once": only once.
        failed: keys of the servers of which something did.
        lurking: the first server that comes to this one of `shards.POINTS` ends there.
    """

    def __init__(self, world: World, mode: Mode) -> None:
        rng = world.rng
        self.world = world
        self.mode = mode
        self.disk = VirtualDisk()
        self.segment_bytes = rng.choice([8192, 32768])
        self.slow_s = rng.choice([0.001, 0.02, 0.1])
        self.failing: dict[int, str] = {}
        self.failed: set[int] = set()
        self.lurking: str | None = None

    def unsynced(self, folders: Collection[str]) -> bool:
        """Whether something in these folders would not survive a loss of power."""
        names = self.disk.names_live.items()
        return any(inode.unsynced for name, inode in names if name.rsplit("/", 1)[0] in folders)

    @property
    def loses_power(self) -> bool:
        """Whether that is something which acknowledged pushes survive."""
        return self.mode is Mode.DISK

    def takes(self, times: float = 1.0) -> float:
        """How long the next write takes."""
        random = self.world.rng.random
        if random() < 0.02:  # a disk that is busy with something else
            return 2.0 * random()
        return self.world.rng.expovariate(1.0) * self.slow_s * times

    def refuse(self, key: int, method: str, name: str) -> None:
        """Raise OSError for a call of a server whose part of the disk fails."""
        failing = self.failing.get(key)
        if failing is None:
            return
        failing, _, once = failing.partition(" ")
        self.failed.add(key)
        if failing == "full" and (method == "create" or name.endswith(".new")):
            self.world.injected["log's disk was full"] += 1
            raise OSError(errno.ENOSPC, "no space left", name)
        if failing == "write" and method == "pwritev" and name.startswith("wal-"):
            self._fails("write", key, once)
            raise OSError(errno.EIO, "input/output error", name)
        if failing == "sync" and method == "fdatasync":
            self._fails("sync", key, once)
            raise OSError(errno.EIO, "input/output error", name)

    def _fails(self, what: str, key: int, once: str) -> None:
        self.world.injected[f"{what} of a log failed"] += 1
        if once:
            del self.failing[key]


class Scribe:
    """A log that grows in virtual time. In place of a `Writer`.

    Args:
        known: what is known of it.
        segments: its files.
        storage: says how long everything takes.
        at: as `World.at`, while the process lives.
        alive: whether it does.
    """

    def __init__(
        self, known: Log, segments: Segments, storage: Storage, at: At, alive: Callable[[], bool]
    ) -> None:
        self.log = known
        self._alive = alive
        self._segments = segments
        self._storage = storage
        self._at = at
        self._opened = segments.last
        self._waiting: list[tuple[int, Then]] = []
        self._syncing = self._sync_is_due = self._stopping = self._uncut = False

    # ---------------------------------------------------------------------------------------- as those of a Writer

    def check(self) -> None:
        self.log.check()

    def append(self, kind: Kind, length: int, rows_after: int = 0, fold: int = 0) -> Ticket:
        return self.log.append(kind, length, rows_after, fold)

    @property
    def end(self) -> int:
        return self.log.end

    @property
    def ackable(self) -> int:
        return self.log.ackable

    @property
    def lsn(self) -> int:
        return self.log.lsn

    @property
    def bytes(self) -> int:
        return self.log.end - self.log.begin

    @property
    def error(self) -> str:
        return self.log.cause

    def write(self, ticket: Ticket, payload: Sequence[Any]) -> None:
        """Write a record. Raises PushUnresolved."""
        number = ticket.extent.number
        try:
            while self._opened < number:
                self.log.check_open()
                extent = self.log.extent_of(self._opened + 1)
                try:
                    self._segments.open(extent, synced=self.log.mode is not Mode.PROCESS)
                except OSError as e:
                    self.log.failed(e, extent.begin)
                    raise
                self._opened = extent.number
            buffers = encode(ticket.head, payload, self._segments.salt(number))
            self._segments.write(number, buffers, ticket.place)
        except Exception as e:
            self.abandon(ticket, e)
            raise PushUnresolved(f"the push was applied, but could not be written to the log: {e}") from e
        self.log.written(ticket)
        if self.log.mode is Mode.INTERVAL and not self._sync_is_due:
            self._sync_is_due = True
            self._at(INTERVAL_S, self._sync_in_time)

    def abandon(self, ticket: Ticket, cause: BaseException) -> None:
        self.log.failed(cause, ticket.offset)

    def recycle(self, lsn: int) -> bool:
        """As of a Writer; whether it was the moment for it: nothing is being synced."""
        while not self._syncing and not self._uncut and (number := self.log.cut(lsn)):
            try:
                self._segments.recycle(number, again=self.log.error is None)
            except OSError as e:
                self._uncut = True
                self.log.failed(e)
            else:
                self._storage.world.injected["segment of a log used again"] += 1
        return not self._syncing

    def stop(self) -> None:
        self._stopping = True
        self.look()

    def close(self, *, sync: bool = True) -> None:
        self.stop()
        try:
            if sync and self.log.error is None and not self._syncing:
                self._close_whole()
        finally:
            self._segments.close()

    def _close_whole(self) -> None:
        """As a Writer that is closed: all is synced, and its end marked."""
        upto, numbers = self.log.unsynced()
        with contextlib.suppress(OSError):
            for number in numbers:
                self._segments.sync(number)
            self.log.synced(upto)
            if self.log.settled and self.log.lsn:
                self._segments.mark_end(self.log.lsn)
                self._storage.world.injected["log was closed"] += 1

    # ------------------------------------------------------------------------------------------------ in virtual time

    def wait(self, position: int, then: Then) -> None:
        """Call `then` when the log is safe up to a position, or never will be."""
        self._waiting.append((position, then))
        self.look()

    def look(self) -> None:
        """Answer those who wait for what has come, and sync for others."""
        waiting, self._waiting = self._waiting, []
        leads = False
        for position, then in waiting:
            if not self._alive():
                return
            try:
                if position <= self.log.ackable:
                    then(None)
                    continue
                self.log.check_reachable(position)
                if self._stopping:
                    raise PushUnresolved("the server stops before its log was known to be safe")
            except PushUnresolved as e:
                then(e)
                continue
            self._waiting.append((position, then))
            leads |= position <= self.log.written_prefix
        if leads and self.log.mode is Mode.DISK and not self._syncing and self._alive():
            self._sync()

    def _sync_in_time(self) -> None:
        self._sync_is_due = False
        if not self._syncing and not self._stopping and self.log.error is None:
            self._sync()

    def _sync(self) -> None:
        upto, numbers = self.log.unsynced()
        self._syncing = True
        error: OSError | None = None
        with self._segments.disk.later() as begun:
            try:
                for number in numbers:
                    self._segments.sync(number)
            except OSError as e:
                error = e
        self._at(self._storage.takes(2.0), self._synced, upto, begun, error)

    def _synced(self, upto: int, begun: list[Callable[[], None]], error: OSError | None) -> None:
        self._syncing = False
        if error is not None:
            self.log.failed(error)
        else:
            for done in begun:
                done()
            self.log.synced(upto)
        self.look()


class NodeLog(ShardLog):
    """A shard's log, whose records are written one after the other when their time has come."""

    def __init__(self, scribe: Scribe, folder: str, storage: Storage, at: At) -> None:
        super().__init__(scribe, folder)
        self.scribe = scribe
        self.users = 0
        self.heads: list[Any] = []  # of the records that this process has written
        self._storage = storage
        self._at = at

    def trim(self, lsn: int) -> None:
        """As of a ShardLog, in virtual time."""
        self.users += 1
        self._at(self._storage.takes(), self._trim_now, lsn)

    def _trim_now(self, lsn: int) -> None:
        if self.scribe.recycle(lsn):
            self.users -= 1
            self.scribe.look()
        else:
            self._at(self._storage.takes(), self._trim_now, lsn)

    def write_later(self, noted: list[Noted], then: Then) -> None:
        """Write records, as a thread does beside others."""
        self.users += 1
        self._at(self._storage.takes(), self._write_first, noted, then)

    def _write_first(self, noted: list[Noted], then: Then) -> None:
        try:
            self.write(noted[:1])
        except PushUnresolved as e:
            for later, _ in noted[1:]:
                self.scribe.abandon(later, e)
            self._written(then, e)
            return
        self.heads.append(noted[0][0].head)
        if len(noted) > 1:
            self._at(self._storage.takes(), self._write_first, noted[1:], then)
        else:
            self._written(then, None)

    def _written(self, then: Then, error: PushUnresolved | None) -> None:
        self.users -= 1
        then(error)
        self.scribe.look()

    def wait_later(self, position: int, then: Then) -> None:
        """Call `then` when the log is safe up to a position, or never will be."""
        self.users += 1

        def over(error: PushUnresolved | None) -> None:
            self.users -= 1
            then(error)

        self.scribe.wait(position, over)


class NodeLogs(ShardLogs):
    """The logs of one server process.

    Args:
        storage: of all of them.
        disk: as this process sees it.
        at: as `World.at`, while the process lives.
        alive: whether it does.
    """

    def __init__(self, storage: Storage, disk: VirtualDisk, at: At, alive: Callable[[], bool]) -> None:
        super().__init__(ROOT, storage.mode, segment_bytes=storage.segment_bytes, disk=disk)
        self.folders: set[str] = set()  # in which this process has written
        self._storage = storage
        self._at = at
        self._alive = alive

    def _segments(self, owner: Owner) -> Segments:
        rng = self._storage.world.rng
        folder = self.folder(owner)
        self.folders.add(folder)
        return Segments(
            folder,
            owner,
            segment_bytes=self._segment_bytes,
            disk=self._disk,
            salt=lambda: rng.getrandbits(32),
        )

    def _open(
        self, segments: Segments, end: LogEnd, *, synced: bool = True, error: OSError | None = None
    ) -> NodeLog:
        scribe = self._writer(segments, end, synced=synced, error=error)
        return NodeLog(scribe, segments.folder, self._storage, self._at)

    def _writer(
        self, segments: Segments, end: LogEnd, *, synced: bool = True, error: OSError | None = None
    ) -> Scribe:
        log = Log(self.mode, end, self._segment_bytes, synced=synced)
        if error is not None:
            log.failed(error)
            self._storage.world.injected["log was read and could not go on"] += 1
        return Scribe(log, segments, self._storage, self._at, self._alive)

    def unread(self, owner: Owner, lsn: int, why: str) -> NodeLog:
        raise AssertionError(f"the log of {owner} cannot be read behind record {lsn}: {why}")

    def drop_later(self, journal: Journal) -> None:
        """As a thread that drops a log: when nobody uses it any more."""
        assert isinstance(journal, NodeLog)
        journal.scribe.stop()
        if journal.users:
            self._at(0.01, self.drop_later, journal)
        else:
            self.drop(journal)


def rot(storage: Storage, journal: NodeLog) -> bool:
    """Damage a record that had surely been acknowledged: a later one says so. Returns whether there was one."""
    heads = sorted(journal.heads, key=lambda head: head.lsn)
    if not heads:
        return False
    sure = [head for head in heads if head.end <= heads[-1].prefix]
    if not sure:
        return False
    victim = storage.world.rng.choice(sure)
    extents = [extent for extent in journal.scribe.log._extents if extent.begin <= victim.offset]
    extent = extents[-1]
    inode = storage.disk.names_live[f"{journal.folder}/wal-{extent.number:010}.log"]
    place = extent.place(victim.offset) + storage.world.rng.randrange(HEAD_BYTES + victim.length)
    for content in (inode.live, inode.durable):
        if place < len(content):
            content[place] ^= 1 << storage.world.rng.randrange(8)
    return True
