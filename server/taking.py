"""A shard's part of a snapshot, from its cut to the last byte."""

from __future__ import annotations

from dataclasses import dataclass

from .cut import ShardCut


@dataclass
class Taking:
    """A snapshot that a shard is writing its part of; the shell drives it.

    Attributes:
        id: of the snapshot.
        url: its folder.
        index: of the shard.
        lsn: the last record of the shard's log that is in it; 0 without a log.
        end: where the log ended then.
        cut: the shard at that moment.
        rows: that were written so far.
        bytes: theirs.
        stored: what was written, once all of it was: StoredShard's JSON.
        error: why nothing will come of it.
    """

    id: str
    url: str
    index: int
    lsn: int
    end: int
    cut: ShardCut
    rows: int = 0
    bytes: int = 0
    stored: bytes = b""
    error: str = ""

    @property
    def under_way(self) -> bool:
        """Whether it is being written."""
        return not self.stored and not self.error
