"""What every shard knows of a table: which of its rows exist, which ids are asked for most. No I/O, no threads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from typing import TypeVar

import numpy as np

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import Rerouted, StateLost, Unavailable
from ...proto.layout import Layout
from ...proto.spec import TableEntry
from ..hottest import Hottest, merged
from .control import call, fetch_layout, known_layout, look_again, pause
from .operation import Event, Operation, Turn
from .session import ATTEMPT_TIMEOUT_S, Session

PIECE_BYTES = 1 << 20  # of ids, in one reply
T = TypeVar("T")
Asking = Generator[Turn, Event | None, T]


def list_ids(
    session: Session, entry: TableEntry, deadline: float, without: Collection[int] = ()
) -> Operation:
    """Ids of the rows that exist: [M] int64, ascending. without: shards that are not asked, for they do not serve.

    Rows that come into being meanwhile may be among them or not. When rows move to other shards, it begins anew.

    Raises:
        RowloomError: what a shard answered; Unavailable when the deadline passes.
    """

    def of_shard(layout: Layout, index: int) -> Asking[list[np.ndarray]]:
        return _ids_of(session, layout, index, entry, deadline)

    found = yield from _of_all(session, of_shard, deadline, without)
    pieces = [piece for pieces in found for piece in pieces]
    return np.unique(np.concatenate([np.empty(0, np.int64), *pieces]))


def hottest_ids(session: Session, entry: TableEntry, limit: int, deadline: float) -> Operation:
    """The ids that are pulled and pushed most, over all shards: a Hottest. Raises as `list_ids`."""

    def of_shard(layout: Layout, index: int) -> Asking[pb.HottestIdsReply]:
        request = pb.HottestIdsRequest(header=layout.header(index), table=entry.number, limit=limit)
        data = yield from _asked(session, layout, index, methods.HOTTEST_IDS, request, deadline)
        return pb.HottestIdsReply.FromString(data)

    found: Hottest = merged((yield from _of_all(session, of_shard, deadline)), limit)
    return found


def _of_all(
    session: Session,
    of_shard: Callable[[Layout, int], Asking[T]],
    deadline: float,
    without: Collection[int] = (),
) -> Asking[list[T]]:
    """What each shard of one layout says, but for some; from the beginning when rows move to other shards."""
    attempts = 0
    while True:
        layout = yield from known_layout(session, deadline)
        began, found, index = session.clock(), list[T](), 0
        try:
            for index in range(layout.n):
                if index in without:
                    continue
                began = session.clock()
                found.append((yield from of_shard(layout, index)))
                session.outages.answered(index, session.clock())
            return found
        except (Rerouted, StateLost, Unavailable) as e:
            yield from look_again(session, layout.shards[index], e, began, deadline)
        attempts += 1
        yield from pause(session, attempts, deadline)
        if session.clock() < deadline:  # else that would be what is said to be missing
            yield from fetch_layout(session, deadline)


def _ids_of(
    session: Session, layout: Layout, index: int, entry: TableEntry, deadline: float
) -> Asking[list[np.ndarray]]:
    request = pb.ReadRowsRequest(
        header=layout.header(index), table=entry.number, limit_bytes=PIECE_BYTES, ids_only=True
    )
    pieces: list[np.ndarray] = []
    while True:
        data = yield from _asked(session, layout, index, methods.READ_ROWS, request, deadline)
        reply = pb.ReadRowsReply.FromString(data)
        pieces.append(np.frombuffer(reply.ids, "<i8").astype(np.int64))
        if not reply.next:
            return pieces
        request.cursor = reply.next


def _asked(
    session: Session,
    layout: Layout,
    index: int,
    method: str,
    request: pb.ReadRowsRequest | pb.HottestIdsRequest,
    deadline: float,
) -> Asking[bytes]:
    """The answer of one shard. Raises what it answered."""
    until = min(deadline, session.clock() + ATTEMPT_TIMEOUT_S)
    data = request.SerializeToString()
    event = yield from call(session, layout.shards[index].address, method, data, until)
    if event.error is not None:
        raise event.error
    return bytes(event.data)
