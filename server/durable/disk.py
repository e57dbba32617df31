"""What a log asks of the operating system, as one object, so that a simulator can bring a disk of its own."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
from collections.abc import Generator, Sequence

from ...proto.framing import Buffer

MOST_BUFFERS = 1024  # that one call of the system takes (IOV_MAX)


def this_process() -> str:
    """What a lock says of who has it: those who wait for it may be on another machine."""
    return f"process {os.getpid()} of {socket.gethostname()}"


class Disk:
    """The file system of this machine. Errors are OSErrors that name the file."""

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}

    def make_folder(self, path: str) -> None:
        """A folder and those above it, durably; no error if it is there."""
        missing: list[str] = []
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(os.path.abspath(path))
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            self.sync_folder(os.path.dirname(os.path.abspath(folder)))

    def has_folder(self, path: str) -> bool:
        """Whether there is such a folder."""
        return os.path.isdir(path)

    def remove_folder(self, path: str) -> None:
        """A folder and what is in it, durably; no error if it is gone, or somebody else removes it too."""
        shutil.rmtree(path, ignore_errors=True)
        if os.path.isdir(path):
            shutil.rmtree(path)
        self.sync_folder(os.path.dirname(path))

    def names(self, folder: str) -> list[str]:
        """Names of what is in a folder."""
        return os.listdir(folder)

    def lock(self, path: str, text: str) -> int:
        """Take the lock that a file stands for, and say in it who has it. Held until the handle is closed.

        Raises:
            BlockingIOError: another one has it; the message is what that one said.
        """
        handle = self.open(path, create=True)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            said = os.pread(handle, 200, 0).decode("utf-8", "replace")
            self.close(handle)
            raise BlockingIOError(said) from None
        with contextlib.suppress(OSError):  # on a full disk the lock holds without a word
            os.ftruncate(handle, 0)
            os.pwrite(handle, text.encode(), 0)
        return handle

    def free(self, folder: str) -> int:
        """Bytes that a folder's file system has left for us."""
        found = os.statvfs(folder)
        return found.f_bavail * found.f_frsize

    def open(self, path: str, *, create: bool = False, write: bool = True) -> int:
        """A handle for reading and writing a file, or only for reading; it is no link."""
        flags = (
            (os.O_RDWR if write else os.O_RDONLY)
            | os.O_CLOEXEC
            | os.O_NOFOLLOW
            | (os.O_CREAT if create else 0)
        )
        try:
            handle = os.open(path, flags, 0o600)
        except OSError as e:
            if e.errno == errno.ELOOP and os.path.islink(path):
                raise OSError(errno.ELOOP, "it is a symbolic link, and none is followed here", path) from None
            raise
        self._paths[handle] = path
        return handle

    def close(self, handle: int) -> None:
        """Give a handle back. What the system says of writes that failed late is raised."""
        with self._naming(handle):
            self._paths.pop(handle, None)
            os.close(handle)

    def size(self, handle: int) -> int:
        """Bytes of a file."""
        with self._naming(handle):
            return os.fstat(handle).st_size

    def links(self, handle: int) -> int:
        """How many names a file has: more than one where somebody has made a hard link to it."""
        with self._naming(handle):
            return os.fstat(handle).st_nlink

    def preadv(self, handle: int, buffer: Buffer, place: int) -> int:
        """Fill a writable buffer from a place in a file, or less of it. Returns how much; 0 at the end."""
        with self._naming(handle):
            return os.preadv(handle, [buffer], place)

    def pwritev(self, handle: int, buffers: Sequence[Buffer], place: int) -> int:
        """Write at most MOST_BUFFERS buffers to a place in a file, or less of them. Returns how many bytes."""
        try:
            return os.pwritev(handle, buffers, place)
        except OSError:
            with self._naming(handle):  # around the call it would cost as much as a short write
                raise

    def write(self, handle: int, buffers: Sequence[Buffer], place: int) -> None:
        """Write all of the buffers, one after the other, to a place in a file."""
        left = [view.cast("B") for buffer in buffers if (view := memoryview(buffer)).nbytes]
        while left:
            done = self.pwritev(handle, left[:MOST_BUFFERS], place)
            if not done:
                raise OSError(errno.EIO, "a write wrote nothing", self._paths.get(handle))
            place += done
            while left and done >= len(left[0]):
                done -= len(left.pop(0))
            if done:
                left[0] = left[0][done:]

    def reserve(self, handle: int, size: int) -> bool:
        """Give a file its size and all of its blocks, unwritten; False if the file system cannot."""
        with self._naming(handle):
            try:
                os.posix_fallocate(handle, 0, size)
            except OSError as e:
                if e.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
                return False
        return True

    def fdatasync(self, handle: int) -> None:
        """Return when all of a file is on disk."""
        with self._naming(handle):
            os.fdatasync(handle)

    def rename(self, old: str, new: str) -> None:
        """Durable after `sync_folder`."""
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        """Durable after `sync_folder`."""
        os.unlink(path)

    def sync_folder(self, path: str) -> None:
        """Return when the names in a folder are on disk."""
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        except OSError as e:
            raise OSError(e.errno, e.strerror, path) from e
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _naming(self, handle: int) -> Generator[None]:
        path = self._paths.get(handle)
        try:
            yield
        except OSError as e:
            if e.filename is None and path is not None:
                raise OSError(e.errno, e.strerror, path) from e
            raise
