"""Threads for the calls of a server, as many as are needed at once and no more than allowed; what is idle ends.

Beside `concurrent.futures.ThreadPoolExecutor`, whose `submit` raises when the system has no thread to give: gRPC calls
it on the one thread that takes calls, and a server whose thread has ended answers nobody ever again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any

log = logging.getLogger(__name__)


class Pool(Executor):
    """Threads that end with the process.

    Args:
        most: how many there may be.
        kept: how many stay when they are idle. A thread beyond them ends when it has nothing to do, so that a crowd
            leaves none behind, and calls at the usual rate start none.
        name: what they are called.
    """

    def __init__(self, most: int, kept: int, name: str) -> None:
        self._most = most
        self._kept = kept
        self._name = name
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads = 0
        self._starting = 0
        self._idle = 0
        self._queued = 0
        self._closed = False
        self._starved = False  # the last thread could not be started

    @property
    def waiting(self) -> int:
        """Jobs that no thread is left for; one that starts is there for its job."""
        with self._lock:
            return max(0, self._queued - self._idle - self._starting)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As `Executor.submit`; where no thread can be started, the job waits for one of those that there are."""
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._queued += 1
            self._jobs.put((future, partial(fn, *args, **kwargs)))
            if self._queued > self._idle and self._threads < self._most:
                self._grow()
        return future

    def _grow(self) -> None:
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except RuntimeError as e:
            if not self._starved:
                log.error("calls have to wait for one of %d threads: %s", self._threads, e)
            self._starved = True
        else:
            self._threads += 1
            self._starting += 1
            self._starved = False

    def _work(self) -> None:
        starting = True
        while True:
            with self._lock:
                self._starting -= starting
                starting = False
                # With the lock held: a job that comes now either sees this thread as idle, or is seen here.
                if self._idle >= self._kept and self._queued <= self._idle:
                    self._threads -= 1
                    return
                self._idle += 1
            job = self._jobs.get()
            with self._lock:
                self._idle -= 1
                self._queued -= job is not None
            if job is None:
                self._jobs.put(None)  # for the next one
                return
            future, call = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as e:
                    future.set_exception(e)
            del job, future, call  # nothing of a call outlives it

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs, and end the threads when they are done with those that there are; waits for none."""
        with self._lock:
            self._closed = True
        self._jobs.put(None)
