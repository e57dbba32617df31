"""What is known of a log while it grows: what was reserved, written and synced, and what may be acknowledged. No I/O.

Why it is so. What must hold: what was acknowledged is read back, in order, with nothing missing before it. Records are
written beside each other, in any order, so what counts is a *prefix*: up to where everything is written, or synced. A
mark for each record would acknowledge one whose predecessor is not there yet, and the reader stops at the gap.
A log that failed stays failed: after a failed sync the kernel takes the pages for clean, so a second one that succeeds
says nothing. What was safe before the failure stays acknowledged, nothing behind it will ever be. What takes its place,
behind a snapshot of all that was applied, begins with a file of its own (`renewed`).
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from ...proto.errors import PushUnresolved, Unavailable, in_words
from .extents import HEADER_BYTES, LogEnd, SegmentExtent
from .records import MAX_PAYLOAD_BYTES, Head, Kind, size_of

_PAGE = 4096


class Mode(str, Enum):
    """What must have happened to a push before it is acknowledged."""

    MEMORY = "memory"  # nothing: it dies with the process
    PROCESS = "process"  # written: it survives the process
    INTERVAL = "interval"  # written; a loss of power takes what was not synced yet
    DISK = "disk"  # synced: it survives a loss of power


class Ticket(NamedTuple):
    """Room for one record.

    Attributes:
        head: what will stand before its payload.
        extent: the segment that it lies in.
    """

    head: Head
    extent: SegmentExtent

    @property
    def lsn(self) -> int:
        """The record's number."""
        return self.head.lsn

    @property
    def offset(self) -> int:
        """Where it begins in the log."""
        return self.head.offset

    @property
    def end(self) -> int:
        """Where it ends: the position up to which the log must be safe before it may be acknowledged."""
        return self.head.end

    @property
    def place(self) -> int:
        """Where it begins in the segment's file."""
        return self.extent.place(self.head.offset)


