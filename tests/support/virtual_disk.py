"""A disk in memory: what a loss of power leaves of it, what fails, and what happens while a call of it runs."""

from __future__ import annotations

import contextlib
import errno
import itertools
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from rowloom.server.durable.disk import Disk

Names = dict[str, "Inode"]
Change = Callable[[Names], object]


class Crash(BaseException):
    """The process ends here; no handler of errors may go on."""


@dataclass
class Inode:
    live: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes]] = field(default_factory=list)  # writes, in order

    def write(self, place: int, data: bytes) -> None:
        put(self.live, place, data)
        self.unsynced.append((place, data))

    def lose_power(self, rng: random.Random) -> None:
        """Of writes that were not synced any is there, each torn anywhere."""
        for place, data in self.unsynced:
            begin = rng.choice([0, rng.randint(0, len(data))])
            end = rng.choice([0, len(data), rng.randint(0, len(data))])
            if begin < end:
                put(self.durable, place + begin, data[begin:end])
        self.live, self.unsynced = bytearray(self.durable), []


def put(content: bytearray, place: int, data: bytes) -> None:
    if len(content) < place:
        content.extend(bytes(place - len(content)))
    content[place : place + len(data)] = data


def folder_of(path: str) -> str:
    return path.rsplit("/", 1)[0]


