"""A point in time of a cluster: which records of its logs lie before it (`counting.py`: which of those count)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """Up to where records count: to a time, or to a place in each log.

    Attributes:
        before_s: those count that were made before this second, since 1970.
        lsns: not empty: those count, of each shard, up to this one.
    """

    before_s: int = 0
    lsns: tuple[int, ...] = ()

    def has(self, shard: int, lsn: int, time_s: int) -> bool:
        """Whether a record lies before it. time_s: the latest of its log so far."""
        return lsn <= self.lsns[shard] if self.lsns else time_s < self.before_s

    def ends_with(self, shard: int, lsn: int) -> bool:
        """Whether a record is the last one before it, whatever comes behind: that may be damaged."""
        return bool(self.lsns) and lsn == self.lsns[shard]
