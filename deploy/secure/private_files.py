"""Files for their user only."""

from __future__ import annotations

import os
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
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as e:
        beside.unlink(missing_ok=True)
        raise InvalidRequest(f"{path} cannot be written: {e.strerror or e}") from None
