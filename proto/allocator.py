"""The C allocator of a process that moves large messages: what it keeps of their memory, and what it gives back.

glibc gives every buffer over its mmap threshold back to the kernel, so each large message page-faults anew: that halves
the throughput of pulls of 65,536 rows. Told to keep them, it keeps everything: 300 to 600 MB, once many clients had
sent large messages at the same time. So a server looks from time to time, and gives back what has piled up.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
MMAP_THRESHOLD_BYTES = 32 << 20  # the largest that glibc takes
TRIM_THRESHOLD_BYTES = 1 << 30
ARENAS = 4
LOOK_S = 30.0
# A process that has grown by less keeps it: the messages of usual trainers. To give 500 MB back takes 40 ms, in which
# what allocates may wait; where there is little to give, 0.2 to 4 ms: no more than that in a shard of many rows.
KEPT_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Let the allocator of this process keep what was freed, for the next batch.

    Shard servers do it. A trainer that pulls large batches (from about 4 MB of rows) gains from it too; what the
    process frees stays with it, whoever freed it. Call it once, at the start. Linux with glibc.

    Returns:
        Whether the allocator could be told.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = (
        (_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
        (_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
        (_M_ARENA_MAX, ARENAS),
    )
    return all(mallopt(name, value) == 1 for name, value in settings)


def give_back_freed_memory(ended: Callable[[float], bool]) -> None:
    """Give back what this process has freed, while it is much larger than it was. Returns when its work has ended.

    Args:
        ended: waits so many seconds for the end, and says whether it has come, as `Event.wait` does.
    """
    trim = _trim()
    least = _private_bytes()
    while not ended(LOOK_S):
        now = _private_bytes()
        least = min(least, now)
        # Not only after it has grown: what was in use at the last look may be free by now.
        if trim is not None and now > least + KEPT_BYTES:
            trim(0)


def _trim() -> Callable[[int], object] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library
        return None


def _private_bytes() -> int:
    """Memory of this process that is resident and that it shares with nobody."""
    try:
        with open("/proc/self/statm") as f:
            resident, shared = map(int, f.read().split()[1:3])
    except (OSError, ValueError):  # no /proc on this system
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
