"""A disk in memory: what a loss of power leaves of it, what fails, and what happens while a call of it runs."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rowloom.server.durable.disk import Disk


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

    def sync(self) -> None:
        self.durable = bytearray(self.live)
        self.unsynced = []


def folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def put(content: bytearray, place: int, data: bytes) -> None:
    if len(content) < place:
        content.extend(bytes(place - len(content)))
    content[place : place + len(data)] = data


class VirtualDisk(Disk):
    """Everything that a log asks of the system.

    Attributes:
        calls: (method, file name) of each call that changes something, in order.
        before: is asked before each of them, with method and name: may raise; a number: only that many bytes of the
            write are done, and then the process ends.
        during_sync: is called between the moment that a sync takes what there is, and its return.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names_live: dict[str, Inode] = {}
        self.names_durable: dict[str, Inode] = {}
        # (folder, change of names in it) that are not durable yet, in order
        self.renames: list[tuple[str, Callable[[dict[str, Inode]], object]]] = []
        self.calls: list[tuple[str, str]] = []
        self.before: Callable[[str, str], int | None] = lambda method, name: None
        self.during_sync: Callable[[], object] = lambda: None
        self.open_files: dict[int, tuple[str, Inode]] = {}
        self.next_handle = 1
        self.locked: dict[str, int] = {}

    def _asked(self, method: str, path: str) -> int | None:
        name = path.rsplit("/", 1)[-1]
        self.calls.append((method, name))
        return self.before(method, name)

    def make_folder(self, path: str) -> None:
        pass

    def names(self, folder: str) -> list[str]:
        return [path.rsplit("/", 1)[1] for path in self.names_live if folder_of(path) == folder]

    def lock(self, path: str, text: str) -> int:
        if path in self.locked:
            raise BlockingIOError("another one")
        handle, self.next_handle = self.next_handle, self.next_handle + 1
        self.locked[path] = handle
        return handle

    def open(self, path: str, *, create: bool = False) -> int:
        if path not in self.names_live:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            self._asked("create", path)
            self.names_live[path] = inode = Inode()
            self.renames.append((folder_of(path), lambda names: names.setdefault(path, inode)))
        handle, self.next_handle = self.next_handle, self.next_handle + 1
        self.open_files[handle] = path, self.names_live[path]
        return handle

    def close(self, handle: int) -> None:
        self.open_files.pop(handle, None)
        self.locked = {path: by for path, by in self.locked.items() if by != handle}

    def size(self, handle: int) -> int:
        return len(self.open_files[handle][1].live)

    def preadv(self, handle: int, buffer, place: int) -> int:
        data = self.open_files[handle][1].live[place : place + len(buffer)]
        memoryview(buffer)[: len(data)] = data
        return len(data)

    def pwritev(self, handle: int, buffers: Sequence, place: int) -> int:
        path, inode = self.open_files[handle]
        data = b"".join(bytes(b) for b in buffers)
        done = self._asked("pwritev", path)
        inode.write(place, data if done is None else data[:done])
        if done is not None:
            raise Crash
        return len(data)

    def fdatasync(self, handle: int) -> None:
        path, inode = self.open_files[handle]
        self._asked("fdatasync", path)
        durable, count = bytearray(inode.live), len(inode.unsynced)
        self.during_sync()
        inode.durable, inode.unsynced = durable, inode.unsynced[count:]

    def rename(self, old: str, new: str) -> None:
        self._asked("rename", old)
        self.open_files = {h: (new if p == old else p, inode) for h, (p, inode) in self.open_files.items()}
        self._change(old, lambda names: names.__setitem__(new, names.pop(old)))

    def unlink(self, path: str) -> None:
        self._asked("unlink", path)
        self._change(path, lambda names: names.pop(path))

    def _change(self, path: str, change: Callable[[dict[str, Inode]], object]) -> None:
        change(self.names_live)
        self.renames.append((folder_of(path), change))

    def sync_folder(self, path: str) -> None:
        self._asked("sync_folder", path)
        for folder, change in self.renames:
            if folder == path:
                change(self.names_durable)
        self.renames = [(folder, change) for folder, change in self.renames if folder != path]

    def killed(self) -> VirtualDisk:
        """The same disk after its process was killed: all that it had written is there, durable or not."""
        self.open_files, self.locked, self.calls = {}, {}, []
        self.before, self.during_sync = lambda method, name: None, lambda: None
        return self

    def without_power(self, rng: random.Random) -> VirtualDisk:
        """What a loss of power may leave: of writes that were not synced any, each torn anywhere; some of the names."""
        names = dict(self.names_durable)
        for _, change in self.renames[: rng.randint(0, len(self.renames))]:
            change(names)
        disk = VirtualDisk()
        for path, inode in names.items():
            content = bytearray(inode.durable)
            for place, data in inode.unsynced:
                begin = rng.choice([0, rng.randint(0, len(data))])
                end = rng.choice([0, len(data), rng.randint(0, len(data))])
                if begin < end:
                    put(content, place + begin, data[begin:end])
            disk.names_live[path] = Inode(bytearray(content), bytearray(content))
        disk.names_durable = dict(disk.names_live)
        return disk
