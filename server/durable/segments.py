"""The files of one shard's log: segments in order, and spare ones that are ready to be the next.

    lock   wal-0000000007.log   wal-0000000008.log   newest-0000000008   spare-12.log   spare-13.new (being made)
    ended-0000001234 (only while no server has it)

Why it is so. What must hold: writing a record never changes the size of a file or takes new blocks. A sync of such a
write costs half of one that appends, and a disk that is full says so while a spare is made, long before a record has no
room. So a segment is filled with zeros once, by writes: blocks that are only promised (`fallocate`) would be changed by
the first sync. A segment that is needed no more becomes a spare, old records and all: its new header has another number
and another salt, so none of them is taken for a new one.
It stays one, up to MOST_SPARES: to write over pages that the system has for a file takes half the time of new ones.
But for one they are given back where the disk has little room left: others, and snapshots, need it more.
A file with a second name (a hard link, of a backup or a tool that saves room) is never a segment again, and goes:
what is written to it would be written there, too, over records that count.
A file gets its name as a segment when its header is on disk. So each file of that name has a header, or is damaged.
Records end anywhere, so that the last segment is gone could not be seen in those before it. The name of an empty file,
`newest-N`, says which it was: made after the segment, renamed before one is removed, so it never names one too many.
A log whose server stops has no torn end, and says so: `ended-LSN` names its last record, made when all is on disk, so
that damage of the very last record is not taken for a crash. It goes, for good, before a record comes behind that one.
Rejected: memory maps: a full disk would end the process, instead of failing a call.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Callable, Sequence

from ...proto.errors import RowloomError
from ...proto.framing import Buffer
from .disk import Disk, this_process
from .extents import Header, Owner, SegmentExtent
from .segment_files import OpenSegment, SegmentFiles, ended_name

SEGMENT_BYTES = 64 << 20
LOCK = "lock"  # the file that says who has the folder
MOST_SPARES = 64  # 4 GiB; what is more is given back to the system
ROOM_FOR_EACH = 16  # segments that have room on a disk, for each spare beyond the first that is kept there
_FILL_BYTES = 1 << 20
_SPARE = re.compile(r"spare-(\d+)\.(log|new)")


class LogInUse(RowloomError):
    """Another server has the log. Two that write one log would destroy it."""


def _random_salt() -> int:
    return secrets.randbits(32)


class Segments(SegmentFiles):
    """The folder of one shard's log, to be written. Nobody else opens it for that meanwhile.

    `open` is called by one thread at a time, and so is `make_spare`; the other methods by any.

    Args:
        folder: made if it is not there.
        owner: whose log it is.
        segment_bytes: of each file.
        disk: the operating system.
        salt: makes a number below 2**32 that clients cannot guess.
        survives_power: a new file is filled with zeros, as above; else it only gets its blocks, which is enough, and
            half the work, for a log that is not synced.

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
        survives_power: bool = True,
    ) -> None:
        super().__init__(folder, owner, disk=disk)
        self.survives_power = survives_power
        self.segment_bytes = segment_bytes
        self._salt = salt
        self._lock = threading.Lock()  # of what follows, and of the files; held around no call of the system
        self._spares: list[str] = []
        self._spare_number = 0
        self._marked = 0  # what the folder says is the newest segment
        self._failed = 0  # number of the last segment whose file may be on a part of the disk that fails
        self.disk.make_folder(folder)
        self._locked = self._take()
        try:
            self._find_spares()
            self._marked = self.newest()
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<Segments {self.folder} open={len(self._files)} spares={len(self._spares)}>"

    def _take(self) -> int:
        try:
            return self.disk.lock(self._path(LOCK), this_process())
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
            if found[2] == "log" and self._is_spare(name):
                self._spares.append(name)
            else:  # it was not finished, or is of another size, or shared
                self.disk.unlink(self._path(name))

    def _is_spare(self, name: str) -> bool:
        handle = self.disk.open(self._path(name))
        try:
            return self._fits(handle)
        finally:
            self.disk.close(handle)

    def _fits(self, handle: int) -> bool:
        """Whether a file may be a segment again: it has the size of one, and no second name."""
        return self.disk.size(handle) == self.segment_bytes and self.disk.links(handle) <= 1

    def _opened(self, path: str) -> int:
        return self.disk.open(path)

    # --------------------------------------------------------------------------------------------------- as we grow

    @property
    def last(self) -> int:
        """Number of the last segment that is open; 0: none is."""
        return max(self._files, default=0)

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
            self.disk.write(handle, [header.encode()], 0)
            if synced:
                self.disk.fdatasync(handle)
            self.disk.rename(path, self.file(extent.number))
            if synced:
                self.disk.sync_folder(self.folder)
            self._mark(extent.number)
        except BaseException:
            self.disk.close(handle)
            raise
        with self._lock:
            self._files[extent.number] = OpenSegment(handle, header.salt)

    def _mark(self, number: int) -> None:
        """Say in the folder which segment is the newest."""
        old, new = [self._path(f"newest-{one:010}") for one in (self._marked, number)]
        if self._marked:
            self.disk.rename(old, new)
        else:
            self.disk.close(self.disk.open(new, create=True))
        self._marked = number

    def mark_end(self, lsn: int) -> None:
        """Say in the folder which record is the last, of a log that is closed. All of it is on disk, but for names."""
        self.sync_names()  # or a loss of power might leave the mark, and take the name of what it speaks of
        self.disk.close(self.disk.open(self._path(ended_name(lsn)), create=True))
        self.sync_names()

    def unmark_end(self) -> None:
        """Say no more which record is the last; for good after `sync_names`."""
        for lsn in self.ends():
            self.disk.unlink(self._path(ended_name(lsn)))

    def begin_anew(self, extent: SegmentExtent) -> None:
        """As `open`, when those before it have failed: none of their files is used again."""
        self.open(extent)
        self._failed = extent.number - 1

    def write(self, number: int, buffers: Sequence[Buffer], place: int) -> None:
        """Write all of the buffers to a place in a segment's file."""
        self.disk.write(self._files[number].handle, buffers, place)

    def sync(self, number: int) -> None:
        """Return when all of a segment's file is on disk."""
        self.disk.fdatasync(self._files[number].handle)

    def sync_names(self) -> None:
        """Return when the folder's names are on disk."""
        self.disk.sync_folder(self.folder)

    def write_again(self, number: int, begin: int, end: int) -> None:
        """Write the bytes between two places of a segment's file over themselves."""
        buffer = memoryview(bytearray(min(_FILL_BYTES, end - begin)))
        for place in range(begin, end, _FILL_BYTES):
            some = buffer[: end - place]
            self.write(number, [some[: self.read(number, some, place)]], place)

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
        while size == self.segment_bytes:
            with self._lock:
                if not self._spares:
                    break
                name = self._spares.pop()
            if self._is_spare(name):
                return name
            self.disk.unlink(self._path(name))  # it was linked since: spares are alike
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
                if self.survives_power or not self.disk.reserve(handle, size):
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

    def give_back(self, *, all: bool = False) -> int:
        """Spares that there is no room to keep go, but for one. Returns how many went. all: that one, too."""
        count = 0
        while True:
            with self._lock:
                if len(self._spares) <= (0 if all else max(1, self._kept_spares())):
                    return count
                name = self._spares.pop(0)
            self.disk.unlink(self._path(name))
            count += 1

    def _kept_spares(self) -> int:
        """How many spares the disk has room for."""
        return min(MOST_SPARES, 1 + self.disk.free(self.folder) // (ROOM_FOR_EACH * self.segment_bytes))

    def recycle(self, number: int, *, again: bool = True) -> None:
        """A segment is needed no more: it becomes a spare, or goes. again: else it goes."""
        file = self._files.pop(number)
        try:
            with self._lock:
                self._spare_number += 1
                name = f"spare-{self._spare_number}.log"
            fits = again and number > self._failed and self._fits(file.handle)
            if fits and len(self._spares) < self._kept_spares():
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
        """The newest segment holds nothing that counts: its file goes, with what is in it."""
        if number == self._marked:
            self._mark(number - 1)
            self.disk.sync_folder(self.folder)
        file = self._files.pop(number)
        self.disk.close(file.handle)
        self.disk.unlink(self.file(number))
        self.disk.sync_folder(self.folder)

    def close(self) -> None:
        """Close every file; another one may have the log."""
        super().close()
        self.disk.close(self._locked)

    def _fill(self, handle: int, begin: int, end: int) -> None:
        zeros = memoryview(bytes(min(_FILL_BYTES, end - begin)))
        for place in range(begin, end, _FILL_BYTES):
            self.disk.write(handle, [zeros[: end - place]], place)
