"""A local file that is written whole or not at all: the one way in which files are written that others read."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator
from pathlib import Path


class AtomicFile:
    """A file that is written under another name, `path`; `commit` renames it, so that nobody sees half of it."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part-{os.getpid()}-{threading.get_ident()}")

    def commit(self) -> None:
        """Give the file its own name. A reader, also one after a power loss, finds all of the new or all of the old.

        Raises:
            OSError: as a rule the old file stands; if syncing the folder failed, the new one does. Read it to know.
        """
        with naming(self.target), open(self.path, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self.path, self.target)
        _sync_folder(self.target.parent)

    def abort(self) -> None:
        """No file."""
        self.path.unlink(missing_ok=True)


def write_atomic(path: Path, data: str | bytes) -> None:
    """Replace a file, or make it, with its folder. Raises OSError as `AtomicFile.commit`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = AtomicFile(path)
    try:
        with naming(path):
            new.path.write_bytes(data.encode() if isinstance(data, str) else data)
        new.commit()
    except BaseException:
        new.abort()
        raise


@contextlib.contextmanager
def naming(path: Path) -> Generator[None]:
    """Errors of writing name the file: a full disk says only that it is full."""
    try:
        yield
    except OSError as e:
        if e.filename is None:
            raise OSError(e.errno, os.strerror(e.errno) if e.errno else str(e), str(path)) from e
        raise


def _sync_folder(folder: Path) -> None:
    """Make a rename in it durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
