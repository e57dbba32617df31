"""What a shard's log says happened after a snapshot, up to a point; read only, also while the shard's server runs."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from ...proto.errors import InvalidRequest
from .disk import Disk
from .extents import Owner
from .point import Point
from .reading import BeginsTooLate, Reading
from .records import Head, LogCorrupt, LoggedRecord
from .segment_files import SegmentFiles

BEGUN_ANEW_S = 60  # that clocks of a cluster may differ by


class NoLog(InvalidRequest):
    """There is no log of a shard behind a snapshot, or it begins too late."""


class ShardHistory:
    """A shard's log behind a snapshot.

    Args:
        folder: where the log is.
        owner: whose it is.
        after: the last record that is in the snapshot.
        taken_s: when the snapshot was taken, in seconds since 1970.
        disk: the operating system.

    Attributes:
        end: the last record before the point, as far as it has been read.
        newest_s: the latest time of a record so far, in whole seconds since 1970; 0: none says one.
        reached: whether there is a record behind the point.
    """

    def __init__(
        self, folder: str, owner: Owner, after: int, taken_s: float, disk: Disk | None = None
    ) -> None:
        self.folder, self.owner, self.after, self.taken_s = folder, owner, after, taken_s
        self.end = after
        self.newest_s = 0
        self.reached = False
        self._disk = disk or Disk()

    def until(self, point: Point) -> Generator[LoggedRecord]:
        """The records behind the snapshot and before a point, in order; each is valid until the next one.

        Raises:
            NoLog: the log is not there, begins behind the snapshot or ends before it, or is another one.
            LogCorrupt: it is damaged before the point.
            InvalidRequest: a record does not say when it was made, and the point is a time.
            OSError.
        """
        self.end, self.newest_s, self.reached = self.after, 0, False
        with closing(SegmentFiles(self.folder, self.owner, disk=self._disk)) as files:
            reading = self._reading(files)
            for record in reading.records():
                head = record.head
                self._check_same(reading.passed)
                if not point.lsns and not head.time_s:
                    raise InvalidRequest(
                        f"record {head.lsn} of the log of {self.owner} does not say when it was made, because an older "
                        "rowloom wrote it: take a snapshot that was made later, or name a record of each shard"
                    )
                # A clock that was set back: what comes later in a log was made later.
                time_s = max(self.newest_s, head.time_s)
                if not point.has(self.owner.shard, head.lsn, time_s):
                    self.reached = True
                    return
                self.end, self.newest_s = head.lsn, time_s
                yield record
                if point.ends_with(self.owner.shard, head.lsn):
                    self.reached = True
                    return
            if reading.is_behind:
                raise NoLog(
                    f"the log of {self.owner} in {self.folder} ends with record {reading.end.lsn}, before the "
                    f"snapshot, which is at record {self.after}: it has nothing of what came later"
                )

    def _check_same(self, passed: Head | None) -> None:
        """Raise NoLog if a record that the snapshot should have was made after it.

        A shard that was lost and made anew (`rowloom recover`) has a log that counts from 1 again.
        """
        if passed is not None and passed.time_s > self.taken_s + BEGUN_ANEW_S:
            raise NoLog(
                f"the log of {self.owner} in {self.folder} was begun after the snapshot, which has other records up to "
                f"{self.after}: the shard was lost and made anew. A snapshot that was taken since can be gone on from"
            )

    def _reading(self, files: SegmentFiles) -> Reading:
        if not self._disk.has_folder(self.folder):
            raise NoLog(f"there is no log of {self.owner} in {self.folder}")
        try:
            return Reading(files, self.after)
        except BeginsTooLate as e:
            raise NoLog(f"{e}: later snapshots have made it shorter") from e
        except FileNotFoundError as e:
            raise LogCorrupt(f"{e.filename} went while it was read: its shard made its log shorter") from e
