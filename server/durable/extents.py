"""Where the segments of a log stand in it: the header that each file begins with, and what is known of the end."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from crc32c import crc32c

from ...proto.errors import version_fault
from .records import LogCorrupt

HEADER_BYTES = 4096  # of a file, before its first record
VERSION = 1
_MAGIC = b"rowloomW"
# magic, crc32c of what follows, version, epoch, shard, number, first lsn, begin, bytes, salt, bytes of the cluster's id
_HEADER = struct.Struct("<8sIIQQQQQQII")
_CHECKED_FROM = 12


class SegmentExtent(NamedTuple):
    """What one segment holds of a log.

    Attributes:
        number: 1 for the first segment of a log, then one more for each.
        begin: offset of its first record: where the segment before ended.
        first_lsn: of that record.
        bytes: size of the file.
    """

    number: int
    begin: int
    first_lsn: int
    bytes: int

    def place(self, offset: int) -> int:
        """Where an offset lies in the file."""
        return HEADER_BYTES + offset - self.begin


class LogEnd(NamedTuple):
    """How far a log goes.

    Attributes:
        lsn: of the last record; 0: there is none.
        offset: where it ends.
        extents: of the segments that are there, in order.
    """

    lsn: int = 0
    offset: int = 0
    extents: tuple[SegmentExtent, ...] = ()

    def behind(self, lsn: int, segment_bytes: int) -> LogEnd:
        """As it goes on in a segment of its own behind a snapshot, which has every record up to one.

        Records between the end and there are only in the snapshot. Whoever reads the log from an earlier point comes to
        a gap, and to records behind it that were made when the log was safe beyond the gap: it is refused.
        """
        last = self.extents[-1] if self.extents else None
        number = last.number + 1 if last else 1
        begin = last.begin + last.bytes - HEADER_BYTES if last else self.offset
        extent = SegmentExtent(number, begin, lsn + 1, segment_bytes)
        return LogEnd(lsn, begin, (*self.extents, extent))


@dataclass(frozen=True)
class Owner:
    """Whose log it is: a file that strayed into another shard's folder is not read."""

    cluster_id: str
    epoch: int
    shard: int

    def __post_init__(self) -> None:
        size = len(self.cluster_id.encode())
        if size > HEADER_BYTES - _HEADER.size:
            raise ValueError(
                f"a cluster's id is at most {HEADER_BYTES - _HEADER.size} bytes long, this one is {size}"
            )

    def __str__(self) -> str:
        return f"shard {self.shard} in epoch {self.epoch} of cluster {self.cluster_id!r}"


@dataclass(frozen=True)
class Header:
    """What a segment's file begins with.

    Attributes:
        owner: whose log it is.
        extent: what the file holds of it.
        salt: where the checksums of its records start, below 2**32.
    """

    owner: Owner
    extent: SegmentExtent
    salt: int

    def encode(self) -> bytes:
        """Its HEADER_BYTES bytes."""
        name, (number, begin, first_lsn, size) = self.owner.cluster_id.encode(), self.extent
        packed = bytearray(HEADER_BYTES)
        place = self.owner.epoch, self.owner.shard, number, first_lsn, begin, size
        _HEADER.pack_into(packed, 0, _MAGIC, 0, VERSION, *place, self.salt, len(name))
        packed[_HEADER.size : _HEADER.size + len(name)] = name
        struct.pack_into("<I", packed, 8, crc32c(memoryview(packed)[_CHECKED_FROM:]))
        return bytes(packed)

    @classmethod
    def parse(cls, data: memoryview, file: str) -> Header:
        """The header at the beginning of a file. Raises LogCorrupt."""
        if len(data) < HEADER_BYTES:
            raise LogCorrupt(
                f"{file} has {len(data)} bytes: a segment begins with a header of {HEADER_BYTES}"
            )
        magic, crc, version, epoch, shard, number, first_lsn, begin, size, salt, length = _HEADER.unpack_from(
            data
        )
        if magic != _MAGIC or crc32c(data[_CHECKED_FROM:HEADER_BYTES]) != crc:
            raise LogCorrupt(f"{file}: the header is damaged: its checksum is not that of its bytes")
        if fault := version_fault(file, version, VERSION):
            raise LogCorrupt(fault)
        name = bytes(data[_HEADER.size : _HEADER.size + length]).decode()
        return cls(Owner(name, epoch, shard), SegmentExtent(number, begin, first_lsn, size), salt)
