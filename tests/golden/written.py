"""Files that a version of rowloom wrote, kept for good: where they are, what to do when one does not fit any more."""

from __future__ import annotations

from pathlib import Path

FILES = Path(__file__).parent / "files"

CHANGED = """\
{file}: what is written for this today is not what it was when that file was made. Servers, trainers and folders of
released versions would not understand this one. So either the old bytes stay as they are. Or there is a new version:
raise {number}, go on reading what the old one wrote (its files here stay, and their tests), put the files of the new
version beside them with `python tests/golden/make.py`, and say it in CHANGELOG.md and in docs/compatibility.md."""

UNREAD = """\
{file}: what an earlier version wrote comes out differently today, or not at all. It must be read as it was meant, by
every later version, or be refused by its version number: see docs/compatibility.md."""


def golden(name: str) -> bytes:
    """The bytes of a file; name: below the folder of files, such as `wire/pull.bin`."""
    return (FILES / name).read_bytes()


def check_written(name: str, data: bytes, number: str) -> None:
    """Whether today's code writes those very bytes; number: what to raise where it must not."""
    assert data == golden(name), CHANGED.format(file=FILES / name, number=number)
