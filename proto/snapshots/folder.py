"""A snapshot's folder in storage, to be read: on this machine, or wherever fsspec reaches."""

from __future__ import annotations

import os
import posixpath
from typing import Any, NoReturn

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from ..errors import InvalidRequest, SnapshotCorrupt, Unavailable
from .stores import lacking, why_not_opened

_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class Scratch:
    """Memory for what is read, used again for the next: reading into memory that was never touched is slow."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def take(self, size: int) -> memoryview:
        """Room for so many bytes; what was taken before is no longer valid."""
        if len(self._memory) < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size].data


class SnapshotFolder:
    """A folder and what is in it. Errors of the store are RowloomErrors.

    Args:
        url: a path, or a URL of any protocol that fsspec knows.

    Raises:
        InvalidRequest: nothing here can read such a URL.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.url = os.fspath(url).rstrip("/") or "/"
        self._fs, self._path = opened_url(self.url)
        self._local = isinstance(self._fs, LocalFileSystem)
        if self._local:
            self.url = self._path  # absolute: what lies beside "." has a name then

    def __repr__(self) -> str:
        return f"<SnapshotFolder {self.url}>"

    def file(self, name: str) -> str:
        """A file of it, for messages."""
        return f"{self.url}/{name}"

    def beside(self, name: str) -> SnapshotFolder:
        """Another folder next to this one."""
        above, slash, _ = self.url.rpartition("/")
        return SnapshotFolder(above + slash + name)

    def below(self, name: str) -> SnapshotFolder:
        """A folder in this one."""
        return SnapshotFolder(posixpath.join(self.url, name))

    def absent(self) -> str:
        """In words, why nothing can be in it: it does not exist, or is a file. Empty: neither. Raises Unavailable."""
        try:
            self._fs.invalidate_cache()
            info: dict[str, Any] = self._fs.info(self._path)
        except _MISSING:
            return "does not exist"
        except Exception as e:  # object stores raise errors of their own
            self._unavailable(self.url, e)
        return "" if info["type"] == "directory" else "is a file, and a folder is wanted"

    def folders(self) -> list[str]:
        """Names of the folders in it, sorted. Raises InvalidRequest if it is not there itself, Unavailable."""
        try:
            self._fs.invalidate_cache()
            found: list[dict[str, Any]] = self._fs.ls(self._path, detail=True)
            if [entry["name"].rstrip("/") for entry in found] == [self._path.rstrip("/")]:
                raise NotADirectoryError  # stores list a file as itself
        except _MISSING:
            raise InvalidRequest(f"{self.url} {self.absent() or 'cannot be listed'}") from None
        except Exception as e:  # object stores raise errors of their own
            self._unavailable(self.url, e)
        paths: list[str] = [entry["name"] for entry in found if entry["type"] == "directory"]
        return sorted(posixpath.basename(path.rstrip("/")) for path in paths)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None: it is not there. Raises Unavailable."""
        try:
            self._fs.invalidate_cache()
            info: dict[str, Any] = self._fs.info(f"{self._path}/{name}")
        except _MISSING:
            return None
        except Exception as e:
            self._unavailable(self.file(name), e)
        return int(info["size"]) if info["type"] == "file" else None

    def sizes(self) -> dict[str, int]:
        """Bytes of each file in it and in the folders below it, by name; one listing. Raises Unavailable."""
        try:
            self._fs.invalidate_cache()
            found: dict[str, dict[str, Any]] = self._fs.find(self._path, detail=True)
        except _MISSING:
            return {}
        except Exception as e:  # object stores raise errors of their own
            self._unavailable(self.url, e)
        skipped = len(self._path.strip("/")) + 1
        return {path.strip("/")[skipped:]: int(info["size"]) for path, info in found.items()}

    def read(self, name: str, begin: int, end: int, scratch: Scratch | None = None) -> memoryview:
        """Bytes [begin, end) of a file; scratch: memory that may be used for them.

        Raises:
            SnapshotCorrupt: it is missing, or ends before.
            Unavailable: the store does not answer, or the disk fails.
        """
        try:
            data = (
                self._read_local(name, begin, end, scratch or Scratch())
                if self._local
                else self._cat(name, begin, end)
            )
        except _MISSING:
            raise SnapshotCorrupt(f"{self.file(name)} is missing") from None
        except Exception as e:
            self._unavailable(self.file(name), e)
        if len(data) < end - begin:
            raise SnapshotCorrupt(
                f"{self.file(name)} is cut short: it ends at byte {begin + len(data)}, before {end}"
            )
        return data

    def _cat(self, name: str, begin: int, end: int) -> memoryview:
        if begin == end:  # some stores take an empty range for the whole file
            return memoryview(b"")
        return memoryview(self._fs.cat_file(f"{self._path}/{name}", start=begin, end=end))

    def _read_local(self, name: str, begin: int, end: int, scratch: Scratch) -> memoryview:
        data = scratch.take(end - begin)
        got = 0
        with open(f"{self._path}/{name}", "rb", buffering=0) as file:
            while got < len(data) and (n := os.preadv(file.fileno(), [data[got:]], begin + got)):
                got += n
        return data[:got]

    def _unavailable(self, what: str, error: Exception) -> NoReturn:
        raise Unavailable(f"{what} cannot be read: {words_of(error)}") from error


def opened_url(url: str) -> tuple[Any, str]:
    """The file system of fsspec that a path or a URL leads to, and the path in it. Raises InvalidRequest."""
    if lacks := lacking(url):
        raise InvalidRequest(lacks)
    try:
        fs, path = fsspec.core.url_to_fs(url)  # pyright: ignore[reportUnknownVariableType]
    except Exception as e:
        raise InvalidRequest(why_not_opened(url, e)) from e
    return fs, str(path)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def words_of(error: Exception) -> str:
    """An error of a file system or a store, in one line."""
    words = (
        error.strerror
        if isinstance(error, OSError) and error.strerror
        else f"{type(error).__name__}: {error}"
    )
    return " ".join(words.split())
