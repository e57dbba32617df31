"""A local file that is written whole or not at all: the one way in which deploy writes what others read."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator
from pathlib import Path


@contextlib.contextmanager
def naming(path: Path) -> Generator[None]:
    """Errors of writing name the file: a full disk says only that it is full."""
    try:
        yield
    except OSError as e:
        if e.filename is None:
            raise OSError(e.errno, os.strerror(e.errno) if e.errno else str(e), str(path)) from e
        raise


def write_atomic(path: Path, text: str) -> None:
    """Replace a file. A reader, also one after a power loss, finds all of the new text or all of the old.

    Raises:
        OSError: as a rule the old text stands; if syncing the folder failed, the new one does. Read it to know.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.new")
    try:
        with naming(path), open(new, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in it durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
