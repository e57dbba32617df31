"""Memory of a table's columns: address space that grows by large steps, backed by the kernel page by page.

Why it is so. What must hold: a column is one array, or kernels would have to look up where each row lies; a table costs
memory only for rows that exist; and address space suffices for any number of tables. A column's address space is
_STEP times what its rows take at the most: rows are never copied as it grows, the kernel moves their pages' entries
instead (16 MB: 0.5 ms). Rejected: address space for as many rows as the machine's memory can hold, at once. That was
simpler, but 5,000 open-ended tables took all of it that a process has, 2**47 bytes.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...proto.errors import Overloaded
from . import limits

_NORESERVE = 0x4000 if sys.platform == "linux" else 0
_HUGE_FROM = 32 << 20  # bytes; below, pages of 2 MB would cost many small tables more than they gain
_HUGE_PAGE = 2 << 20
_FIRST = 1 << 20  # bytes of all columns, in the first step
_STEP = 32
_PIECE = 16 << 20  # bytes that are given back at a time: 0.3 ms


class Regions:
    """The columns of one table, each an anonymous mapping of its own. They grow together.

    Args:
        limit: rows in each column at the most.

    Attributes:
        room: rows that each column has place for.
        arrays: each column, [room, width]; new ones whenever it has grown, and zeros where nothing was written.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.room = 0
        self.arrays: list[np.ndarray] = []
        self._maps: list[mmap.mmap | None] = []
        self._small: set[int] = set()  # numbers of columns with pages of 4 KB

    def add(self, width: int, dtype: type[Any]) -> int:
        """One more column; returns its number. Raises Overloaded."""
        self._maps.append(None)
        self.arrays.append(np.zeros((0, width), dtype))
        self._small.add(len(self.arrays) - 1)
        if self.room:
            self._extend(len(self.arrays) - 1, self.room, 0)
        return len(self.arrays) - 1

    def grow(self, count: int, used: int) -> None:
        """Make place for so many rows; keep those that are used. Raises Overloaded; then everything is as it was.

        Nobody else should hold one of the arrays, or its rows must be copied.
        """
        row_bytes = sum(_row_bytes(array) for array in self.arrays)
        room = min(self._limit, max(count, self.room * _STEP, _FIRST // row_bytes, 1))
        for number in range(len(self.arrays)):
            self._extend(number, room, used)  # one that is larger than the others does no harm
        self.room = room

    def _extend(self, number: int, room: int, used: int) -> None:
        old, width, dtype = self._maps[number], self.arrays[number].shape[1], self.arrays[number].dtype
        size = room * _row_bytes(self.arrays[number])
        # Where the kernel puts only such regions at an address that is good for large pages.
        if size >= _HUGE_PAGE:
            size = -(-size // _HUGE_PAGE) * _HUGE_PAGE
        if old is None:
            self._maps[number] = _reserve(size)
        elif size > len(old):
            rows = len(self.arrays[number])
            self.arrays[number] = self.arrays[number][:0].copy()  # or the mapping could not move
            try:
                old.resize(size)
            except (BufferError, SystemError):  # somebody looks at it, or this system cannot move it: copied
                self._maps[number] = _copied(old, size, used * width * dtype.itemsize)
                self._small.add(number)
            except OSError as e:
                self._view(number, old, rows, width, dtype)
                raise _refused(size) from e
        self._view(number, self._maps[number], room, width, dtype)

    def _view(self, number: int, memory: mmap.mmap | None, rows: int, width: int, dtype: Any) -> None:
        # numpy holds the mapping; it is unmapped when the last array on it is gone.
        assert memory is not None
        self.arrays[number] = np.frombuffer(memory, dtype, rows * width).reshape(rows, width)

    def use_huge_pages(self, count: int) -> None:
        """Ask for pages of 2 MB in columns that have become large: rows lie all over them, and the TLB is small."""
        for number in [k for k in self._small if count * _row_bytes(self.arrays[k]) >= _HUGE_FROM]:
            memory = self._maps[number]
            if memory is not None and hasattr(mmap, "MADV_HUGEPAGE"):
                with contextlib.suppress(OSError):  # A kernel built without them: slower, not wrong.
                    memory.madvise(mmap.MADV_HUGEPAGE)
            self._small.discard(number)

    def release(self) -> Iterator[None]:
        """Give the memory back in pieces, between which others may go on. Nobody looks at the columns any more."""
        for memory in self._maps:
            size = len(memory) if memory is not None and hasattr(mmap, "MADV_DONTNEED") else 0
            for at in range(0, size, _PIECE):
                assert memory is not None
                memory.madvise(mmap.MADV_DONTNEED, at, min(_PIECE, size - at))
                yield


def _copied(old: mmap.mmap, size: int, used: int) -> mmap.mmap:
    """A larger region with the used bytes of another one: not with the rest, which would take memory."""
    new = _reserve(size)
    np.frombuffer(new, np.uint8, used)[:] = np.frombuffer(old, np.uint8, used)
    return new


def _row_bytes(array: np.ndarray) -> int:
    return array.shape[1] * array.itemsize


def memory_bytes() -> int:
    """What this process may use: no more rows than that can exist."""
    return limits.total().bytes


def _reserve(size: int) -> mmap.mmap:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
    try:
        return mmap.mmap(-1, size, flags=flags)
    except OSError as e:
        raise _refused(size) from e


def _refused(size: int) -> Overloaded:
    return Overloaded(
        f"the system refused to reserve {size} bytes of address space for a table: is overcommit switched off "
        "(vm.overcommit_memory=2), or a limit set (ulimit -v, vm.max_map_count)?"
    )
