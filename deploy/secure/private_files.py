"""Files for their user only."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Generator
from pathlib import Path

from ...proto.errors import InvalidRequest


def make_private_folder(folder: Path) -> None:
    """Make a folder that only its user may enter; one that is there stays as it is. Raises InvalidRequest."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise InvalidRequest(f"{folder} cannot be made: {e.strerror or e}") from None


def write_private(path: Path, data: bytes) -> None:
    """Write a file that nobody else may read, at no moment; it is there whole, or as it was. Raises InvalidRequest."""
    with prepared(path, data) as put:
        put()


@contextlib.contextmanager
def prepared(path: Path, data: bytes) -> Generator[Callable[[], None]]:
    """As `write_private`, in two steps: all that takes room is done at once, and the file gets its name when told to.

    Gives what tells it; without that the file stays as it was. Raises InvalidRequest, as does what it gives.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")

    def put() -> None:
        with _named(path):
            os.replace(beside, path)

    try:
        with _named(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        yield put
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _named(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as e:
        raise InvalidRequest(f"{path} cannot be written: {e.strerror or e}") from None
