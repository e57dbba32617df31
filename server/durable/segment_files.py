"""The files of one shard's log, to be read. They are opened for reading only, and no lock is taken.

Why it is so. Who restores to a point in time reads the logs of a cluster that may still run. What changes meanwhile
lies behind the records that are wanted, but for a file that is used again: it has another salt then, so its records are
none any more, and the reader, who finds later ones in other files, refuses.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from .disk import Disk
from .extents import HEADER_BYTES, Header, Owner
from .records import LogCorrupt

_SEGMENT = re.compile(r"wal-(\d{10})\.log")
_NEWEST = re.compile(r"newest-(\d{10})")
_ENDED = re.compile(r"ended-(\d{10}|[1-9]\d{10,})")


def ended_name(lsn: int) -> str:
    """Name of the file that says which record is the last of a log whose server stopped."""
    return f"ended-{lsn:010}"


@dataclass(frozen=True)
class OpenSegment:
    """A segment's file that is open, and where the checksums of its records start."""

    handle: int
    salt: int


class SegmentFiles:
    """The folder of one shard's log. `take` is called by one thread at a time; the other methods by any.

    Args:
        folder: which is there.
        owner: whose log it is.
        disk: the operating system.
    """

    def __init__(self, folder: str, owner: Owner, *, disk: Disk | None = None) -> None:
        self.folder = folder
        self.owner = owner
        self.disk = disk or Disk()
        self._files: dict[int, OpenSegment] = {}  # by number

    def _opened(self, path: str) -> int:
        return self.disk.open(path, write=False)

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def file(self, number: int) -> str:
        """Where a segment is, for messages."""
        return self._path(f"wal-{number:010}.log")

    def numbers(self) -> list[int]:
        """Of the segments that are there, in order."""
        return self._numbers_in(_SEGMENT)

    def newest(self) -> int:
        """Number of the last segment that was made, by the folder's word: also if its file is gone; 0: it has none."""
        return max(self._numbers_in(_NEWEST), default=0)

    def ended(self) -> int:
        """Number of the last record of a log whose server stopped, by the folder's word; 0: it has none.

        Every record up to that one is on disk: nothing was under way when the server stopped.
        """
        return max(self.ends(), default=0)

    def ends(self) -> list[int]:
        """What all such words say: one, unless somebody put more there."""
        return self._numbers_in(_ENDED)

    def _numbers_in(self, pattern: re.Pattern[str]) -> list[int]:
        found = [pattern.fullmatch(name) for name in self.disk.names(self.folder)]
        return sorted(int(match[1]) for match in found if match)

    def take(self, number: int) -> Header:
        """Open a segment that was there before us. Returns its header. Raises LogCorrupt, OSError."""
        file = self.file(number)
        handle = self._opened(file)
        try:
            data = memoryview(bytearray(HEADER_BYTES))
            header = Header.parse(data[: self.disk.preadv(handle, data, 0)], file)
            size = self.disk.size(handle)
            if header.owner != self.owner:
                raise LogCorrupt(f"{file} is of {header.owner}, this is the log of {self.owner}")
            if header.extent.number != number or header.extent.bytes != size:
                raise LogCorrupt(
                    f"{file}: the header says number {header.extent.number} and {header.extent.bytes} bytes, the file "
                    f"is number {number} and has {size}"
                )
        except BaseException:
            self.disk.close(handle)
            raise
        self._files[number] = OpenSegment(handle, header.salt)
        return header

    def read(self, number: int, buffer: memoryview, place: int) -> int:
        """Fill a buffer from a place in a segment's file. Returns how many bytes there were."""
        done = 0
        while done < len(buffer):
            got = self.disk.preadv(self._files[number].handle, buffer[done:], place + done)
            if not got:
                break
            done += got
        return done

    def salt(self, number: int) -> int:
        """Where the checksums of a segment's records start."""
        return self._files[number].salt

    def close(self) -> None:
        """Close every file."""
        files, self._files = self._files, {}
        for file in files.values():
            self.disk.close(file.handle)
