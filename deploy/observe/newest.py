"""The newest status of a cluster for whoever cannot wait for it: a shard that stands still is asked for seconds.

Why it is so. A Prometheus that reads each second gives up before the shard is given up, and then sees nothing at all
of the cluster, this shard included. So it is told at once what was known before, and how old that is; meanwhile the
cluster is asked, for whoever comes next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait

from ...proto import rowloom_pb2 as pb


class Newest:
    """Asks for the status of a cluster, once at a time, whoever wants it. Thread-safe.

    Args:
        status: asks every shard.
        clock: seconds, monotonic.
    """

    def __init__(
        self, status: Callable[[], pb.StatusReply], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._status, self._clock = status, clock
        self._lock = threading.Lock()
        self._asking: Future[pb.StatusReply] | None = None
        self._known: tuple[pb.StatusReply, float] | None = None  # and when it came

    def whole(self) -> pb.StatusReply:
        """The status, as long as it takes. Raises RowloomError."""
        return self._asked().result()

    def within(self, seconds: float) -> tuple[pb.StatusReply, float]:
        """The status, and how many seconds old it is: 0, or the one before where the next takes longer than this.

        The first one is waited for as long as it takes. Raises RowloomError.
        """
        asked = self._asked()
        with self._lock:
            known = self._known
        if known is not None and not wait([asked], seconds).done:
            return known[0], self._clock() - known[1]
        return asked.result(), 0.0

    def _asked(self) -> Future[pb.StatusReply]:
        with self._lock:
            if self._asking is None or self._asking.done():
                asked: Future[pb.StatusReply] = Future()
                # Before it is what others wait for: the system may have no thread to give.
                threading.Thread(target=self._ask, args=(asked,), name="rowloom-status", daemon=True).start()
                self._asking = asked
            return self._asking

    def _ask(self, asking: Future[pb.StatusReply]) -> None:
        try:
            status = self._status()
        except BaseException as e:
            asking.set_exception(e)
            return
        with self._lock:
            self._known = status, self._clock()
        asking.set_result(status)
