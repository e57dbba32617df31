"""Which rows of a table exist: asked of every shard, piece by piece. No I/O, no threads."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import Rerouted, Unavailable
from ...proto.layout import Layout
from ...proto.spec import TableEntry
from .control import call, fetch_layout, known_layout, pause
from .operation import Event, Operation, Turn
from .session import ATTEMPT_TIMEOUT_S, Session

PIECE_BYTES = 1 << 20  # of ids, in one reply


def list_ids(session: Session, entry: TableEntry, deadline: float) -> Operation:
    """Ids of the rows that exist, of all shards: [M] int64, ascending.

    Rows that come into being meanwhile may be among them or not. When rows move to other shards, it begins anew.

    Raises:
        RowloomError: what a shard answered; Unavailable when the deadline passes.
    """
    attempts = 0
    while True:
        layout = yield from known_layout(session, deadline)
        try:
            pieces: list[np.ndarray] = []
            for index in range(layout.n):
                pieces += yield from _of_shard(session, layout, index, entry, deadline)
            return np.unique(np.concatenate(pieces)) if pieces else np.empty(0, np.int64)
        except (Rerouted, Unavailable):
            if session.clock() >= deadline:
                raise
        attempts += 1
        yield from pause(session, attempts, deadline)
        yield from fetch_layout(session, deadline)


def _of_shard(
    session: Session, layout: Layout, index: int, entry: TableEntry, deadline: float
) -> Generator[Turn, Event | None, list[np.ndarray]]:
    request = pb.ReadRowsRequest(
        header=layout.header(index), table=entry.number, limit_bytes=PIECE_BYTES, ids_only=True
    )
    pieces: list[np.ndarray] = []
    while True:
        until = min(deadline, session.clock() + ATTEMPT_TIMEOUT_S)
        data = request.SerializeToString()
        event = yield from call(session, layout.shards[index].address, methods.READ_ROWS, data, until)
        if event.error is not None:
            raise event.error
        reply = pb.ReadRowsReply.FromString(bytes(event.data))
        pieces.append(np.frombuffer(reply.ids, "<i8").astype(np.int64))
        if not reply.next:
            return pieces
        request.cursor = reply.next