def _within(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")


class VirtualDisk(Disk):
    """Everything that a log asks of the system, as one process sees it: files are shared with `beside` ones.

    Folders come, go and are renamed durably; the names of files in them wait for `sync_folder`.

    Attributes:
        calls: (method, file name) of each call that changes something, in order.
        before: is asked before each of them, with method and name: may raise; a number: only that many bytes of the
            write are done, and then the process ends.
        room: bytes that it says it has free.
        during_sync: is called between the moment that a sync takes what there is, and its return.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names_live: Names = {}
        self.names_durable: Names = {}
        self.renames: list[tuple[str, Change]] = []  # folder, what is not durable yet, in order
        self.folders: set[str] = set()
        self.locked: dict[str, int] = {}
        self._handles = itertools.count(1)
        self.room = 1 << 40
        self._begin()

    def _begin(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.before: Callable[[str, str], int | None] = lambda method, name: None
        self.during_sync: Callable[[], object] = lambda: None
        self.open_files: dict[int, tuple[str, Inode]] = {}
        self._later: list[Callable[[], None]] | None = None

    def beside(self) -> VirtualDisk:
        """The same disk, as another process sees it."""
        other = VirtualDisk()
        other.names_live, other.names_durable, other.renames = (
            self.names_live,
            self.names_durable,
            self.renames,
        )
        other.folders, other.locked, other._handles = self.folders, self.locked, self._handles
        return other

    def _asked(self, method: str, path: str) -> int | None:
        name = path.rsplit("/", 1)[-1]
        self.calls.append((method, name))
        return self.before(method, name)

    # ------------------------------------------------------------------------------------------------------ folders

    def make_folder(self, path: str) -> None:
        while path and path not in self.folders:
            self.folders.add(path)
            path = folder_of(path)

    def free(self, folder: str) -> int:
        return self.room

    def has_folder(self, path: str) -> bool:
        return path in self.folders

    def remove_folder(self, path: str) -> None:
        self._asked("remove_folder", path)
        self._without(path)
        self.folders -= {path, *(one for one in self.folders if _within(one, path))}
        for one in [one for one in self.locked if _within(one, path)]:
            del self.locked[one]

    def _without(self, folder: str) -> None:
        """No name of a file within a folder is left."""
        for names in (self.names_live, self.names_durable):
            for path in [path for path in names if _within(path, folder)]:
                del names[path]
        self.renames[:] = [pair for pair in self.renames if not _within(f"{pair[0]}/", folder)]

    def _rename_folder(self, old: str, new: str) -> None:
        self.sync_folders(old)
        for names in (self.names_live, self.names_durable):
            for path in [path for path in names if _within(path, old)]:
                names[new + path[len(old) :]] = names.pop(path)
        for one in [one for one in self.folders if one == old or _within(one, old)]:
            self.folders.remove(one)
            self.folders.add(new + one[len(old) :])
        for path in [path for path in self.locked if _within(path, old)]:
            self.locked[new + path[len(old) :]] = self.locked.pop(path)

    def names(self, folder: str) -> list[str]:
        size = len(folder) + 1
        found = {path[size:].split("/", 1)[0] for path in list(self.names_live) if _within(path, folder)}
        return sorted(
            found | {path[size:].split("/", 1)[0] for path in self.folders if _within(path, folder)}
        )

    def sync_folder(self, path: str) -> None:
        self._asked("sync_folder", path)
        self.sync_folders(path)

    def sync_folders(self, path: str) -> None:
        """The names in a folder are durable."""
        left: list[tuple[str, Change]] = []
        for folder, change in self.renames:
            if folder == path:
                change(self.names_durable)
            else:
                left.append((folder, change))
        self.renames[:] = left

    # -------------------------------------------------------------------------------------------------------- files

    def lock(self, path: str, text: str) -> int:
        if path in self.locked:
            raise BlockingIOError("another one")
        handle = next(self._handles)
        self.locked[path] = handle
        self.open_files[handle] = path, Inode()
        return handle

    def open(self, path: str, *, create: bool = False, write: bool = True) -> int:
        if path not in self.names_live:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            self._asked("create", path)
            inode = Inode()
            self._change(folder_of(path), lambda names: names.setdefault(path, inode))
        handle = next(self._handles)
        self.open_files[handle] = path, self.names_live[path]
        return handle

    def close(self, handle: int) -> None:
        self.open_files.pop(handle, None)
        for path in [path for path, by in self.locked.items() if by == handle]:
            del self.locked[path]

    def size(self, handle: int) -> int:
        return len(self.open_files[handle][1].live)

    def links(self, handle: int) -> int:
        inode = self.open_files[handle][1]
        return sum(other is inode for other in self.names_live.values())

    def preadv(self, handle: int, buffer, place: int) -> int:
        data = self.open_files[handle][1].live[place : place + len(buffer)]
        memoryview(buffer)[: len(data)] = data
        return len(data)

    def pwritev(self, handle: int, buffers: Sequence, place: int) -> int:
        path, inode = self.open_files[handle]
        data = b"".join(buffers)
        done = self._asked("pwritev", path)
        inode.write(place, data if done is None else data[:done])
        if done is not None:
            raise Crash
        return len(data)

    def reserve(self, handle: int, size: int) -> bool:
        path, inode = self.open_files[handle]
        self._asked("reserve", path)
        inode.write(0, bytes(size))
        return True

    def fdatasync(self, handle: int) -> None:
        path, inode = self.open_files[handle]
        try:
            self._asked("fdatasync", path)
        except OSError:
            inode.unsynced = []  # the system takes the pages for clean: the next sync succeeds without them
            raise
        count = len(inode.unsynced)
        self.during_sync()

        def done() -> None:
            for place, data in inode.unsynced[:count]:
                put(inode.durable, place, data)
            inode.unsynced = inode.unsynced[count:]

        if self._later is None:
            done()
        else:
            self._later.append(done)

    @contextlib.contextmanager
    def later(self) -> Generator[list[Callable[[], None]]]:
        """Syncs begin now, and have an effect when what is handed out is called; nobody syncs these files meanwhile."""
        self._later = begun = []
        try:
            yield begun
        finally:
            self._later = None

    def rename(self, old: str, new: str) -> None:
        self._asked("rename", old)
        if old in self.folders:
            self._rename_folder(old, new)
            return
        self.open_files = {h: (new if p == old else p, inode) for h, (p, inode) in self.open_files.items()}
        if old not in self.names_live:
            raise FileNotFoundError(errno.ENOENT, "no such file", old)
        self._change(folder_of(new), lambda names: names.__setitem__(new, names.pop(old)))

    def unlink(self, path: str) -> None:
        self._asked("unlink", path)
        self._change(folder_of(path), lambda names: names.pop(path))

    def _change(self, folder: str, change: Change) -> None:
        change(self.names_live)
        self.renames.append((folder, change))

    # ---------------------------------------------------------------------------------------------------- its end

    def killed(self) -> VirtualDisk:
        """The same disk after its process was killed: all that it had written is there, durable or not."""
        for handle in list(self.open_files):
            self.close(handle)
        self._begin()
        return self

    def without_power(self, rng: random.Random, folder: str = "") -> VirtualDisk:
        """What a loss of power may leave of a folder: of what was not synced any, each torn; some of the names.

        folder: empty: all there is. No process has it open, or writes to it any more.
        """
        if not folder:
            self.killed()
        changes = [change for one, change in self.renames if not folder or one == folder]
        names = {path: i for path, i in self.names_durable.items() if not folder or _within(path, folder)}
        for change in changes[: rng.randint(0, len(changes))]:
            change(names)
        for path in [path for path in list(self.names_live) if not folder or _within(path, folder)]:
            del self.names_live[path]
        for path in [path for path in self.names_durable if not folder or _within(path, folder)]:
            del self.names_durable[path]
        self.renames[:] = [pair for pair in self.renames if folder and pair[0] != folder]
        for inode in names.values():
            inode.lose_power(rng)
        self.names_live.update(names)
        self.names_durable.update(names)
        return self
