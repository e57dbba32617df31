"""Requests of one operation over gRPC."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from ...proto.channel import Channels
from ...proto.errors import NoAnswer, RowloomError
from ..calls.operation import Event, Send, as_bytes

LOOK_S = 0.5  # of silence, after which the operation may look who is silent: it cannot be woken for what does not come


class GrpcWire:
    """One operation's calls. Each blocks a thread, the last one the caller's own: futures take half as long again."""

    def __init__(self, channels: Channels, callers: Callers) -> None:
        self._channels = channels
        self._callers = callers
        self._ended: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._kept: Send | None = None
        self._waited = False
        self._under_way = 0

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return self._under_way > 0

    def send(self, send: Send) -> None:
        """Start the call, or keep it until the next one is sent or waited for."""
        self._start_kept()
        self._kept = send
        self._under_way += 1
        if self._waited:  # more calls follow each other: the caller's thread has to start them
            self._start_kept()

    def _start_kept(self) -> None:
        if self._kept is not None:
            send, self._kept = self._kept, None
            self._callers.run(lambda: self._ended.put(self._call(send)))

    def _call(self, send: Send) -> Event:
        timeout_s = max(send.until - time.monotonic(), 0.001)
        try:
            data = as_bytes(send.message)
            return Event(send.tag, self._channels.call(send.address, send.method, data, timeout_s))
        except RowloomError as e:
            return Event(send.tag, error=e)
        except MemoryError as e:  # no room for the message
            return Event(send.tag, error=NoAnswer.of(send.address, f"no room for the message: {e}"))

    def wait(self, until: float) -> Event | None:
        """As `Wire.wait`."""
        self._waited = True
        if self._kept is not None and until >= self._kept.until:
            send, self._kept = self._kept, None
            self._under_way -= 1
            return self._call(send)
        self._start_kept()
        try:
            event = self._ended.get(timeout=max(0.0, min(until - time.monotonic(), LOOK_S)))
        except queue.Empty:
            return None
        self._under_way -= 1
        return event

    def close(self) -> None:
        """Leave the calls that nobody waits for to their threads: each ends at its own deadline."""


class Callers:
    """Threads that block in calls, as many as there are at once; they end with the process, or when they are closed."""

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue[Callable[[], None] | None]] = []
        self._closed = False

    def run(self, job: Callable[[], None]) -> None:
        """Run a job beside the others."""
        try:
            mine = self._idle.pop()
        except IndexError:
            mine = queue.SimpleQueue[Callable[[], None] | None]()
            threading.Thread(target=self._serve, args=(mine,), name="rowloom-call", daemon=True).start()
        mine.put(job)

    def _serve(self, mine: queue.SimpleQueue[Callable[[], None] | None]) -> None:
        while (job := mine.get()) is not None:
            job()
            del job  # and its message, which may be large: the next one may not come for hours
            self._idle.append(mine)
            if self._closed:
                self.close()

    def close(self) -> None:
        """End those that have nothing to do, and the others when they are done."""
        self._closed = True
        while self._idle:
            self._idle.pop().put(None)
