"""A log that threads write: each its own record, beside the shard's lock; the first that waits syncs for all.

    append (under the shard's lock) ─▶ write (checksum, pwritev; no lock) ─▶ wait (until the log is safe up to there)

Why it is so. What must hold: no lock is held while the disk works, and no thread stands between a push and the disk. So
the thread of a push writes its record. With `disk`, the first one that waits and finds nobody syncing syncs all that is
written; meanwhile others write, and the first of those leads the next group. Groups grow by themselves when the disk is
slow. Rejected: a thread that writes for all (two changes of threads for each push: measured slower from 2 threads on),
and waiting a little for a group to grow (a single trainer would pay for it each time).
Threads of the log itself only do what no push waits for: fill the spare segment, and sync from time to time
(`interval`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from ...proto.errors import PushUnresolved
from ...proto.framing import Buffer
from .extents import SegmentExtent
from .log import Log, Mode, Ticket
from .records import MAX_TIME_S, Kind, encode
from .segments import Segments

log = logging.getLogger(__name__)
INTERVAL_S = 0.1


class Writer:
    """One shard's log, for the threads of a server. It is repaired, and nobody reads it meanwhile.

    Args:
        known: what is known of it; the writer's lock is around it from now on.
        segments: its files.
        moved: is told the position up to which the log is safe when that has moved, by any thread, sometimes an earlier
            position after a later one. No lock of the writer is held meanwhile.
        interval_s: between two syncs, with `interval`.
        clock: in seconds since 1970: records say when they were made.
    """

    def __init__(
        self,
        known: Log,
        segments: Segments,
        moved: Callable[[int], object] | None = None,
        *,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if known.mode is Mode.MEMORY:
            raise ValueError("with durability `memory` nothing is written: there is no log")
        self.warning = ""  # why no segment is ready to be the next one
        self._log = known
        self._segments = segments
        self._moved = moved
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()  # of all that follows, and of the log
        # Of the lock: notified when anything of it has changed.
        self._changed = threading.Condition(self._lock)
        self._waiting = 0  # threads that wait for that
        # Notified when the log's own threads have something to do.
        self._wake = threading.Condition(self._lock)
        self._opened = segments.last  # number of the last segment that has its file
        self._opening = False
        self._syncing = False
        self._told = known.ackable
        self._wants_spare = known.error is None
        self._uncut = False  # cutting it has failed
        self._stopping = False
        self._threads: list[threading.Thread] = []

    def __repr__(self) -> str:
        return f"<Writer {self._log!r} {self._segments!r}>"

    def start(self) -> None:
        """Keep a spare segment ready, and sync from time to time, in threads. Without: as records need it."""
        with self._lock:
            targets = [self._keep_spares] + [self._sync_at_times] * (self._log.mode is Mode.INTERVAL)
            self._threads = [threading.Thread(target=t, name="rowloom-log", daemon=True) for t in targets]
        for thread in self._threads:
            thread.start()

    # -------------------------------------------------------------------------------------- under the shard's lock

    def check(self) -> None:
        """Raise Unavailable if the log takes no more; before anything is applied."""
        with self._lock:
            self._log.check()

    def append(self, kind: Kind, length: int, rows_after: int = 0, fold: int = 0) -> Ticket:
        """Reserve room for a record; as Log.append. `write` must follow, or `abandon`: others wait for it."""
        with self._lock:
            # A clock that is far off spoils a time, not a push.
            time_s = min(max(int(self._clock()), 0), MAX_TIME_S)
            return self._log.append(kind, length, rows_after, fold, time_s)

    @property
    def end(self) -> int:
        """Where the next record will begin: a duplicate waits for this, because its first copy lies before it."""
        with self._lock:
            return self._log.end

    @property
    def lsn(self) -> int:
        """Of the last record."""
        with self._lock:
            return self._log.lsn

    @property
    def bytes(self) -> int:
        """Of records, with those that a snapshot has and that were not cut off yet."""
        with self._lock:
            return self._log.end - self._log.begin

    @property
    def error(self) -> str:
        """Why it takes no more; empty while it does."""
        with self._lock:
            return self._log.cause

    @property
    def ackable(self) -> int:
        """Everything before this position may be acknowledged."""
        with self._lock:
            return self._log.ackable

    # -------------------------------------------------------------------------------------- beside the shard's lock

    def write(self, ticket: Ticket, payload: Sequence[Buffer]) -> None:
        """Write a record. Its bytes are those that were applied, and do not change meanwhile.

        Raises:
            PushUnresolved: it could not be written; the log takes no more.
        """
        number = ticket.extent.number
        try:
            self._open_up_to(number)
            buffers = encode(ticket.head, payload, self._segments.salt(number))
            self._segments.write(number, buffers, ticket.place)
        except BaseException as e:
            self.abandon(ticket, e)
            if not isinstance(e, Exception):
                raise
            raise PushUnresolved(f"the push was applied, but could not be written to the log: {e}") from e
        with self._lock:
            self._log.written(ticket)
            if self._waiting:
                self._changed.notify_all()
        self._tell()

    def abandon(self, ticket: Ticket, cause: BaseException) -> None:
        """A record will not be written: the log takes no more, because nothing behind it could be read."""
        with self._changed:
            self._fail(cause, ticket.offset)

    def wait(self, position: int) -> None:
        """Return when the log is safe up to a position. Raises PushUnresolved: it never will be."""
        with self._lock:
            while self._log.ackable < position:
                self._log.check_reachable(position)
                if self._stopping:
                    raise PushUnresolved("the server stops before its log was known to be safe")
                # Who leads has been written, and so has all before it: the group is worth a sync.
                leads = self._log.mode is Mode.DISK and not self._syncing
                if leads and self._log.written_prefix >= position:
                    self._sync()
                else:
                    self._await_change()
        self._tell()

    def sync(self) -> None:
        """Make all that is written durable, in any mode. Raises PushUnresolved if that failed."""
        with self._changed:
            upto = self._log.written_prefix
            while self._log.synced_prefix < upto:
                if self._log.error is not None:
                    raise PushUnresolved(f"the log failed: {self._log.error}")
                if self._syncing:
                    self._await_change()
                else:
                    self._sync()
        self._tell()

    def recycle(self, lsn: int) -> None:
        """Records up to `lsn` are needed no more: use their segments again, the oldest first.

        Those of a log that has failed are given back: where its disk is full, that is the room by which it goes on.

        Raises:
            OSError: it failed, and the log with it: a gap must never come into it.
        """
        while True:
            with self._changed:
                while self._syncing:
                    self._await_change()
                number, again = 0 if self._uncut else self._log.cut(lsn), self._log.error is None
            if not number:
                self.give_back()
                return
            try:
                self._segments.recycle(number, again=again)
            except BaseException as e:
                self._uncut = True
                with self._changed:
                    self._fail(e)
                raise

    def give_back(self, *, all: bool = False) -> None:
        """Give spare segments back for which the disk has no room. all: those that it has room for, too."""
        try:
            count = self._segments.give_back(all=all)
        except OSError as e:  # nothing depends on it
            log.warning("%s: spare segments cannot be given back: %s", self._segments.folder, e)
            return
        if count:
            log.info("%s: %d spare segments are given back", self._segments.folder, count)

    def renewed(self) -> Writer:
        """One that goes on in a new segment, when the log failed and a snapshot has all of it.

        Nobody writes to this one any more, and whoever waits is told that the wait is in vain.

        Raises:
            OSError: there is no room for the segment, or the disk still fails; this one stays as it is.
        """
        self.stop()
        for thread in self._threads:
            thread.join()
        with self._lock:
            known = self._log.renewed(self._opened)
        self._segments.begin_anew(known.last)
        other = Writer(known, self._segments, self._moved, interval_s=self._interval_s, clock=self._clock)
        if self._threads:
            other.start()
        return other

    def stop(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            self._wake.notify_all()

    def close(self, *, sync: bool = True) -> None:
        """Sync what is written and mark its end, if wanted; give the files back. No other call is there or follows."""
        self.stop()
        for thread in self._threads:
            thread.join()
        try:
            if sync and self._log.error is None:
                self.sync()
                self._mark_end()
        finally:
            self._segments.close()

    def _mark_end(self) -> None:
        """Say that the log ends here, and not by a crash. Without the mark it is read as if it were one."""
        if not self._log.settled or not self._log.lsn:
            return
        try:
            self._segments.mark_end(self._log.lsn)
        except OSError as e:
            log.warning(
                "%s: it could not be noted that the log ends with record %d, so damage of that one would be taken for "
                "a crash: %s",
                *(self._segments.folder, self._log.lsn, e),
            )

    # ---------------------------------------------------------------------------------------------------- inside

    def _await_change(self) -> None:
        """Called with the lock, which is free meanwhile."""
        self._waiting += 1
        try:
            self._changed.wait()
        finally:
            self._waiting -= 1

    def _open_up_to(self, number: int) -> None:
        """Return when a segment has its file. Whoever needs one first makes it, and those before it, in order."""
        if number <= self._opened:  # it only grows
            return
        with self._changed:
            while self._opened < number:
                self._log.check_open()
                if self._opening:
                    self._await_change()
                else:
                    self._open(self._log.extent_of(self._opened + 1))

    def _open(self, extent: SegmentExtent) -> None:
        """Make the file of a segment; called with the lock, which is free meanwhile."""
        self._opening = True
        self._lock.release()
        error: BaseException | None = None
        try:
            self._segments.open(extent, synced=self._log.mode is not Mode.PROCESS)
        except BaseException as e:
            error = e
        self._lock.acquire()
        self._opening = False
        if error is not None:
            self._fail(error, extent.begin)
            raise error
        self._opened, self._wants_spare = extent.number, True
        self._changed.notify_all()
        self._wake.notify_all()

    def _sync(self) -> None:
        """Sync all that is written; called with the lock, which is free meanwhile."""
        # Fixed before the sync begins: what is written while it runs may not be on disk.
        upto, numbers = self._log.unsynced()
        self._syncing = True
        error: BaseException | None = None
        self._lock.release()
        try:
            for number in numbers:
                self._segments.sync(number)
        except BaseException as e:
            error = e
        self._lock.acquire()
        self._syncing = False
        if error is None:
            self._log.synced(upto)
            self._changed.notify_all()
            return
        self._fail(error)
        if not isinstance(error, Exception):
            raise error

    def _fail(self, error: BaseException, offset: int | None = None) -> None:
        """Called with the lock."""
        if self._log.error is None:
            log.error("%s: the log failed: %s: %s", self._segments.folder, type(error).__name__, error)
        self._log.failed(error, offset)
        self._changed.notify_all()
        self._wake.notify_all()

    def _tell(self) -> None:
        """Say how far the log is safe, if nobody has said so yet."""
        if self._moved is None:
            return
        with self._lock:
            position = self._log.ackable
            if position <= self._told:
                return
            self._told = position
        self._moved(position)

    # --------------------------------------------------------------------------------------------------- threads

    def _keep_spares(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._wants_spare or self._stopping)
                if self._stopping:
                    return
                self._wants_spare = False
            try:
                self._segments.make_spare()
                self.warning = ""
            except OSError as e:  # the segment in use has room; the next one is tried again when it is needed
                self.warning = f"no segment is ready to be the next one of the log: {e}"
                log.warning("%s: %s", self._segments.folder, self.warning)

    def _sync_at_times(self) -> None:
        while True:
            with self._wake:
                if self._wake.wait_for(lambda: self._stopping or self._log.error, self._interval_s):
                    return
            try:
                self.sync()
            except PushUnresolved:
                return  # it was logged where it happened; pushes are refused from now on
