"""Where a snapshot is written: a folder of this machine's disk, or of an object store.

Why it is so. What must hold: after a crash at any moment there is no snapshot, or a whole one. So everything that the
manifest names is durable before the manifest gets its name, and the name is one step: a rename on a disk, a put in an
object store. Without its manifest a folder is no snapshot.
"""

from __future__ import annotations

import os
import posixpath
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from fsspec.implementations.local import LocalFileSystem

from ...proto.framing import Buffer, joined
from ...proto.snapshots.folder import opened_url, words_of
from ...proto.snapshots.manifest import MANIFEST
from ..durable.disk import Disk

AGAIN_S = (0.1, 0.5, 2.0)  # pauses between attempts to put a file into an object store
_FINAL = (
    PermissionError,
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
)  # another attempt ends alike


class SnapshotTarget(Protocol):
    """A snapshot's folder, to be written. Errors are those of the disk or the store; nothing is committed then."""

    def put(self, name: str, buffers: Sequence[Buffer]) -> None:
        """A new file with these bytes; name: within the snapshot's folder."""
        ...

    def settle(self) -> None:
        """Return when all that this target has put is durable."""
        ...

    def commit(self, manifest: bytes) -> None:
        """Everything is durable, from all shards: make it a snapshot. When it raises, it may be one nevertheless."""
        ...


def target_of(url: str | os.PathLike[str], disk: Disk | None = None) -> SnapshotTarget:
    """The target for a snapshot's folder: a path, or a URL of any protocol that fsspec knows. Raises InvalidRequest."""
    fs, path = opened_url(os.fspath(url))
    folder = path.rstrip("/")
    if isinstance(fs, LocalFileSystem):
        return LocalTarget(folder, disk or Disk())
    return ObjectTarget(fs, folder)


class LocalTarget:
    """A folder on a disk of this machine, or on a file system that several machines share."""

    def __init__(self, folder: str, disk: Disk) -> None:
        self._folder, self._disk = folder, disk
        self._unsynced: set[str] = set()  # folders whose names are not durable yet
        disk.make_folder(folder)

    def put(self, name: str, buffers: Sequence[Buffer]) -> None:
        """As `SnapshotTarget.put`; the bytes are durable when it returns, the name is after `settle`."""
        path = posixpath.join(self._folder, name)
        folder = posixpath.dirname(path)
        if folder not in self._unsynced:
            self._disk.make_folder(folder)
            self._unsynced.add(folder)
        handle = self._disk.open(path, create=True)
        try:
            if self._disk.size(handle):
                raise FileExistsError(
                    f"{path} is there already: a snapshot is written into a folder of its own"
                )
            self._disk.write(handle, buffers, 0)
            self._disk.fdatasync(handle)
        finally:
            self._disk.close(handle)

    def settle(self) -> None:
        """As `SnapshotTarget.settle`."""
        for folder in sorted(self._unsynced):
            self._disk.sync_folder(folder)
        self._unsynced.clear()

    def commit(self, manifest: bytes) -> None:
        """As `SnapshotTarget.commit`."""
        self.settle()
        self.put(f"{MANIFEST}.tmp", [manifest])
        path = posixpath.join(self._folder, MANIFEST)
        self._disk.rename(f"{path}.tmp", path)
        self._disk.sync_folder(self._folder)
        self._unsynced.clear()


class ObjectTarget:
    """A folder of an object store: a file is there when it is complete, or not at all.

    What is there is never written over. A put whose answer was lost may have happened: then the same bytes are there,
    and all is well.

    Args:
        fs: of fsspec.
        folder: within it.
        pause: waits so many seconds before a put that failed is tried again.
    """

    def __init__(self, fs: Any, folder: str, pause: Callable[[float], object] = time.sleep) -> None:
        self._fs, self._folder, self._pause = fs, folder, pause

    def put(self, name: str, buffers: Sequence[Buffer]) -> None:
        """As `SnapshotTarget.put`."""
        path, data = posixpath.join(self._folder, name), joined(buffers)
        for again_s in (*AGAIN_S, None):
            try:
                if self._is_there(path, data):
                    return
                self._fs.pipe_file(path, data)
                return
            except FileExistsError:
                raise
            except Exception as e:  # stores raise errors of their own
                if again_s is None or isinstance(e, _FINAL):
                    raise OSError(
                        f"{self._fs.unstrip_protocol(path)} cannot be written: {words_of(e)}"
                    ) from e
                self._pause(again_s)

    def _is_there(self, path: str, data: bytes | bytearray | memoryview) -> bool:
        """Whether a file is there with these bytes. Raises FileExistsError: with others."""
        self._fs.invalidate_cache()
        try:
            size = int(self._fs.info(path)["size"])
        except FileNotFoundError:
            return False
        if size != len(data) or self._fs.cat_file(path) != bytes(data):
            raise FileExistsError(
                f"{self._fs.unstrip_protocol(path)} is there already: a snapshot is written into a folder of its own"
            )
        return True

    def settle(self) -> None:
        """As `SnapshotTarget.settle`."""

    def commit(self, manifest: bytes) -> None:
        """As `SnapshotTarget.commit`."""
        self.put(MANIFEST, [manifest])
