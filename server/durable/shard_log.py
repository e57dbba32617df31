"""The log of one shard: what its host notes under the lock, and a thread writes beside it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

from ...proto.errors import PushUnresolved, RetryLater, RowloomError, Unavailable, in_words
from ...proto.framing import Buffer
from ...proto.snapshots.snapshot import open_snapshot
from ..journal import Journal
from ..metrics.counters import Counters
from ..shard import Shard
from ..snapshots.loading import load_shard
from ..standby.log_place import LogPlace
from .disk import Disk, this_process
from .extents import LogEnd, Owner
from .log import Log, Mode, Ticket
from .reading import Reading
from .records import Kind, LogCorrupt
from .replay import Replay
from .segments import LOCK, SEGMENT_BYTES, LogInUse, Segments
from .succession import caught_up
from .unread import UnreadWriter
from .writer import INTERVAL_S, Writer

GRACE_S = 0.5  # for the disk, when a log is closed
FULL = (errno.ENOSPC, errno.EDQUOT)
Noted = tuple[Ticket, Buffer]
log = logging.getLogger(__name__)


class ShardLog:
    """A shard's log, open to be written. A `Journal`.

    Args:
        writer: of it.
        folder: where it is.
    """

    def __init__(self, writer: Writer | UnreadWriter, folder: str) -> None:
        self.folder = folder
        self._writer: Writer | UnreadWriter = writer
        self._refuses = False
        self._noted: list[Noted] = []
        self._users = 0  # threads that are in `write` or `wait`, or will be
        self._lock = threading.Lock()
        self._unused = threading.Condition(self._lock)
        self._closed = False
        self._mending = False
        self._stays = ""  # why one that failed could not go on when that was tried last
        self.passed: tuple[str, str] = ("", "")  # as `Journal.passed`

    def __repr__(self) -> str:
        return f"<ShardLog {self._writer!r}>"

    # ------------------------------------------------------------------------------------------ under the host's lock

    @property
    def end(self) -> int:
        """As `Journal.end`."""
        return self._writer.end

    @property
    def safe(self) -> int:
        """As `Journal.safe`."""
        return self._writer.ackable

    @property
    def lsn(self) -> int:
        """As `Journal.lsn`."""
        return self._writer.lsn

    @property
    def bytes(self) -> int:
        """As `Journal.bytes`."""
        return self._writer.bytes

    @property
    def error(self) -> str:
        """As `Journal.error`: why it failed and, where a snapshot would let it go on, why it does not yet."""
        failed = self._writer.error
        yet = f"; a snapshot has all its rows since then, and it cannot go on yet: {self._stays}"
        return f"{failed}{yet}" if failed and self._stays else failed

    def trim(self, lsn: int) -> None:
        """As `Journal.trim`: in a thread of its own."""
        self.enter()
        threading.Thread(target=self._trim, args=(lsn,), name="rowloom-trim", daemon=True).start()

    def give_back(self, *, all: bool = False) -> None:
        """Spare segments that the disk has no room for go. all: the others, too. `enter` comes before."""
        self._writer.give_back(all=all)

    def _trim(self, lsn: int) -> None:
        try:
            self._writer.recycle(lsn)
        except OSError as e:  # the writer has said so, and takes no more
            log.error("%s cannot be made shorter: %s", self.folder, e)
        finally:
            self.leave()

    @property
    def mending(self) -> bool:
        """As `Journal.mending`."""
        return self._mending

    def renew(self) -> None:
        """As `Journal.renew`: in a thread of its own."""
        if not self._mending:
            self._mending = True
            self.enter()
            threading.Thread(target=self._renew, name="rowloom-renew", daemon=True).start()

    def _renew(self) -> None:
        try:
            with self._unused:  # those that still wait are told, by `check_reachable`, that it is in vain
                self._unused.wait_for(lambda: self._users == 1)
            self._writer = self._writer.renewed()
            self._stays = ""
            log.warning("%s goes on behind a snapshot: pushes are taken again", self.folder)
        except OSError as e:
            before, self._stays = self._stays, in_words(e)
            if self._stays != before:  # it is tried each second
                log.error("%s cannot go on yet: %s", self.folder, e)
        finally:
            self._mending = False
            self.leave()

    def check(self) -> None:
        """As `Journal.check`."""
        if self._refuses:
            raise RetryLater("the server stops: whoever has the log next takes it")
        self._writer.check()

    def refuse(self) -> None:
        """Nothing passes `check` any more; what has passed it has entered, and `close` waits for that."""
        self._refuses = True

    def note(self, kind: Kind, payload: Buffer, rows_after: int = 0, fold: int = 0) -> int:
        """As `Journal.note`."""
        ticket = self._writer.append(kind, len(payload), rows_after, fold)
        self._noted.append((ticket, payload))
        return ticket.end

    def take(self) -> list[Noted]:
        """What was noted since the last time: to be written, whatever happens."""
        noted = self._noted
        if noted:
            self._noted = []
        return noted

    def enter(self) -> None:
        """The caller is about to `write` or to `wait`, and will `leave`: until then the files are not given back."""
        with self._lock:
            self._users += 1

    # ------------------------------------------------------------------------------------------------ beside the lock

    def write(self, noted: Sequence[Noted]) -> None:
        """Write records. Raises PushUnresolved: the log failed."""
        for place, (ticket, payload) in enumerate(noted):
            try:
                self._writer.write(ticket, [payload])
            except BaseException as e:
                for later, _ in noted[place + 1 :]:
                    self._writer.abandon(later, e)
                raise

    def wait(self, position: int) -> None:
        """Return when the log is safe up to a position. Raises PushUnresolved: it never will be."""
        self._writer.wait(position)

    def settle(self, position: int) -> None:
        """Return when the log is durable up to a position, in any mode. Raises PushUnresolved: it never will be."""
        self._writer.wait(position)
        self._writer.sync()

    def leave(self) -> None:
        """See `enter`."""
        with self._lock:
            self._users -= 1
            if self._closed or self._mending:  # who renews it waits for this, too
                self._unused.notify_all()

    def close(
        self, *, sync: bool = True, grace_s: float = GRACE_S, last: Callable[[], object] = lambda: None
    ) -> None:
        """Give the files back, when nobody uses them any more. No error if that was done before.

        Args:
            sync: first, what is written; else what is in them is needed no more.
            grace_s: with `sync`, those that wait may wait so long for the disk: a push that was applied is not left
                open because its server stops. Then they hear that it does.
            last: is done before others may have the folder.
        """
        with self._unused:
            if self._closed:  # the system may have given the numbers of the files to others since
                return
            self._closed = True
            if sync:
                self._unused.wait_for(lambda: not self._users, grace_s)
        self._writer.stop()
        with self._unused:
            self._unused.wait_for(lambda: not self._users)
        try:
            last()
        finally:
            self._writer.close(sync=sync)


def log_folder(root: str, owner: Owner) -> str:
    """Where the log of a shard is, or would be, in the folder of all logs."""
    return os.path.join(root, owner.cluster_id, f"epoch-{owner.epoch}", f"shard-{owner.shard}")


class ShardLogs:
    """The folder of the logs of all shards of a cluster that this machine has, or had. `Journals`.

    Args:
        root: the folder.
        mode: when a push may be acknowledged.
        interval_s: between two syncs, with `interval`.
        segment_bytes: of each file.
        disk: the operating system.
        clock: in seconds since 1970.
    """

    def __init__(
        self,
        root: str,
        mode: Mode,
        *,
        interval_s: float = INTERVAL_S,
        segment_bytes: int = SEGMENT_BYTES,
        disk: Disk | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.root = root
        self._clock = clock
        self.mode = mode
        self._interval_s = interval_s
        self._segment_bytes = segment_bytes
        self._disk = disk or Disk()

    def folder(self, owner: Owner) -> str:
        """Where the log of a shard is, or would be."""
        return log_folder(self.root, owner)

    def has(self, owner: Owner) -> bool:
        """As `Journals.has`."""
        return self._disk.has_folder(self.folder(owner))

    def begin(self, owner: Owner) -> ShardLog:
        """As `Journals.begin`."""
        folder = self.folder(owner)
        try:
            if self.has(owner):
                self._check_room(folder)
                self._put_aside_unused(folder)
            segments = self._segments(owner)
            return self._open(segments, LogEnd())
        except OSError as e:
            raise Unavailable(f"the log {folder} cannot be made: {e}") from e

    def _check_room(self, folder: str) -> None:
        """Raise Unavailable if a new log has no room beside an old one: that stays where it is."""
        free = self._disk.free(folder)
        if free < self._segment_bytes:
            raise Unavailable(
                f"the log {folder} cannot be made anew: its disk has {free >> 20} MiB free, and a log needs "
                f"{max(1, self._segment_bytes >> 20)} MiB. The old one stays as it is: make room"
            )

    def drop(self, journal: Journal) -> None:
        """As `Journals.drop`."""
        assert isinstance(journal, ShardLog)
        dropped: list[str] = []

        def put_aside() -> None:
            # Its name may be another log's as soon as it is closed. One that recovers may have dropped it before.
            with contextlib.suppress(FileNotFoundError):
                dropped.append(self._put_aside(journal.folder, "dropped"))

        journal.close(sync=False, last=put_aside)
        for folder in dropped:
            self._disk.remove_folder(folder)

    def drop_older(self, owner: Owner) -> None:
        """What servers left that were killed before they dropped it: the epochs before one that is committed."""
        cluster = os.path.join(self.root, owner.cluster_id)
        for name in self._disk.names(cluster):
            epoch = name.removeprefix("epoch-")
            if epoch != name and epoch.isdecimal() and int(epoch) < owner.epoch:
                self._disk.remove_folder(os.path.join(cluster, name))

    def _put_aside_unused(self, folder: str) -> None:
        """A log whose loss was accepted is kept beside the new one: it may yet be read by hand.

        Raises:
            Unavailable: somebody has it, who may be about to drop it.
        """
        try:
            lock = self._disk.lock(os.path.join(folder, LOCK), this_process())
        except BlockingIOError as e:
            raise Unavailable(f"the log {folder} is still in use: {e}") from e
        try:
            self._put_aside(folder, "lost")
        finally:
            self._disk.close(lock)

    def _put_aside(self, folder: str, word: str) -> str:
        """Give a log another name. Returns it."""
        count = 1
        while self._disk.has_folder(aside := f"{folder}.{word}-{count}"):
            count += 1
        self._disk.rename(folder, aside)
        return aside

    def recover(
        self, owner: Owner, make: Callable[[], Shard], snapshots: Sequence[str] = ()
    ) -> tuple[Shard, ShardLog]:
        """A shard as it was where its log ends, and the log, open behind that.

        Args:
            owner: whose log it is.
            make: an empty shard, without tables.
            snapshots: folders of those that the log may go on from, newest first. One that cannot be read is passed
                over: the log goes back to the one before.

        A log that was read whole, and whose disk has no room to go on, takes nothing yet, as one that fails later.

        Raises:
            LogCorrupt: it cannot be read to its end, or not from where a snapshot ends. Nothing was changed.
            LogInUse: another server has it.
            OSError.
        """
        segments = self._segments(owner)
        try:
            shard, lsn, passed = _loaded(make, snapshots)
            reading = Reading(segments, lsn)
            replay = Replay(shard)
            for record in reading.records():
                replay.redo(record)
            replay.finish()
            if reading.is_behind:
                log.warning(
                    "%s: the log ends with record %d, a snapshot has all up to record %d: the shard goes on from that",
                    segments.folder,
                    reading.end.lsn,
                    lsn,
                )
            for first, last in reading.damaged:
                log.warning(
                    "%s: records %d to %d are damaged; a snapshot has all up to record %d, so nothing is lost. Look at "
                    "the disk, and take a snapshot: without this one the log could not be read",
                    *(segments.folder, first, last, lsn),
                )
            if reading.dropped:
                log.warning(
                    "%s: %d bytes behind record %d are no whole record, and are dropped: a push that was being written "
                    "when the process ended, or one that was damaged since, with which it was acknowledged",
                    segments.folder,
                    reading.dropped,
                    reading.end.lsn,
                )
            shard.counters = Counters()
            journal = self._repaired(segments, reading)
            journal.passed = passed
            return shard, journal
        except BaseException:
            segments.close()
            raise

    def _repaired(self, segments: Segments, reading: Reading) -> ShardLog:
        """A log that was read, open behind its end. Raises OSError."""
        try:
            return self._open(segments, reading.repair())
        except OSError as e:
            end = reading.unrepaired
            if e.errno not in FULL or segments.last != (end.extents[-1].number if end.extents else 0):
                raise
            segments.unmark_end()  # before any record comes behind it
            log.error(
                "%s was read whole, and cannot go on, as its disk is full: %s. The shard has all its rows and serves "
                "pulls; pushes go on by themselves when there is room",
                segments.folder,
                in_words(e),
            )
            return self._open(segments, end, synced=reading.is_behind, error=e)

    def go_on(self, owner: Owner, shard: Shard, place: LogPlace) -> ShardLog:
        """The log of a shard whose server has ended, open behind what its standby has; that has all of it then.

        Args:
            owner: whose log it is.
            shard: of the standby.
            place: where that is in the log.

        Raises:
            LogCorrupt: it cannot be read from there on.
            LogInUse: another server has it.
            OSError.
        """
        if not self.has(owner):
            raise LogCorrupt(f"there is no log of {owner}")
        segments = self._segments(owner)
        try:
            reading, lacking = caught_up(segments, shard, place)
            # Calls wait meanwhile, and a sync may have to write all that was pushed in the last half minute.
            synced = self.mode is not Mode.PROCESS
            journal = self._open(segments, reading.repair(synced=synced), synced=synced)
        except BaseException:
            segments.close()
            raise
        for record in lacking:
            journal.note(record.kind, record.payload, record.rows_after, record.fold)
        with contextlib.suppress(PushUnresolved):  # then it has failed, as it may at any time
            journal.write(journal.take())
        return journal

    def unread(self, owner: Owner, lsn: int, why: str) -> ShardLog:
        """A log that takes nothing, until a snapshot has all that its shard has. Nothing of what is there is changed.

        lsn: of the last record that the shard has; why: the log cannot be read.
        """
        return ShardLog(UnreadWriter(lsn, why, lambda: self._begun_behind(owner, lsn)), self.folder(owner))

    def _begun_behind(self, owner: Owner, lsn: int) -> Writer:
        """A log that begins behind a snapshot. What there was is put aside. Raises OSError."""
        folder = self.folder(owner)
        try:
            if self.has(owner):
                self._put_aside_unused(folder)
            segments = self._segments(owner)
        except RowloomError as e:
            raise OSError(errno.EBUSY, in_words(e), folder) from e
        try:
            end = LogEnd(lsn).behind(lsn, self._segment_bytes)
            segments.begin_anew(end.extents[-1])
            writer = self._writer(segments, end)
        except BaseException:
            segments.close()
            raise
        return writer

    def _segments(self, owner: Owner) -> Segments:
        return Segments(
            self.folder(owner),
            owner,
            segment_bytes=self._segment_bytes,
            disk=self._disk,
            survives_power=self.mode is not Mode.PROCESS,
        )

    def _open(
        self, segments: Segments, end: LogEnd, *, synced: bool = True, error: OSError | None = None
    ) -> ShardLog:
        """error: it takes nothing, because of that, until a snapshot has all of it."""
        return ShardLog(self._writer(segments, end, synced=synced, error=error), segments.folder)

    def _writer(
        self, segments: Segments, end: LogEnd, *, synced: bool = True, error: OSError | None = None
    ) -> Writer:
        known = Log(self.mode, end, self._segment_bytes, synced=synced)
        if error is not None:
            known.failed(error)
        writer = Writer(known, segments, interval_s=self._interval_s, clock=self._clock)
        writer.start()
        return writer


def _loaded(make: Callable[[], Shard], snapshots: Sequence[str]) -> tuple[Shard, int, tuple[str, str]]:
    """A shard from the newest snapshot that can be read, or empty; the last record in it; which newest one cannot."""
    passed = ("", "")
    for url in snapshots:
        shard = make()
        try:
            return shard, load_shard(open_snapshot(url), shard), passed
        except (RowloomError, OSError) as e:
            passed = passed if passed[0] else (url, in_words(e))
            log.error("snapshot %s cannot be read, so the log is read from an earlier point on: %s", url, e)
    return make(), 0, passed


def may_recover(error: Exception) -> bool:
    """Whether a shard that could not be read from its log may be at another time: nothing seems wrong with that."""
    return isinstance(error, OSError | LogInUse)
