"""The memory of one table on one shard: which rows exist, their values and their slots.

Rows are numbered in the order in which they came into being. Each array is one anonymous mapping, reserved at its
largest possible size and backed by the kernel page by page: it grows without ever being copied, and a table of 10^9
rows costs nothing until they are pushed. An open-addressing hash leads from id to number.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from collections.abc import Sequence

import numpy as np

from ...proto.errors import Overloaded
from ...proto.jit import kernel

_NORESERVE = 0x4000 if sys.platform == "linux" else 0
_FIRST_BITS = 10
_MAX_ROWS = 2**31 - 2  # numbers are int32
_HUGE_FROM = 32 << 20  # bytes; below, pages of 2 MB would cost many small tables more than they gain


class Rows:
    """Rows by id. Callers hold the shard's lock.

    Args:
        widths: columns of the values, then of each slot.
        limit: how many different ids there can be.
        what: the table's name, for messages.

    Attributes:
        values: [capacity, widths[0]] float32; the first `count` rows exist.
        slots: one [capacity, width] float32 for each further width.
        ids: [capacity] int64.
    """

    def __init__(self, widths: Sequence[int], limit: int, what: str) -> None:
        self._what = what
        row_bytes = 4 * sum(widths) + 8
        self.capacity = max(1, min(limit, _MAX_ROWS, _memory_bytes() // row_bytes))
        self._limit = limit
        self.count = 0
        self._small: list[tuple[mmap.mmap, int]] = []  # regions with pages of 4 KB, and their bytes per row
        self.ids = self._region(1, np.int64).reshape(-1)
        self.values = self._region(widths[0], np.float32)
        self.slots = [self._region(w, np.float32) for w in widths[1:]]
        self._row_bytes = row_bytes
        self._start_index(_FIRST_BITS)

    def _region(self, width: int, dtype: type) -> np.ndarray:
        """[capacity, width] zeros that cost memory only where they are written."""
        row_bytes = width * np.dtype(dtype).itemsize
        memory = _reserve(max(1, self.capacity * row_bytes))
        self._small.append((memory, row_bytes))
        # numpy holds the mapping; it is unmapped when the last array on it is gone.
        return np.frombuffer(memory, dtype, count=self.capacity * width).reshape(self.capacity, width)

    def _use_huge_pages(self, count: int) -> None:
        """Ask for pages of 2 MB in regions that have become large: rows lie all over them, and the TLB is small."""
        large = [(m, row_bytes) for m, row_bytes in self._small if count * row_bytes >= _HUGE_FROM]
        for memory, _ in large:
            if hasattr(mmap, "MADV_HUGEPAGE"):
                with contextlib.suppress(OSError):  # A kernel built without them: slower, not wrong.
                    memory.madvise(mmap.MADV_HUGEPAGE)
        if large:
            self._small = [pair for pair in self._small if pair not in large]

    def _start_index(self, bits: int) -> None:
        self._bits = bits
        self._index = np.full(1 << bits, -1, np.int32)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that exist: ids, values, slots, and the index."""
        return self.count * self._row_bytes + self._index.nbytes

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Numbers of rows, -1 for those that do not exist. ids: [N] int64. Returns [N] int32."""
        out = np.empty(len(ids), np.int32)
        find(ids, self._index, self._bits, self.ids, out)
        return out

    @property
    def look(self) -> tuple[np.ndarray, int, np.ndarray]:
        """What compiled code needs to find rows: the hash, its bits, and the ids of the rows."""
        return self._index, self._bits, self.ids

    def reserve(self, ids: np.ndarray) -> None:
        """Make room for these ids, so that `insert` cannot fail.

        Raises:
            Overloaded: the machine's memory cannot hold so many rows.
        """
        # Never of a table that the machine can hold whole: looking rows up costs as much as inserting them.
        if self.capacity < self._limit and self.count + len(ids) > self.capacity:
            new = len(np.unique(ids[self.find(ids) < 0]))
            if self.count + new > self.capacity:
                raise Overloaded(
                    f"table {self._what!r} has {self.count} rows on this shard and cannot hold {new} more: this "
                    f"machine's memory is good for {self.capacity}. Add shards (`rowloom scale`) on more machines"
                )
        need = min(self.count + len(ids), self.capacity)
        bits = self._bits
        while need * 10 > (1 << bits) * 7:  # at most 70 % full
            bits += 1
        if bits != self._bits:
            index = np.full(1 << bits, -1, np.int32)
            _reindex(self.ids, self.count, index, bits)
            self._index, self._bits = index, bits
            self._use_huge_pages(self.count)

    def insert(self, ids: np.ndarray) -> tuple[np.ndarray, int]:
        """Numbers of rows, new ones for those that did not exist; call `reserve` first.

        Returns:
            ([N] int32, the number of the first new row): values and slots of rows from there on are zeros.
        """
        out = np.empty(len(ids), np.int32)
        first = self.count
        self.count = int(_insert(ids, self._index, self._bits, self.ids, first, out))
        return out, first


def _memory_bytes() -> int:
    """The machine's memory: no more rows than that can exist."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _reserve(size: int) -> mmap.mmap:
    """Address space; the kernel gives it memory page by page, where it is written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
    try:
        return mmap.mmap(-1, size, flags=flags)
    except OSError as e:
        raise Overloaded(
            f"the system refused to reserve {size} bytes of address space for a table: is overcommit switched off "
            "(vm.overcommit_memory=2) or a limit set (ulimit -v)?"
        ) from e


@kernel
def _slot(row_id, bits):
    return np.int64((np.uint64(row_id) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits))


@kernel
def find(ids, index, bits, keys, out):
    """Numbers of rows, -1 for those that do not exist. Arguments as `Rows.look`."""
    mask = (1 << bits) - 1
    for k in range(len(ids)):
        at = _slot(ids[k], bits)
        while True:
            row = index[at]
            if row < 0 or keys[row] == ids[k]:
                out[k] = row
                break
            at = (at + 1) & mask


@kernel
def _insert(ids, index, bits, keys, count, out):
    mask = (1 << bits) - 1
    for k in range(len(ids)):
        at = _slot(ids[k], bits)
        while True:
            row = index[at]
            if row < 0:
                index[at] = count
                keys[count] = ids[k]
                out[k] = count
                count += 1
                break
            if keys[row] == ids[k]:
                out[k] = row
                break
            at = (at + 1) & mask
    return count


@kernel
def _reindex(keys, count, index, bits):
    mask = (1 << bits) - 1
    for row in range(count):
        at = _slot(keys[row], bits)
        while index[at] >= 0:
            at = (at + 1) & mask
        index[at] = row
