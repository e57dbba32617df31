"""Snapshots that somebody asks for over the network: begun once, asked about until they are whole.

Why it is so. What must hold: a request whose answer was lost does not take a second snapshot. So each has a key that
its caller made up, and the same key is the same snapshot. It takes longer than a call may: the caller asks again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait

from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, RetryLater, RowloomError, SnapshotCorrupt, Unavailable, in_words
from ...proto.snapshots.extra import decode_extra
from .snapshots import TakenSnapshot

HOLD_S = 2.0  # a call waits so long for the end
REMEMBERED = 64  # of those that have ended, for callers who ask late


class SnapshotRequests:
    """Those that were asked for. Thread-safe.

    Args:
        take: takes one; arguments as of the message.
    """

    def __init__(self, take: Callable[[pb.TakeSnapshotRequest], TakenSnapshot]) -> None:
        self._take = take
        self._lock = threading.Lock()
        self._asked: dict[int, Future[pb.TakeSnapshotReply]] = {}

    def answer(self, request: pb.TakeSnapshotRequest) -> pb.TakeSnapshotReply:
        """Begin it if its key is new, and say how far it is.

        Raises:
            InvalidRequest: it has no key, or its `extra` is not what is kept with a snapshot.
            RetryLater: something else changes the cluster.
            RowloomError: it failed, and pushes go on.
        """
        if not request.key:
            raise InvalidRequest("a snapshot is asked for with a key of the caller's: random, not 0")
        with self._lock:
            asked = self._asked.get(request.key)
            if asked is None:
                if request.asks:
                    return pb.TakeSnapshotReply(state="unknown")
                asked = self._begin(request)
        if not wait([asked], HOLD_S).done:
            return pb.TakeSnapshotReply(state="writing")
        return asked.result()

    def _begin(self, request: pb.TakeSnapshotRequest) -> Future[pb.TakeSnapshotReply]:
        try:
            decode_extra(request.extra)
        except SnapshotCorrupt as e:
            raise InvalidRequest(str(e)) from None
        asked = self._asked[request.key] = Future()
        ended = [key for key, one in self._asked.items() if one.done()]
        for key in ended[:-REMEMBERED]:
            del self._asked[key]
        threading.Thread(
            target=self._run, args=(request, asked), name="rowloom-snapshot", daemon=True
        ).start()
        return asked

    def _run(self, request: pb.TakeSnapshotRequest, asked: Future[pb.TakeSnapshotReply]) -> None:
        began = time.monotonic()
        try:
            reply = _reply(self._take(request))
        except Exception as e:
            if isinstance(e, RetryLater):  # nothing was begun: the same key may begin it yet
                with self._lock:
                    del self._asked[request.key]
            asked.set_exception(e if isinstance(e, RowloomError) else Unavailable(in_words(e)))
            return
        reply.seconds = time.monotonic() - began
        asked.set_result(reply)


def _reply(taken: TakenSnapshot) -> pb.TakeSnapshotReply:
    known = taken.snapshot
    return pb.TakeSnapshotReply(
        state="done",
        id=known.id,
        url=known.url,
        rows=known.rows,
        bytes=known.bytes,
        pause_s=taken.pause_s,
        parent=known.parent,
    )
