"""Files that lie somewhere else than on this machine: fetched to be read, and put in place when they are whole.

Why a copy: readers map a file, and most libraries of the formats want one of this machine. So a file is fetched whole,
into the folder for temporary files (`TMPDIR`), and an export is put in place at its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from ...proto.errors import RowloomError, Unavailable
from ...proto.snapshots.folder import opened_url, words_of
from ..urls import UnreadableFile, is_url, kind_of
from .array_files import INDEX_SUFFIX
from .beside import IDS_SUFFIX, WORDS_SUFFIX
from .room import FULL, free_bytes, in_bytes
from .tensorflow_files import checkpoint_prefix

_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@contextlib.contextmanager
def fetched(path: str | os.PathLike[str]) -> Generator[Path]:
    """The file as one of this machine, with all that belongs to it; messages of errors name what was given.

    Args:
        path: a path, which is given back; or a URL of any protocol that fsspec knows.

    Raises:
        FileNotFoundError: there is no such file.
        InvalidRequest: nothing here can read such a URL.
        Unavailable: the store does not answer.
    """
    if not is_url(path):
        yield Path(path)
        return
    url = str(path)
    fs, there = opened_url(url)
    if isinstance(fs, LocalFileSystem):
        yield Path(there)
        return
    with tempfile.TemporaryDirectory(prefix="rowloom-") as folder:
        local = Path(folder) / (posixpath.basename(there.rstrip("/")) or "root")  # as of memory://, a folder
        try:
            _fetch(fs, there.rstrip("/"), local)
        except _MISSING:
            raise FileNotFoundError(f"no file {url}") from None
        except Exception as e:  # stores raise errors of their own
            if isinstance(e, OSError) and e.errno in FULL:
                raise OSError(e.errno, _no_room_for_copy(Path(folder).parent), url) from e
            raise Unavailable(f"{url} cannot be read: {words_of(e)}") from e
        with _naming(local, url):
            yield local


def _no_room_for_copy(folder: Path) -> str:
    free = free_bytes(folder / "any")
    left = "" if free is None else f", which has {in_bytes(free)} free without it"
    return (
        f"the copy that is read finds no room in the folder for temporary files, {folder}{left}; the variable TMPDIR "
        "names another one"
    )


@contextlib.contextmanager
def placed(path: str | os.PathLike[str]) -> Generator[Path]:
    """Where to write a file, with all that belongs to it, so that it comes to its place when the block ends well.

    Args:
        path: a path, which is given back; or a URL. What lay beside it and belongs to it no more is removed.

    Raises:
        FileNotFoundError: no such folder.
        InvalidRequest: nothing here can write to such a URL, or it names no file.
        Unavailable: the store does not take it.
    """
    check_names_a_file(path)
    if not is_url(path):
        yield _in_a_folder(Path(path))
        return
    url = str(path)
    fs, there = opened_url(url)
    if isinstance(fs, LocalFileSystem):
        yield _in_a_folder(Path(there))
        return
    with tempfile.TemporaryDirectory(prefix="rowloom-") as folder:
        local = Path(folder) / _with_name(url, posixpath.basename(there))
        with _naming(local, url):
            yield local
        try:
            _put(fs, Path(folder), there)
        except Exception as e:  # stores raise errors of their own
            raise Unavailable(f"{url} cannot be written: {words_of(e)}") from e


def is_staged(path: str | os.PathLike[str]) -> bool:
    """Whether a file to be written is made in the folder for temporary files first: it is not for this machine."""
    return is_url(path) and not isinstance(opened_url(str(path))[0], LocalFileSystem)


def _with_name(path: str | os.PathLike[str], name: str) -> str:
    """The name of a file to be written. Raises UnreadableFile: it has none, as `.` and `/`."""
    if not name:
        raise a_folder(path)
    return name


def a_folder(path: str | os.PathLike[str]) -> UnreadableFile:
    """The error of a folder where a file is wanted."""
    return UnreadableFile(
        f"{path} is a folder: name a file in it, such as {posixpath.join(path, 'rows.npy')}"
    )


def check_names_a_file(path: str | os.PathLike[str]) -> None:
    """Raises UnreadableFile for what ends like a folder, as `rows/`, which a `Path` forgets."""
    if str(path).endswith("/"):
        raise a_folder(path)


def _in_a_folder(path: Path) -> Path:
    _with_name(path, path.name)
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} into")
    return path


def _fetch(fs: Any, there: str, local: Path) -> None:
    fs.invalidate_cache()  # what another process wrote counts
    kind = kind_of(fs, there)
    if kind == "directory":  # of checkpoints: the newest is meant
        local.mkdir()
        if _is_beside(fs, f"{there}/checkpoint"):
            fs.get_file(f"{there}/checkpoint", str(local / "checkpoint"))
            newest = checkpoint_prefix(local)
            for path in fs.glob(f"{there}/{newest.name}.*") if newest is not None else ():
                fs.get_file(path, str(local / posixpath.basename(path)))
        return
    names = _belonging(fs, there, kind)
    if not names:
        raise FileNotFoundError(there)
    for name in names:
        fs.get_file(posixpath.join(posixpath.dirname(there), name), str(local.with_name(name)))
    if local.name.endswith(INDEX_SUFFIX):
        with contextlib.suppress(
            ValueError, KeyError, TypeError, AttributeError, RecursionError
        ):  # its reader says what is wrong
            _fetch_parts(
                fs, posixpath.dirname(there), local, json.loads(local.read_text())["weight_map"].values()
            )


def _fetch_parts(fs: Any, folder: str, index: Path, names: Iterable[Any]) -> None:
    for name in sorted({str(name) for name in names}):
        if posixpath.basename(name) == name:
            fs.get_file(posixpath.join(folder, name), str(index.with_name(name)))


def _belonging(fs: Any, there: str, kind: str | None) -> list[str]:
    """Names of the files that are one with this one: itself, its ids, its words, the files of a checkpoint."""
    prefix = there.removesuffix(".index")
    wanted = [
        f"{prefix}.index",
        there + WORDS_SUFFIX,
        *([there + IDS_SUFFIX] if there.endswith(".npy") else []),
    ]
    found: list[str] = [path for path in wanted if path != there and _is_beside(fs, path)]
    if kind is not None:
        found.append(there)
    if f"{prefix}.index" in found:
        found += fs.glob(f"{prefix}.data-*")
    elif kind is None:
        return []
    return [posixpath.basename(path) for path in found]


def _is_beside(fs: Any, path: str) -> bool:
    try:
        return kind_of(fs, path) == "file"
    except PermissionError:  # what stores say of what is not there to those who may not list
        return False


def _put(fs: Any, folder: Path, there: str) -> None:
    """All files of a folder; the one that makes the others count comes last."""
    name = posixpath.basename(there)
    last = {name: 2, f"{name}.index": 1}
    written = sorted(os.listdir(folder), key=lambda one: (last.get(one, 0), one))
    for one in written:
        fs.put_file(str(folder / one), posixpath.join(posixpath.dirname(there), one))
    for stale in (IDS_SUFFIX, WORDS_SUFFIX):
        if name + stale not in written and _is_beside(fs, there + stale):
            fs.rm_file(there + stale)


@contextlib.contextmanager
def _naming(local: Path, url: str) -> Generator[None]:
    """Errors name the URL, not the copy of this machine."""
    try:
        yield
    except RowloomError as e:
        e.message = e.message.replace(str(local), url)
        raise
    except OSError as e:
        if e.filename is None or not os.fsdecode(e.filename).startswith(str(local)):
            raise
        raise OSError(e.errno, e.strerror, url) from e
