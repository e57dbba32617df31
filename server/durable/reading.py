"""What a log holds after a crash: its records in order, and whether what follows them may be dropped.

Why it is so. What must hold: every record that was acknowledged is read, or the log is refused; none is read that is
not the next one. The log ends at the first place where the next record is not whole. That may be a crash (records that
were being written) or damage. So what lies behind it is searched for whole records of later numbers. If one of them was
made when the log was safe beyond the bad place, what stood there had been acknowledged: refused. Otherwise nothing
behind it was, and it is dropped: overwritten with zeros before the log grows again, or its whole records would later be
taken for successors of new ones.
A segment that was used before is full of whole records of its earlier life. They are told by their offset, their number
and the segment's salt; no end is marked.
Damage of the very last group of records, behind which no other was made, reads as a crash, unless the server stopped
by itself: then the folder names the last record, nothing was being written, and a log that ends before is refused. That
the file they were in is gone is seen in any case: the folder names its newest segment.
With `process`, a loss of power may look like damage. It is refused as such: acknowledged pushes are missing either way.
Damage of records that the snapshot has is passed over, where one behind it can be read: nothing of them is needed.
A log may end before the snapshot that it goes on from: it failed, and the snapshot was made to go on; or the power was
lost, and the snapshot had been synced while the log (`process`) had not. All that counts is in the snapshot, unless a
whole record of a later number is there: then records between the two are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest

import numpy as np

from .extents import LogEnd, SegmentExtent
from .records import (
    ALIGNMENT,
    HEAD_BYTES,
    OFFSET_AT,
    BadRecord,
    Head,
    LogCorrupt,
    LoggedRecord,
    parse,
    parse_head,
)
from .segment_files import SegmentFiles
from .segments import Segments

_WINDOW_BYTES = 16 << 20  # read at once: several of the longest usual records; a longer one is read whole
# Whether there is a snapshot to restore a server does not know: `status` does, and says it only then.
_PUT_BACK = (
    "Nothing was changed: put back a copy of the files, if there is one; the other ways out stand in the cluster's "
    "status"
)


class BeginsTooLate(LogCorrupt):
    """A log lacks its first records, and no snapshot has them."""


class Reading:
    """One pass over a log that nobody writes. The folder's segments are open when it is made.

    Args:
        segments: where it is.
        after: records up to this lsn are not needed: a snapshot has them.

    Attributes:
        first_lsn: of the first record that is there.
        end: how far the log goes, as far as it has been read.
        dropped: bytes behind it of records that were never finished nor acknowledged.
        is_behind: it ends before the snapshot does, and nothing says that there was more of it than the snapshot has.
        passed: the last record that was read and is not needed; None: none is there any more.
        damaged: records that cannot be read and are not needed: first and last of each place.

    Raises:
        LogCorrupt: a segment is missing or its header is damaged.
    """

    def __init__(self, segments: SegmentFiles, after: int = 0) -> None:
        self.dropped = 0
        self.is_behind = False
        self.passed: Head | None = None
        self.damaged: list[tuple[int, int]] = []
        self._segments = segments
        self._after = after
        self._done = False
        # Asked first: a log that is read while it grows has its newest segment before it says so.
        self._newest, self._ended = segments.newest(), segments.ended()
        self._synced = 0  # up to this offset the log was safe when its last record was made
        self._extents = tuple(segments.take(number).extent for number in segments.numbers())
        self._check_extents()
        self.first_lsn = self._extents[0].first_lsn if self._extents else 1
        self.end = LogEnd()

    def _check_extents(self) -> None:
        """Raise LogCorrupt if one is missing, or what the snapshot needs is."""
        for before, extent in pairwise(self._extents):
            file = self._segments.file(extent.number)
            if extent.number != before.number + 1:
                raise LogCorrupt(
                    f"{self._segments.file(before.number + 1)} is missing: the log goes on with {file}"
                )
            held = extent.begin - before.begin
            if held < 0 or extent.first_lsn < before.first_lsn or before.place(extent.begin) > before.bytes:
                raise LogCorrupt(f"{file} does not follow the segment before it: {before}, then {extent}")
        if self._newest > (self._extents[-1].number if self._extents else 0):
            raise LogCorrupt(
                f"{self._segments.file(self._newest)} is missing: it was the newest segment of the log. {_PUT_BACK}"
            )
        first = self._extents[0].first_lsn if self._extents else 1
        if first > self._after + 1:
            raise BeginsTooLate(
                f"{self._segments.folder}: the log begins with record {first}, records {self._after + 1} to "
                f"{first - 1} are missing{self._before_oldest()}"
            )
        if not self._extents and self._after:
            raise BeginsTooLate(
                f"{self._segments.folder} has no segment: the log up to record {self._after} is missing"
            )

    def _before_oldest(self) -> str:
        """In words, the file that stood before the first that is there."""
        before = self._extents[0].number - 1
        return f": {self._segments.file(before)}, which had the last of them, is not there" if before else ""

    def records(self) -> Iterator[LoggedRecord]:
        """All records behind `after`, in order; memory is bounded by the longest. Raises LogCorrupt, OSError."""
        for index, extent in enumerate(self._extents):
            following = self._extents[index + 1] if index + 1 < len(self._extents) else None
            if following is not None and following.first_lsn <= self._after + 1:
                continue  # all of it is in the snapshot
            self.end = LogEnd(extent.first_lsn - 1, extent.begin, self._extents[: index + 1])
            for record in self._of_segment(extent, following):
                self.end = LogEnd(record.head.lsn, record.head.end, self.end.extents)
                self._synced = record.head.prefix
                if record.head.lsn > self._after:
                    yield record
                else:
                    self.passed = record.head
            if following is not None and following.begin != self.end.offset:
                break  # it ends within a segment
            if following is not None and following.first_lsn != self.end.lsn + 1:
                raise LogCorrupt(
                    f"{self._segments.file(following.number)} begins with record {following.first_lsn}, the segment "
                    f"before it ends with record {self.end.lsn}"
                )
        self.is_behind = self.end.lsn < self._after
        if self._lacks(self.end.lsn + 1):
            raise LogCorrupt(
                f"{self._segments.folder}: the log ends with record {self.end.lsn}, and its server stopped after "
                f"record {self._ended}: what lies between is missing. {_PUT_BACK}"
            )
        self._done = True

    def _lacks(self, lsn: int) -> bool:
        """Whether a record that cannot be read was there when the server stopped, and no snapshot has all of that."""
        return lsn <= self._ended and self._after < self._ended

    def _of_segment(self, extent: SegmentExtent, following: SegmentExtent | None) -> Iterator[LoggedRecord]:
        window = _Window(self._segments, extent)
        size = extent.place(following.begin) if following else extent.bytes
        offset, lsn, salt = extent.begin, extent.first_lsn, self._segments.salt(extent.number)
        while extent.place(offset) < size if following else extent.place(offset) + HEAD_BYTES <= size:
            place = extent.place(offset)
            head: Head | None = None
            try:
                head = parse_head(window.at(place, min(HEAD_BYTES, size - place)))
                _check_next(head, offset, lsn)
                record = parse(window.at(place, min(HEAD_BYTES + head.length, size - place)), salt)
                if extent.place(head.end) > size:
                    raise BadRecord(f"it reaches beyond the end of the segment, to {extent.place(head.end)}")
            except BadRecord as e:
                later = self._next_in_snapshot(extent, offset, lsn)
                if later is None:
                    self._judge(offset, lsn - 1, str(e), head)
                    return
                self.damaged.append((lsn, later.lsn - 1))
                offset, lsn = later.offset, later.lsn
                continue
            yield record
            offset, lsn = record.head.end, lsn + 1

    def _next_in_snapshot(self, extent: SegmentExtent, bad: int, lsn: int) -> Head | None:
        """The record to go on with behind a bad one, if the snapshot has all between them; None: there is none.

        lsn: of the bad one.
        """
        # The next one that is needed, too, but only if one before it tells whose log this is: see `passed`.
        limit = self._after + (self.passed is not None)
        if lsn > self._after:
            return None
        found = next(self._later(extent, bad, lsn), None)
        return found if found is not None and found.lsn <= limit else None

    def _judge(self, bad: int, last: int, why: str, head: Head | None) -> None:
        """Decide what the first bad place means: the end of the log, or that it was damaged. Raises LogCorrupt."""
        extents = self._extents[len(self.end.extents) - 1 :]
        damaged = (
            f"{self._segments.file(extents[0].number)}: record {last + 1} at offset {bad} (byte "
            f"{extents[0].place(bad)} of the file) is damaged: {why}. It had been acknowledged:"
        )
        end = bad
        if head is not None and (head.offset, head.lsn) == (bad, last + 1):
            end = head.end if extents[0].place(head.end) <= extents[0].bytes else bad + HEAD_BYTES
        for extent in extents:
            for later in self._later(extent, max(bad, extent.begin), last):
                if later.prefix > bad and later.lsn > self._after:
                    raise LogCorrupt(
                        f"{damaged} record {later.lsn} at byte {extent.place(later.offset)} of "
                        f"{self._segments.file(extent.number)} was made when the log was safe up to offset "
                        f"{later.prefix}. {_PUT_BACK}"
                    )
                end = max(end, later.end)
        if self._lacks(last + 1):
            raise LogCorrupt(
                f"{damaged} the log was whole up to record {self._ended} when its server stopped. {_PUT_BACK}"
            )
        self.dropped = end - bad

    def _later(self, extent: SegmentExtent, begin: int, last: int) -> Iterator[Head]:
        """Heads of whole records of a segment from an offset on whose lsn is above `last`."""
        window, salt = _Window(self._segments, extent), self._segments.salt(extent.number)
        end = begin
        for offset in _candidates(self._segments, extent, begin):
            if offset < end:
                continue  # within a record
            try:
                head = parse_head(window.at(extent.place(offset), HEAD_BYTES))
                if head.lsn <= last or extent.place(head.end) > extent.bytes:
                    continue
                parse(window.at(extent.place(offset), HEAD_BYTES + head.length), salt)
            except BadRecord:
                continue
            yield head
            end = head.end

    @property
    def unrepaired(self) -> LogEnd:
        """Where a log ends whose repair failed: it goes on behind a snapshot of all that its shard has."""
        assert self._done, "a log is read to its end before that is known"
        if not self.is_behind:
            return self.end
        return LogEnd(self._after, self.end.offset, self._kept_before_snapshot())

    def _kept_before_snapshot(self) -> tuple[SegmentExtent, ...]:
        return tuple(extent for extent in self._extents if extent.first_lsn <= self._after + 1)

    def repair(self, *, synced: bool = True) -> LogEnd:
        """Drop what was never acknowledged, and make what was read durable. Returns where the log goes on.

        It may be interrupted anywhere, and done again.
        synced: else what was written need not be on disk when this returns.
        """
        assert self._done, "a log is read to its end before it is repaired"
        segments, kept = self._writable, self.end.extents
        if self.is_behind:
            return self._go_on_behind()
        for extent in reversed(self._extents[len(kept) :]):
            segments.remove(extent.number)
        if segments.survives_power:
            self._write_again(kept)
        if kept and (self.dropped or segments.survives_power):
            segments.zero(kept[-1].number, kept[-1].place(self.end.offset))
        segments.unmark_end()
        for extent in kept if synced else ():
            # A process that was killed may have left it in the system's memory only.
            segments.sync(extent.number)
        segments.sync_names()
        return self.end

    def _go_on_behind(self) -> LogEnd:
        """The snapshot has more than the log: that goes on behind it, in a file of its own."""
        self._writable.unmark_end()  # for good with the names of the new file
        kept = self._kept_before_snapshot()
        for extent in reversed(self._extents[len(kept) :]):
            self._writable.remove(extent.number)
        end = self.end._replace(extents=kept).behind(self._after, self._writable.segment_bytes)
        self._writable.begin_anew(end.extents[-1])
        return end

    @property
    def _writable(self) -> Segments:
        assert isinstance(self._segments, Segments), "these files were opened to be read"
        return self._segments

    def _write_again(self, kept: Sequence[SegmentExtent]) -> None:
        """Write what no sync is known to have reached over itself.

        A sync of an earlier recovery may have failed: the system then shows what was written and takes it for being on
        disk, and no later sync writes it. Once, records that were acknowledged after that were gone with the power.
        """
        for extent, following in zip_longest(kept, kept[1:]):
            begin = max(extent.begin, self._synced)
            end = following.begin if following else self.end.offset
            if begin < end:
                self._writable.write_again(extent.number, extent.place(begin), extent.place(end))


def _check_next(head: Head, offset: int, lsn: int) -> None:
    if head.offset != offset:
        raise BadRecord(f"it says that its offset is {head.offset}")
    if head.lsn != lsn:
        raise BadRecord(f"it says that it is record {head.lsn}")


def _candidates(segments: SegmentFiles, extent: SegmentExtent, begin: int) -> Iterator[int]:
    """Offsets of a segment from one on where a record may begin: which say of themselves that they are this offset."""
    step = _WINDOW_BYTES
    for place in range(extent.place(begin), extent.bytes, step):
        # A head may lie across the end of a window.
        words = _words(segments, extent, place, min(step + HEAD_BYTES, extent.bytes - place))
        words = words[OFFSET_AT // ALIGNMENT :][: step // ALIGNMENT]
        offsets = np.arange(len(words), dtype=np.uint64) * np.uint64(ALIGNMENT)
        offsets += np.uint64(extent.begin + place - extent.place(extent.begin))
        yield from offsets[words == offsets].tolist()


def _words(segments: SegmentFiles, extent: SegmentExtent, place: int, count: int) -> np.ndarray:
    buffer = np.zeros(count - count % ALIGNMENT, np.uint8)
    segments.read(extent.number, buffer.data, place)
    return buffer.view("<u8")


class _Window:
    """Bytes of a segment's file, read ahead."""

    def __init__(self, segments: SegmentFiles, extent: SegmentExtent) -> None:
        self._segments = segments
        self._extent = extent
        self._begin = 0
        self._bytes = memoryview(b"")

    def at(self, place: int, count: int) -> memoryview:
        """So many bytes from a place of the file. What was handed out before stays as it is."""
        begin = place - self._begin
        if begin < 0 or begin + count > len(self._bytes):
            size = min(max(count, _WINDOW_BYTES), self._extent.bytes - place)
            # Of numpy, which asks for huge pages: fresh memory costs as much as reading does.
            buffer = np.empty(size, np.uint8).data
            self._bytes = buffer[: self._segments.read(self._extent.number, buffer, place)]
            self._begin, begin = place, 0
        return self._bytes[begin : begin + count]
