"""Calls in the background: pulls side by side, pushes one after the other in the order in which they were called."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
PULL_THREADS = 4


class Background:
    """Threads of one client, started when they are first needed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[str, ThreadPoolExecutor] = {}

    def pull(self, call: Callable[..., T], *args: Any) -> Future[T]:
        """Run a pull, beside others."""
        return self._pool("pull", PULL_THREADS).submit(call, *args)

    def push(self, call: Callable[..., T], *args: Any) -> Future[T]:
        """Run a push, after those before it."""
        return self._pool("push", 1).submit(call, *args)

    def close(self) -> None:
        """Finish what runs."""
        for pool in self._pools.values():
            pool.shutdown(wait=True)

    def release(self) -> None:
        """End the threads when they are done, without waiting for them. Nothing new may be started."""
        for pool in self._pools.values():
            pool.shutdown(wait=False)

    def _pool(self, what: str, threads: int) -> ThreadPoolExecutor:
        with self._lock:
            if what not in self._pools:
                self._pools[what] = ThreadPoolExecutor(threads, thread_name_prefix=f"rowloom-{what}")
            return self._pools[what]
