"""The files of one shard's log: segments in order, and spare ones that are ready to be the next.

    lock   wal-0000000007.log   wal-0000000008.log   spare-12.log   spare-13.new (being made)

Why it is so. What must hold: writing a record never changes the size of a file or takes new blocks. A sync of such a
write costs half of one that appends, and a disk that is full says so while a spare is made, long before a record has no
room. So a segment is filled with zeros once, by writes: blocks that are only promised (`fallocate`) would be changed by
the first sync. A segment that is needed no more becomes a spare, old records and all: its new header has another number
and another salt, so none of them is taken for a new one.
A file gets its name as a segment when its header is on disk. So each file of that name has a header, or is damaged.
Rejected: memory maps: a full disk would end the process, instead of failing a call.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...proto.errors import RowloomError
from ...proto.framing import Buffer
from .disk import MOST_BUFFERS, Disk
from .extents import HEADER_BYTES, Header, Owner, SegmentExtent
from .records import LogCorrupt

SEGMENT_BYTES = 64 << 20
LOCK = "lock"  # the file that says who has the folder
MOST_SPARES = 2  # what is more is given back to the system
_FILL_BYTES = 1 << 20
_SEGMENT = re.compile(r"wal-(\d{10})\.log")
_SPARE = re.compile(r"spare-(\d+)\.(log|new)")


class LogInUse(RowloomError):
    """Another server has the log. Two that write one log would destroy it."""


@dataclass(frozen=True)
class _File:
    handle: int
    salt: int


def _random_salt() -> int:
    return secrets.randbits(32)


class Segments:
    """The folder of one shard's log. Nobody else opens it meanwhile.

    `open` is called by one thread at a time, and so is `make_spare`; the other methods by any.

    Args:
        folder: made if it is not there.
        owner: whose log it is.
        segment_bytes: of each file.
        disk: the operating system.
        salt: makes a number below 2**32 that clients cannot guess.
        zeros: a new file is filled with zeros, as above; else it only gets its blocks, which is enough, and half the
            work, for a log that is not synced.

    Raises:
        LogInUse: another process has it.
        OSError.
    """

    def __init__(
        self,
        folder: str,
        owner: Owner,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        disk: Disk | None = None,
        salt: Callable[[], int] = _random_salt,
        zeros: bool = True,
    ) -> None:
        self._zeros = zeros
        self.folder = folder
        self.owner = owner
        self.segment_bytes = segment_bytes
        self.disk = disk or Disk()
        self._salt = salt
        self._lock = threading.Lock()  # of what follows; held around no call of the system
        self._files: dict[int, _File] = {}  # by number
        self._spares: list[str] = []
        self._spare_number = 0
        self.disk.make_folder(folder)
        self._locked = self._take()
        try:
            self._find_spares()
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<Segments {self.folder} open={len(self._files)} spares={len(self._spares)}>"

    def _take(self) -> int:
        try:
            return self.disk.lock(self._path(LOCK), f"process {os.getpid()}")
        except BlockingIOError as e:
            raise LogInUse(
                f"{self.folder} is the log of a shard server that runs: {e}. A log has one server: stop that one first"
            ) from e

    def _find_spares(self) -> None:
        for name in self.disk.names(self.folder):
            found = _SPARE.fullmatch(name)
            if found is None:
                continue
            self._spare_number = max(self._spare_number, int(found[1]))
            if found[2] == "log" and self._size(name) == self.segment_bytes:
                self._spares.append(name)
            else:  # it was not finished, or is of another size
                self.disk.unlink(self._path(name))

    def _size(self, name: str) -> int:
        handle = self.disk.open(self._path(name))
        try:
            return self.disk.size(handle)
        finally:
            self.disk.close(handle)

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def file(self, number: int) -> str:
        """Where a segment is, for messages."""
        return self._path(f"wal-{number:010}.log")

    # --------------------------------------------------------------------------------------------------- as found

    def numbers(self) -> list[int]:
        """Of the segments that are there, in order."""
        found = [_SEGMENT.fullmatch(name) for name in self.disk.names(self.folder)]
        return sorted(int(match[1]) for match in found if match)

    @property
    def last(self) -> int:
        """Number of the last segment that is open; 0: none is."""
        return max(self._files, default=0)

    def take(self, number: int) -> Header:
        """Open a segment that was there before us. Returns its header. Raises LogCorrupt, OSError."""
        file = self.file(number)
        handle = self.disk.open(file)
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
        with self._lock:
            self._files[number] = _File(handle, header.salt)
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

    # --------------------------------------------------------------------------------------------------- as we grow

    def salt(self, number: int) -> int:
        """Where the checksums of a segment's records start."""
        return self._files[number].salt

    def open(self, extent: SegmentExtent, *, synced: bool = True) -> None:
        """Make the file of a new segment, from a spare if one fits.

        Args:
            extent: what it will hold.
            synced: it has its header and its name durably when this returns. Needed by a log that survives a loss of
                power; for another one the sync would write out all that the file held in its earlier life.
        """
        header = Header(self.owner, extent, self._salt())
        path = self._path(self._spare(extent.bytes))
        handle = self.disk.open(path)
        try:
            self._write(handle, [header.encode()], 0)
            if synced:
                self.disk.fdatasync(handle)
            self.disk.rename(path, self.file(extent.number))
            if synced:
                self.disk.sync_folder(self.folder)
        except BaseException:
            self.disk.close(handle)
            raise
        with self._lock:
            self._files[extent.number] = _File(handle, header.salt)

    def write(self, number: int, buffers: Sequence[Buffer], place: int) -> None:
        """Write all of the buffers to a place in a segment's file."""
        self._write(self._files[number].handle, buffers, place)

    def sync(self, number: int) -> None:
        """Return when all of a segment's file is on disk."""
        self.disk.fdatasync(self._files[number].handle)

    def sync_names(self) -> None:
        """Return when the folder's names are on disk."""
        self.disk.sync_folder(self.folder)

    def zero(self, number: int, place: int) -> None:
        """Write zeros over a segment's file, from a place to its end."""
        self._fill(self._files[number].handle, place, self.disk.size(self._files[number].handle))

    # -------------------------------------------------------------------------------------------------------- spares

    def make_spare(self) -> None:
        """Have one file ready to be the next segment. This writes all of it, unless one is there."""
        if not self._spares:
            name = self._filled(self.segment_bytes)
            with self._lock:
                self._spares.append(name)

    def _spare(self, size: int) -> str:
        if size == self.segment_bytes:
            with self._lock:
                if self._spares:
                    return self._spares.pop(0)
        return self._filled(size)

    def _filled(self, size: int) -> str:
        """The name of a new spare file, zeros and all of it on disk."""
        with self._lock:
            self._spare_number += 1
            name = f"spare-{self._spare_number}"
        new, done = self._path(f"{name}.new"), f"{name}.log"
        try:
            handle = self.disk.open(new, create=True)
            try:
                if self._zeros or not self.disk.reserve(handle, size):
                    self._fill(handle, 0, size)
                    self.disk.fdatasync(handle)
            finally:
                self.disk.close(handle)
            self.disk.rename(new, self._path(done))
        except OSError:
            # Half a spare keeps others from the room that there is.
            if os.path.basename(new) in self.disk.names(self.folder):
                self.disk.unlink(new)
            raise
        return done

    def recycle(self, number: int) -> None:
        """A segment is needed no more: it becomes a spare, or goes."""
        file = self._files.pop(number)
        try:
            with self._lock:
                self._spare_number += 1
                name = f"spare-{self._spare_number}.log"
            if self.disk.size(file.handle) == self.segment_bytes and len(self._spares) < MOST_SPARES:
                self.disk.rename(self.file(number), self._path(name))
                # Its old name must be gone for good before the file is written to under a new one.
                self.disk.sync_folder(self.folder)
                with self._lock:
                    self._spares.append(name)
            else:
                self.disk.unlink(self.file(number))
                self.disk.sync_folder(self.folder)
        finally:
            self.disk.close(file.handle)

    def remove(self, number: int) -> None:
        """A segment holds nothing that counts: its file goes, with what is in it."""
        file = self._files.pop(number)
        self.disk.close(file.handle)
        self.disk.unlink(self.file(number))
        self.disk.sync_folder(self.folder)

    def close(self) -> None:
        """Close every file; another one may have the log."""
        files, self._files = self._files, {}
        for handle in [*(file.handle for file in files.values()), self._locked]:
            self.disk.close(handle)

    def _fill(self, handle: int, begin: int, end: int) -> None:
        zeros = memoryview(bytes(min(_FILL_BYTES, end - begin)))
        for place in range(begin, end, _FILL_BYTES):
            self._write(handle, [zeros[: end - place]], place)

    def _write(self, handle: int, buffers: Sequence[Buffer], place: int) -> None:
        left = [memoryview(b).cast("B") for b in buffers if len(b)]
        while left:
            done = self.disk.pwritev(handle, left[:MOST_BUFFERS], place)
            if not done:
                raise OSError(5, f"a write to {self.folder} wrote nothing")
            place += done
            while left and done >= len(left[0]):
                done -= len(left.pop(0))
            if done:
                left[0] = left[0][done:]
