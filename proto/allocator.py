"""The C allocator's settings for a process that moves large messages.

glibc gives every buffer over its mmap threshold back to the kernel, so each large message page-faults anew: that halves
the throughput of pulls of 65,536 rows.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
MMAP_THRESHOLD_BYTES = 32 << 20  # the largest that glibc takes
TRIM_THRESHOLD_BYTES = 1 << 30
ARENAS = 4


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
