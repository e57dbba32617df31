"""Text files of this machine, or wherever fsspec reaches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..proto.atomic_file import write_atomic
from ..proto.errors import InvalidRequest, Unavailable
from ..proto.snapshots.folder import opened_url, words_of


class UnreadableFile(InvalidRequest):
    """A file is damaged, cut short, or of another format than is meant. Nothing changed."""

    exit_code = 2  # of the command line: wrong use


def is_url(path: Any) -> bool:
    """Whether it is a URL, and no path. A `Path` is none: it has lost a slash of `s3://`."""
    return isinstance(path, str) and "://" in path


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is something. Raises InvalidRequest, Unavailable."""
    if not is_url(path):
        return Path(path).exists()
    fs, there = opened_url(str(path))
    try:
        fs.invalidate_cache()
        return kind_of(fs, there) is not None
    except Exception as e:  # stores raise errors of their own
        raise Unavailable(f"{path} cannot be read: {words_of(e)}") from e


def kind_of(fs: Any, there: str) -> str | None:
    """What there is, "file" or "directory"; None: nothing. Raises what the store raises, which `fs.exists` hides."""
    try:
        return str(fs.info(there)["type"])
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_text(path: str | os.PathLike[str]) -> str:
    """A file of UTF-8, without the byte order mark that some editors begin it with.

    Raises:
        FileNotFoundError: no such file.
        InvalidRequest: the text is no UTF-8; or nothing here can read such a URL.
        Unavailable: the store does not answer.
    """
    data = _read(str(path)) if is_url(path) else Path(path).read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise UnreadableFile(f"{path}:{line} is no UTF-8 ({e.reason}): save the file as UTF-8") from None


def _read(url: str) -> bytes:
    fs, there = opened_url(url)
    try:
        fs.invalidate_cache()
        return fs.cat_file(there)
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {url}") from None
    except Exception as e:  # stores raise errors of their own
        raise Unavailable(f"{url} cannot be read: {words_of(e)}") from e


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file, whole or not at all. Raises OSError, InvalidRequest, Unavailable."""
    if not is_url(path):
        write_atomic(Path(path), text)
        return
    fs, there = opened_url(str(path))
    try:
        fs.pipe_file(there, text.encode())
    except Exception as e:  # stores raise errors of their own
        raise Unavailable(f"{path} cannot be written: {words_of(e)}") from e
