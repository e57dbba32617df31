"""A log that a standby goes on with: what of it the standby lacks, and what it lacks itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..shard import Shard
from ..standby.log_place import FedRecord, LogPlace
from .extents import Owner
from .reading import Reading
from .records import LogCorrupt
from .replay import Replay
from .segments import Segments


@dataclass
class Succession:
    """A standby that takes the place of its shard's server.

    Attributes:
        owner: whose log it is.
        shard: what the standby has.
        place: where that is in the log.
        make: an empty shard.
        snapshots: folders of those that the log may go on from, newest first.
    """

    owner: Owner
    shard: Shard
    place: LogPlace
    make: Callable[[], Shard]
    snapshots: Sequence[str]


def caught_up(segments: Segments, shard: Shard, place: LogPlace) -> tuple[Reading, list[FedRecord]]:
    """Do again what the log has and the standby lacks. Returns what was read, and what the log lacks.

    Raises:
        LogCorrupt: it cannot be read from there on, or is another one.
        OSError.
    """
    known = {record.lsn: record for record in place.unsafe}
    replay, reading = Replay(shard), Reading(segments, min(known, default=place.lsn + 1) - 1)
    for record in reading.records():
        lsn = record.head.lsn
        if lsn > place.lsn:
            replay.redo(record)
        elif not known[lsn].is_same(record):
            raise LogCorrupt(
                f"record {lsn} of the log of {segments.owner} is not the one that its standby was told"
            )
    if reading.damaged:  # the standby needs none of these; whoever starts anew from this log may
        raise LogCorrupt(f"records {reading.damaged} of the log of {segments.owner} are damaged")
    if reading.is_behind:
        raise LogCorrupt(
            f"the log of {segments.owner} ends with record {reading.end.lsn}, before what was safe in it"
        )
    return reading, [record for record in place.unsafe if record.lsn > reading.end.lsn]
