"""A small file system of its own, that a test fills up."""

import contextlib
import os
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "256m") -> Generator[Path]:
    """A file system in memory on a folder, which is made; skips where none can be mounted."""
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root mounts file systems")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path, leaving: int = 0) -> Path:
    """A file that takes all the room there is, to the last block. leaving: but for so many bytes."""
    file = disk / "of-somebody-else"
    with contextlib.suppress(OSError), open(file, "ab", buffering=0) as out:
        for piece in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while True:
                    out.write(bytes(piece))
    if leaving:
        os.truncate(file, file.stat().st_size - leaving)
    return file


def free(disk: Path) -> int:
    """Bytes that are free."""
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize
