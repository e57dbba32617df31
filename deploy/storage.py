"""The commit point: `layout.json` under a storage URL.

What the coordinator believes and what storage holds must be the same, or a coordinator that starts anew would bring
back a layout whose rows are gone. A write that fails may still have happened: the rename was done and the sync after it
failed, or the answer of an object store got lost. So an error is never taken for "not committed": storage is read, and
what it holds is true.
A shard whose process has ended serves nothing until a layout says where its new server is. So a disk without a free
block must take one more layout. A reserve lies beside it for that, which is written over in place and gets its name:
that takes no block, and a crash leaves the old layout or the new one, as with any other write.
A folder may be unmounted, or moved away, under a cluster that runs: its processes have files open there and do not
notice. What is then made anew at its path is hidden, or taken for the truth, when the folder is back. So nothing is
written where this cluster's state was and is not: to make the folder is for the first commit only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from ..proto.atomic_file import AtomicFile, naming, write_atomic
from ..proto.errors import InvalidRequest, RowloomError, Unavailable
from ..proto.snapshots.checked_json import MAX_JSON_BYTES
from ..proto.snapshots.folder import opened_url
from .config.faults import InvalidConfig
from .control.effects import NotStored
from .control.state import ClusterState
from .launch.keeping import has_logs, snapshots_of

log = logging.getLogger(__name__)
_MEND = "nothing was changed: it is the `storage` of the deploy config; mend it, and try again"
_FILE = "layout.json"
DOUBT_S = 0.5  # between two looks at storage that does not say what it holds
_FULL = (errno.ENOSPC, errno.EDQUOT)
_GROWS_BYTES = 1 << 16  # by which the next layout may be longer than this one


class _Reserve:
    """Room for one more layout, on a disk that may have none when it is needed.

    Args:
        target: the file of the layout.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self.path = target.with_name(f"{target.name}.reserve")

    def keep(self, size: int) -> None:
        """Have it ready beside a layout of so many bytes. No error: without it a full disk takes no layout."""
        missing = size + 2 * _GROWS_BYTES - self._bytes()
        if missing <= _GROWS_BYTES:
            return
        with contextlib.suppress(OSError), open(self.path, "ab") as file:
            file.write(bytes(missing))
            file.flush()
            os.fsync(file.fileno())  # else the disk may have promised the blocks only

    def write(self, text: str) -> None:
        """Let it become the layout. Raises OSError: as `AtomicFile.commit`, or it is too small or not there."""
        data = text.encode()
        if self._bytes() < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._target))
        new = AtomicFile(self._target)
        new.path = self.path
        with naming(self._target), open(self.path, "r+b") as file:
            file.write(data)
            file.truncate()
        new.commit()

    def _bytes(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return self.path.stat().st_size
        return 0

    def remove(self) -> None:
        """There is none any more."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


class StateFile:
    """A cluster's state in storage. Its errors are RowloomErrors, whatever the store raises.

    Args:
        storage: URL of a folder, of any protocol that fsspec knows; none: the state is kept nowhere.

    Raises:
        InvalidConfig: nothing here can read such a URL.
    """

    def __init__(self, storage: str | None) -> None:
        self._url = storage.rstrip("/") + f"/{_FILE}" if storage else ""
        self._fs, self._path = _opened(self._url) if self._url else (None, "")
        self._reserve = _Reserve(Path(self._path)) if isinstance(self._fs, LocalFileSystem) else None
        # Id of the cluster whose state is there, if it has one yet; None: no state is.
        self._known: str | None = None
        self._mine = b""  # what was last read or written here: no need to read again what that means

    @property
    def url(self) -> str:
        """Of the file; empty: it is kept nowhere."""
        return self._url

    def __repr__(self) -> str:
        return f"<StateFile {self._url or 'nowhere'}>"

    def load(self) -> ClusterState | None:
        """The state, or None if there is none yet.

        Raises:
            Unavailable: storage does not answer.
            BadState: the file is damaged, or of a newer version.
        """
        try:
            held = self._read()
        except Exception as e:  # object stores raise errors of their own
            raise self._unavailable("cannot be read", e) from e
        if held is None:
            return None
        state = _parsed(held, f"the state file {self._url}")
        self._known, self._mine = _id_of(state), held
        return self._at_home(state)

    def _at_home(self, state: ClusterState) -> ClusterState:
        """The same, where snapshots that lie in this storage are those of the cluster.

        The storage may be a copy, or have been moved: those at the place that it had before are another's now, and
        are not to be removed.
        """
        home, place = self._url.removesuffix(f"/{_FILE}"), self._path.removesuffix(f"/{_FILE}")
        snapshots = [
            dataclasses.replace(one, url=snapshots_of(home) + f"/{one.id}")
            if not one.url.startswith(f"{home}/") and self._is_there(f"{snapshots_of(place)}/{one.id}")
            else one
            for one in state.snapshots
        ]
        return dataclasses.replace(state, snapshots=snapshots)

    def _is_there(self, path: str) -> bool:
        try:
            return self._fs is not None and bool(self._fs.exists(path))
        except Exception as e:  # object stores raise errors of their own
            raise self._unavailable("cannot be read", e) from e

    def commit(self, state: ClusterState, pause: Callable[[float], object] = time.sleep) -> None:
        """Write the state. When it returns, the new state is what storage holds; when it raises, the old one is.

        While storage answers neither writes nor reads, nobody can know which: this waits until one can.

        Args:
            state: to be written.
            pause: waits so many seconds; true ends the waiting, because the cluster ends too.

        Raises:
            NotStored: nothing was committed.
            Unavailable: the waiting was ended, and it is not known.
        """
        if self._fs is None:
            return
        text = state.to_json()
        data = text.encode()
        self.check_there()
        try:
            self._write(text)
        except Exception as e:
            self._settle(data, e, pause)
        self._known, self._mine = _id_of(state), data

    def check_there(self) -> None:
        """Ask storage for an answer before something is made there: if there is none, surely nothing was.

        Raises:
            NotStored: it does not answer, or is not where it was. An object store cannot be elsewhere.
        """
        try:
            held = self._read()
        except Exception as e:
            raise NotStored(f"{self._says('cannot be used', e)}; {_MEND}") from e
        if self._reserve is None or self._known is None or held == self._mine:
            return
        folder = os.path.dirname(self._path)
        if held is not None:
            other = _other(held, self._known)
            found = f"{folder} has the layout of another cluster, {other}" if other else ""
        elif self._known and has_logs(
            folder, self._known
        ):  # only the file is gone: the next commit writes it
            found = ""
        else:
            found = f"the cluster's layout is not in {folder}"
        if found:
            raise not_there(found)

    def _settle(self, wanted: bytes, cause: Exception, pause: Callable[[float], object]) -> None:
        """After a failed write: return if storage holds what was written, raise if it holds something else."""
        while True:
            try:
                held = self._read()
            except Exception as e:
                log.warning("%s: not known whether a layout was committed: %s", self._url, _words(e))
            else:
                if held == wanted:
                    log.warning("%s: committed, though writing it said: %s", self._url, _words(cause))
                    return
                raise NotStored(f"{self._says('cannot be written', cause)}; {_MEND}") from cause
            if pause(DOUBT_S):
                raise self._unavailable("may or may not have taken the last change", cause) from cause

    def clear(self) -> None:
        """Forget the state: the cluster is down. Raises Unavailable."""
        if self._fs is None:
            return
        try:
            self._fs.rm_file(self._path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except Exception as e:
            raise self._unavailable("cannot be removed", e) from e
        self._known, self._mine = None, b""
        if self._reserve is not None:
            self._reserve.remove()

    def _read(self) -> bytes | None:
        if self._fs is None:
            return None
        try:
            self._fs.invalidate_cache()
            if self._reserve is not None and (size := os.stat(self._path).st_size) > MAX_JSON_BYTES:
                raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than any cluster writes there")
            return self._fs.cat_file(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _write(self, text: str) -> None:
        assert self._fs is not None
        if self._reserve is None:  # object stores show a file when it is complete, or not at all
            self._fs.pipe_file(self._path, text.encode())
            return
        try:
            write_atomic(Path(self._path), text)
        except OSError as e:
            if e.errno not in _FULL:
                raise
            self._reserve.write(text)
            log.warning("%s: its disk is full: the room that is kept for one more layout was used", self._url)
        self._reserve.keep(len(text.encode()))

    def _unavailable(self, what: str, error: Exception) -> Unavailable:
        return Unavailable(self._says(what, error))

    def _says(self, what: str, error: Exception) -> str:
        file = file_in(os.path.dirname(self._path)) if isinstance(self._fs, LocalFileSystem) else ""
        return f"storage {self._url} {what}: {f'{file} is a file, and a folder is wanted' if file else _words(error)}"


def not_there(found: str) -> NotStored:
    """Of a storage that is not where it was. found: what is missing there, in words."""
    return NotStored(
        f"the storage is not where it was: {found}. Was it moved, or is it not mounted? Nothing was changed, and the "
        "cluster serves on: put it back, and try again"
    )


def _parsed(held: bytes, url: str) -> ClusterState:
    return ClusterState.from_json(held.decode("utf-8", "replace"), url)


def _id_of(state: ClusterState) -> str:
    return state.layout.cluster_id if state.layout is not None else ""


def _other(held: bytes, known: str) -> str:
    """The cluster whose state that is; empty: it is the known one's, or damaged, which the next commit mends."""
    with contextlib.suppress(RowloomError):
        state = _parsed(held, _FILE)
        return "" if _id_of(state) == known else _id_of(state) or state.name
    return ""


def file_in(folder: str | os.PathLike[str]) -> str:
    """What of the path of a folder is a file, so that the folder cannot be there; empty: nothing."""
    path = Path(folder)
    for there in (path, *path.parents):
        with contextlib.suppress(OSError):
            mode = os.stat(there).st_mode
            return "" if stat.S_ISDIR(mode) else str(there)
    return ""


def _opened(url: str) -> tuple[Any, str]:
    try:
        return opened_url(url)
    except InvalidRequest as e:
        raise InvalidConfig(f"storage: {e}") from e


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}"
