"""Pages of 2 MB for what a process has in memory: its code's objects, its modules, what they allocated.

Why it is so. A shard answers a small call in 100 us, and in between others have the processor: of the pages that it
touches the processor knows none any more, and looking up each of some hundred takes longer than what is done there. In
pages of 2 MB a shard's heap is 26 pages, and a pull of 1,024 ids costs its shard 9 % less.
The kernel is asked for each piece that is mostly in use (MADV_COLLAPSE, Linux 6.1), once, since it copies them: 1 to 4
ms a piece, in which a thread that allocates may wait. Rejected: to ask for huge pages in general (MADV_HUGEPAGE, or
glibc's tunable): each arena and each thread's stack would take 2 MB, which is more than most of them ever use.
Take that up again when Python's own arenas are of 2 MB.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

HUGE_PAGE = 2 << 20
_COLLAPSE = 25  # MADV_COLLAPSE
_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MAPS = Path("/proc/self/maps")


def use_huge_pages() -> int:
    """Move what this process has in memory to huge pages, if the kernel can and may. Returns how many bytes."""
    if sys.platform != "linux" or not _may():
        return 0
    try:
        madvise = ctypes.CDLL(None).madvise
        maps = _MAPS.read_text()
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
    except (OSError, AttributeError):
        return 0
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    moved = 0
    try:
        for at in _pieces(maps):
            if _used(pagemap, at) and madvise(at, HUGE_PAGE, _COLLAPSE) == 0:
                moved += HUGE_PAGE
    finally:
        os.close(pagemap)
    return moved


def _may() -> bool:
    """Whether the machine's operator has not turned huge pages off."""
    try:
        return "[never]" not in _ENABLED.read_text()
    except OSError:
        return False


def _pieces(maps: str) -> Iterator[int]:
    """Where a whole huge page would fit into memory that is private, of no file, and no stack of the main thread.

    maps: as /proc/self/maps has it.
    """
    for line in maps.splitlines():
        span, rights, _, _, inode, *name = line.split(None, 5)
        if rights != "rw-p" or inode != "0" or (name and name[0] != "[heap]"):
            continue
        begin, end = (int(one, 16) for one in span.split("-"))
        first = -(-begin // HUGE_PAGE) * HUGE_PAGE
        yield from range(first, end - HUGE_PAGE + 1, HUGE_PAGE)


def _used(pagemap: int, at: int) -> bool:
    """Whether most of the pages there are in memory: the rest of them will be, too."""
    size = os.sysconf("SC_PAGE_SIZE")
    count = HUGE_PAGE // size
    try:
        entries = os.pread(pagemap, 8 * count, at // size * 8)
    except OSError:
        return False
    return sum(entry >> 7 for entry in entries[7::8]) > count // 2
