"""Memory of a table's columns: address space at its largest possible size, backed by the kernel page by page.

A column grows without ever being copied, and a table of 10^9 rows costs nothing until they are pushed.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from typing import Any

import numpy as np

from ...proto.errors import Overloaded

_NORESERVE = 0x4000 if sys.platform == "linux" else 0
_HUGE_FROM = 32 << 20  # bytes; below, pages of 2 MB would cost many small tables more than they gain


class Regions:
    """The columns of one table, each an anonymous mapping of its own.

    Args:
        capacity: rows in each column.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._small: list[tuple[mmap.mmap, int]] = []  # regions with pages of 4 KB, and their bytes per row

    def column(self, width: int, dtype: type[Any]) -> np.ndarray:
        """[capacity, width] zeros that cost memory only where they are written. Raises Overloaded."""
        row_bytes = width * np.dtype(dtype).itemsize
        memory = _reserve(max(1, self._capacity * row_bytes))
        self._small.append((memory, row_bytes))
        # numpy holds the mapping; it is unmapped when the last array on it is gone.
        return np.frombuffer(memory, dtype, count=self._capacity * width).reshape(self._capacity, width)

    def use_huge_pages(self, count: int) -> None:
        """Ask for pages of 2 MB in columns that have become large: rows lie all over them, and the TLB is small."""
        large = [(m, row_bytes) for m, row_bytes in self._small if count * row_bytes >= _HUGE_FROM]
        for memory, _ in large:
            if hasattr(mmap, "MADV_HUGEPAGE"):
                with contextlib.suppress(OSError):  # A kernel built without them: slower, not wrong.
                    memory.madvise(mmap.MADV_HUGEPAGE)
        if large:
            self._small = [pair for pair in self._small if pair not in large]


def memory_bytes() -> int:
    """The machine's memory: no more rows than that can exist."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _reserve(size: int) -> mmap.mmap:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
    try:
        return mmap.mmap(-1, size, flags=flags)
    except OSError as e:
        raise Overloaded(
            f"the system refused to reserve {size} bytes of address space for a table: is overcommit switched off "
            "(vm.overcommit_memory=2) or a limit set (ulimit -v)?"
        ) from e
