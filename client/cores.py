"""Kernels over large arrays on several threads: one core alone cannot use all the memory bandwidth that there is."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

MOST_THREADS = 4
PIECE_BYTES = 4 << 20  # less is not worth waking a thread for
SMALL_BYTES = 1 << 20  # less is not even worth asking

_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_pool: ThreadPoolExecutor | None = None


def in_pieces(call: Callable[[int, int], Any], n: int, size: int) -> list[Any]:
    """`call(begin, end)` for pieces that make up [0, n), side by side. Returns what they return, in order.

    Args:
        call: lets go of the GIL; touches nothing that another piece writes.
        n: how many things there are to do.
        size: bytes that they move, all together.
    """
    if size < 2 * PIECE_BYTES or (count := min(MOST_THREADS, _cores, size // PIECE_BYTES, n)) < 2:
        return [call(0, n)]
    edges = [n * k // count for k in range(count + 1)]
    others = [_submit(call, edges[k], edges[k + 1]) for k in range(1, count)]
    first = call(0, edges[1])
    return [first, *(other() for other in others)]


def _submit(call: Callable[[int, int], Any], begin: int, end: int) -> Callable[[], Any]:
    global _pool  # one for all clients: there are only so many cores
    try:
        if _pool is None:
            _pool = ThreadPoolExecutor(MOST_THREADS - 1, thread_name_prefix="rowloom-helper")
        return _pool.submit(call, begin, end).result
    except RuntimeError:  # the interpreter is ending, and starts no threads any more
        return lambda: call(begin, end)


def _forget() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)  # the parent's threads are not here