class Log:
    """A log that grows. Callers hold one lock around every method.

    Args:
        mode: when records may be acknowledged.
        end: what there is of it; all of that is on disk, or at least written.
        segment_bytes: size of a segment's file. A record that is longer gets a segment of its own size.
        synced: whether that is known of what there is; else it is when the log is synced the first time.

    Attributes:
        end: where the next record will begin.
        lsn: of the last record that was reserved.
        written_prefix: everything before this offset is written.
        synced_prefix: everything before this offset is on disk.
        error: why it takes no more; None while it does.
    """

    def __init__(self, mode: Mode, end: LogEnd, segment_bytes: int, *, synced: bool = True) -> None:
        if segment_bytes <= HEADER_BYTES or segment_bytes % _PAGE:
            raise ValueError(
                f"a segment has a multiple of {_PAGE} bytes, above {HEADER_BYTES}; got {segment_bytes}"
            )
        self.mode = mode
        self.end = self.written_prefix = self.synced_prefix = end.offset
        self.lsn = end.lsn
        self.error: BaseException | None = None
        self._segment_bytes = segment_bytes
        self._extents = list(end.extents)
        if not synced:
            self.synced_prefix = self.begin
        self._written: dict[int, int] = {}  # behind the prefix: offset -> end
        self._limit = 0  # what may ever be acknowledged, once there is an error

    def __repr__(self) -> str:
        state = "broken" if self.error else self.mode.value
        return f"<Log {state} lsn={self.lsn} end={self.end} written={self.written_prefix} synced={self.synced_prefix}>"

    @property
    def begin(self) -> int:
        """Where the first record begins that is still there."""
        return self._extents[0].begin if self._extents else self.end

    @property
    def ackable(self) -> int:
        """Everything before this offset may be acknowledged. It never goes back."""
        safe = self.written_prefix if self.mode is Mode.INTERVAL else self.kept
        return safe if self.error is None else min(safe, self._limit)

    @property
    def kept(self) -> int:
        """Everything before this offset is read back after any crash that the mode is meant for.

        With `interval` a loss of power may take what was acknowledged, so it is less than that.
        """
        if self.mode is Mode.MEMORY:
            return self.end
        return self.written_prefix if self.mode is Mode.PROCESS else self.synced_prefix

    @property
    def settled(self) -> bool:
        """Whether all that was reserved is on disk."""
        return self.error is None and self.synced_prefix == self.end

    # ------------------------------------------------------------------------------------------------- it grows

    def check(self) -> None:
        """Raise Unavailable if the log takes no more: to be asked before anything is applied."""
        if self.error is not None:
            raise Unavailable(
                f"this shard takes no changes, because its log failed: {self.cause}; nothing changed. It serves pulls; "
                "where there is room again, or the disk is mended, pushes go on by themselves"
            )

    def append(self, kind: Kind, length: int, rows_after: int = 0, fold: int = 0, time_s: int = 0) -> Ticket:
        """Reserve room for a record, behind all others. Whoever gets a ticket reports it written, or failed.

        Args:
            kind: of the record.
            length: of its payload, in bytes.
            rows_after: as in Head.
            fold: as in Head.
            time_s: as in Head.

        Raises:
            PushUnresolved: the log has failed since `check`. What was applied will not be in it.
        """
        if self.error is not None:
            raise PushUnresolved(f"the push is not in the log, which failed meanwhile: {self.cause}")
        if not 0 <= length <= MAX_PAYLOAD_BYTES:
            raise ValueError(f"a record holds at most {MAX_PAYLOAD_BYTES} bytes, got {length}")
        head = Head(kind, length, self.lsn + 1, self.end, self.kept, rows_after, fold, time_s=time_s)
        ticket = Ticket(head, self._room(head))
        self.lsn, self.end = head.lsn, head.end
        return ticket

    def _room(self, head: Head) -> SegmentExtent:
        """The segment for the next record, a new one if it does not fit."""
        last = self._extents[-1] if self._extents else None
        if last is not None and last.place(head.end) <= last.bytes:
            return last
        needed = HEADER_BYTES + size_of(head.length)
        size = max(self._segment_bytes, needed + -needed % _PAGE)
        extent = SegmentExtent(last.number + 1 if last else 1, head.offset, head.lsn, size)
        self._extents.append(extent)
        return extent

    # ------------------------------------------------------------------------------------- what became of it

    def written(self, ticket: Ticket) -> None:
        """A record is written, all of it."""
        self._written[ticket.offset] = ticket.end
        while self.written_prefix in self._written:
            self.written_prefix = self._written.pop(self.written_prefix)

    def synced(self, upto: int) -> None:
        """Everything before an offset is on disk; it was written before the sync began."""
        assert upto <= self.written_prefix, (
            f"synced up to {upto}, but written only up to {self.written_prefix}"
        )
        self.synced_prefix = max(self.synced_prefix, upto)

    def failed(self, error: BaseException, offset: int | None = None) -> None:
        """Nothing at or behind an offset can be written; None: nothing more can be synced. It is never acknowledged."""
        limit = self.synced_prefix if offset is None else offset
        if self.error is not None:
            limit = min(limit, self._limit)
        self._limit = max(self.ackable, limit)
        self.error = self.error or error

    def renewed(self, opened: int) -> Log:
        """A log that goes on behind this one, which failed, once a snapshot has all that was reserved in it.

        opened: number of the last segment that has its file. Not one more byte goes into those.
        """
        extents = tuple(extent for extent in self._extents if extent.number <= opened)
        there = LogEnd(self.lsn, self.end, extents)
        return Log(self.mode, there.behind(self.lsn, self._segment_bytes), self._segment_bytes)

    def check_reachable(self, position: int) -> None:
        """Raise PushUnresolved if the log will never be safe up to a position."""
        if self.error is not None and position > self._limit:
            raise PushUnresolved(
                f"the push was applied, but whether it survives a restart of the shard is not known: its log failed: "
                f"{self.cause}"
            )

    @property
    def cause(self) -> str:
        """Why it takes no more, in words; empty while it does."""
        return "" if self.error is None else in_words(self.error)

    # ---------------------------------------------------------------------------------------------- its segments

    @property
    def last(self) -> SegmentExtent:
        """The segment that the next record goes to, if it fits."""
        return self._extents[-1]

    def check_open(self) -> None:
        """Raise PushUnresolved if the log has failed: no more segments are made."""
        if self.error is not None:
            raise PushUnresolved(f"the log failed: {self.cause}")

    def extent_of(self, number: int) -> SegmentExtent:
        """What segment `number` holds."""
        return self._extents[number - self._extents[0].number]

    def unsynced(self) -> tuple[int, list[int]]:
        """What a sync has to reach: the offset up to which everything is written; and numbers of the segments."""
        upto, numbers = self.written_prefix, list[int]()
        for extent in reversed(self._extents):
            if extent.begin < upto:
                numbers.append(extent.number)
            if extent.begin <= self.synced_prefix:
                break
        return upto, numbers[::-1] if upto > self.synced_prefix else []

    def cut(self, lsn: int) -> int:
        """Forget the oldest segment, if no record behind `lsn` is in it. Returns its number; 0: none was forgotten."""
        if len(self._extents) < 2:
            return 0
        oldest, after = self._extents[:2]
        # What is left must begin with a segment that is there, and has a record.
        if after.first_lsn > lsn + 1 or after.begin >= self.kept:
            return 0
        del self._extents[0]
        return oldest.number
