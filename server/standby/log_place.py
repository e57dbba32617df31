"""Where a standby stands in the log of its shard: what the log may lack when the shard's server ends.

Why it is so. A shard has one log, which its server writes, and which its standby goes on with when that has ended. So
when both have ended there is no second log that could be the one that is out of date. What must hold when the standby
takes it: log and rows are the same. Either may have more. The server may have written what the standby was not told any
more: that is done again. It may have told the standby what it did not get to write: the standby keeps all of which it
has not been told that it is written, and writes it.
Rejected: a log for each. Each push would be written twice, and the rows of a whole shard for each standby; snapshots,
which say up to which record they go, would have to say so of two logs.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from ...proto import rowloom_pb2 as pb
from ..durable.records import Kind, LoggedRecord


class FedRecord(NamedTuple):
    """A record that the standby was told of; as `Head` says.

    Attributes:
        lsn, kind, rows_after, fold: of it.
        payload: of it.
        end: where it ends in the log.
    """

    lsn: int
    kind: Kind
    payload: bytes
    rows_after: int
    fold: int
    end: int

    def is_same(self, record: LoggedRecord) -> bool:
        """Whether a record of the log is this one."""
        head = record.head
        mine = self.lsn, self.kind, self.rows_after, self.fold, len(self.payload)
        return mine == (head.lsn, head.kind, head.rows_after, head.fold, head.length)


class LogPlace:
    """How far a standby is in its shard's log.

    Args:
        lsn: of the last record whose change the standby has; 0: there is none, or no log.
        end: where that ends in the log.
        unlogged: it has changes that are not in the log, which failed.

    Attributes:
        unsafe: records that may not be in the log when its server has ended, in order.
        based: what the standby was filled with is there, whatever becomes of the log's server.
    """

    def __init__(self, lsn: int = 0, end: int = 0, *, unlogged: bool = False) -> None:
        self.lsn, self.unlogged = lsn, unlogged
        self.unsafe: deque[FedRecord] = deque()
        self.based = False
        self._filled_to = end

    @property
    def safe_lsn(self) -> int:
        """Of the last record that is there, as far as the standby was told."""
        if not self.based:
            return 0
        return self.unsafe[0].lsn - 1 if self.unsafe else self.lsn

    def came(self, record: pb.FedRecord, payload: bytes) -> None:
        """A change was done again. payload: of the record."""
        # A log that takes records again goes on behind a snapshot, which has all that was not in it.
        self.unlogged = not record.lsn
        if record.lsn:
            self.lsn = record.lsn
            self.unsafe.append(
                FedRecord(
                    *(record.lsn, Kind(record.kind), payload, record.rows_after, record.fold, record.log_end)
                )
            )

    def safe(self, position: int) -> None:
        """What lies before a position of the log is there, whatever becomes of its server."""
        self.based |= position >= self._filled_to
        while self.unsafe and self.unsafe[0].end <= position:
            self.unsafe.popleft()
