"""Where a snapshot is written: a folder of this machine's disk, or of an object store.

Why it is so. What must hold: after a crash at any moment there is no snapshot, or a whole one. So everything that the
manifest names is durable before the manifest gets its name, and the name is one step: a rename on a disk, a put in an
object store. Without its manifest a folder is no snapshot.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from typing import Any, Protocol

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ...proto.errors import InvalidRequest
from ...proto.framing import Buffer, joined
from ...proto.snapshots.manifest import MANIFEST
from ..durable.disk import MOST_BUFFERS, Disk


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
    text = os.fspath(url)
    try:
        fs, path = fsspec.core.url_to_fs(text)  # pyright: ignore[reportUnknownVariableType]
    except Exception as e:
        raise InvalidRequest(f"{text!r} cannot be used: {type(e).__name__}: {e}") from e
    folder = str(path).rstrip("/")  # pyright: ignore[reportUnknownArgumentType]
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
            self._write(handle, buffers)
            self._disk.fdatasync(handle)
        finally:
            self._disk.close(handle)

    def _write(self, handle: int, buffers: Sequence[Buffer]) -> None:
        left = [memoryview(buffer).cast("B") for buffer in buffers if memoryview(buffer).nbytes]
        place = 0
        while left:
            done = self._disk.pwritev(handle, left[:MOST_BUFFERS], place)
            place += done
            while left and done >= len(left[0]):
                done -= len(left.pop(0))
            if done:
                left[0] = left[0][done:]

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
    """A folder of an object store: a file is there when it is complete, or not at all."""

    def __init__(self, fs: Any, folder: str) -> None:
        self._fs, self._folder = fs, folder

    def put(self, name: str, buffers: Sequence[Buffer]) -> None:
        """As `SnapshotTarget.put`."""
        self._fs.pipe_file(posixpath.join(self._folder, name), joined(buffers))

    def settle(self) -> None:
        """As `SnapshotTarget.settle`."""

    def commit(self, manifest: bytes) -> None:
        """As `SnapshotTarget.commit`."""
        self.put(MANIFEST, [manifest])
