"""Single requests as operations: for the layout, to the coordinator, to every shard. No I/O, no threads."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from google.protobuf.message import DecodeError

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import (
    InvalidRequest,
    NoAnswer,
    Rerouted,
    RowloomError,
    StateLost,
    TableNotFound,
    Unavailable,
    WrongCluster,
)
from ...proto.layout import Layout, ShardAddress
from .operation import Event, Message, Operation, Send, Turn
from .outages import NO_ANSWER, dead, named
from .session import ATTEMPT_TIMEOUT_S, Session, backoff_s

ELSEWHERE_S = 1.0  # what a server gets to say where the coordinator is


def fetch_layout(session: Session, deadline: float) -> Operation:
    """Ask all known addresses for the layout until one knows it.

    Raises:
        RowloomError: what the addresses answered, if none of them is one that may still come to know it.
        Unavailable: no answer in time; says what each address answered last.
    """
    attempts = 0
    answers: dict[str, str] = {}  # by address, the last
    while True:
        addresses = session.addresses()
        final: list[RowloomError] = []
        for k, address in enumerate(addresses):
            left = deadline - session.clock()
            if left <= 0:
                last = "; ".join(answers.values()) or "none"
                raise Unavailable(
                    f"no rowloom cluster answered at {', '.join(session.seeds)} within the deadline; last answer: "
                    f"{last}. Is it up (`rowloom status`), and is the address right?"
                )
            # The first time around, one address that never answers must leave time for the others.
            share = left / (len(addresses) - k) if not attempts else left
            until = session.clock() + min(share, 2.0)
            event = yield from call(session, address, methods.DESCRIBE_LAYOUT, b"", until)
            error = event.error or _learned(session, address, event.data)
            if error is None:
                return None
            answers[address] = str(error)
            if not isinstance(error, Rerouted | Unavailable):
                final.append(error)
        if len(final) == len(addresses):
            raise final[0] if len(final) == 1 else type(final[0])("; ".join(map(str, final)))
        session.lost()
        attempts += 1
        yield from pause(session, attempts, deadline)


def _learned(session: Session, address: str, data: Any) -> RowloomError | None:
    """Take the layout of a reply; the error if it has none."""
    try:
        reply = pb.DescribeLayoutReply.FromString(bytes(data))
        learned = session.learn(reply)
    except (DecodeError, ValueError):  # a server that answers, but no shard and no coordinator of ours
        return InvalidRequest(f"what answers at {address} is no rowloom server of this version")
    if learned:
        return None
    found, mine = reply.layout.cluster_id, session.layout
    if not found or mine is None:
        return Unavailable(f"{address} has no layout yet")
    return Unavailable(f"{address} is of another cluster, {found!r}; this client is of {mine.cluster_id!r}")


def look_for_standbys(session: Session, deadline: float) -> Operation:
    """Ask the coordinator once which standbys there are. Whatever comes of it, nobody waits for that."""
    layout = session.layout
    if layout is None or not layout.coordinator:
        return
    until = min(deadline, session.clock() + ELSEWHERE_S)
    event = yield from call(session, layout.coordinator, methods.DESCRIBE_LAYOUT, b"", until)
    if event.error is None:
        session.learn(pb.DescribeLayoutReply.FromString(bytes(event.data)))


def known_layout(session: Session, deadline: float) -> Generator[Turn, Event | None, Layout]:
    """The layout as the session knows it, asked for if it knows none. Raises Unavailable."""
    if session.layout is None:
        yield from fetch_layout(session, deadline)
    assert session.layout is not None
    return session.layout


# Requests to the coordinator: they say which cluster they are meant for.
Change = (
    pb.DefineTableRequest
    | pb.RemoveTableRequest
    | pb.AdjustTableRequest
    | pb.TakeSnapshotRequest
    | pb.DescribeRestoredRequest
)


def ask(session: Session, method: str, request: Change, deadline: float) -> Operation:
    """One call to the coordinator, repeated until it is answered. Returns the reply's bytes.

    Args:
        session: of the cluster that is meant.
        method: of `methods.py`.
        request: its message; the cluster is filled in.
        deadline: on the session's clock.

    Raises:
        RowloomError: what it answered; Unavailable when the deadline passes, or another cluster has its place.
    """
    attempts, begun = 0, ""
    last: RowloomError | None = None
    while session.clock() < deadline:
        layout = session.layout
        if layout is None or not layout.coordinator or attempts % 4 == 3:  # it may have moved
            try:
                yield from fetch_layout(session, deadline)
            except Unavailable:  # the time is up, and what was answered before says more
                if last is None:
                    raise
                break
        assert session.layout is not None
        until = min(deadline, session.clock() + ATTEMPT_TIMEOUT_S)
        request.cluster_id, address = session.layout.cluster_id, session.layout.coordinator
        event = yield from call(session, address, method, request.SerializeToString(), until)
        if event.error is None:
            return event.data
        if isinstance(event.error, WrongCluster):
            yield from _look_elsewhere(session, address, event.error, deadline)
        if isinstance(event.error, TableNotFound) and attempts and method == methods.DROP_TABLE:
            return b""  # an earlier attempt dropped it and its answer was lost
        if not isinstance(event.error, Rerouted | Unavailable):
            raise event.error
        if isinstance(event.error, NoAnswer):
            begun = ". The change may have been begun, and then it is finished when it can be: `rowloom status` tells"
        # What came before says more than an attempt that had no time, or that something else was in progress.
        if _says(event.error) >= _says(last) or (isinstance(event.error, NoAnswer) and until < deadline):
            last = event.error
        attempts += 1
        yield from pause(session, attempts, deadline)
    if _says(last):  # it says who is to blame, which need not be the coordinator
        raise Unavailable(f"not done within the deadline: {last}")
    where = session.layout.coordinator if session.layout is not None else ""
    raise Unavailable(
        f"the coordinator did not do it within the deadline; last answer: {last or 'none'}{begun}{_look(where)}"
    )


def _look(coordinator: str) -> str:
    """In words, how to see what became of a coordinator that does not answer."""
    asked = f"`rowloom status --address {coordinator}`" if coordinator else "`rowloom status`"
    return (
        f". Is it up? {asked} says whether it answers from here; on the machine that `rowloom up` ran on, `rowloom "
        "status` says whether its process runs or stands still, and what to type"
    )


def _says(error: RowloomError | None) -> int:
    """How much an error says of why something is not done."""
    if error is None or isinstance(error, NoAnswer):
        return 0
    return 1 if isinstance(error, Rerouted) else 2


def take_snapshot(session: Session, request: pb.TakeSnapshotRequest, timeout_s: float) -> Operation:
    """A snapshot, as long as it takes. Returns the coordinator's last reply.

    Args:
        session: of the cluster that is meant.
        request: with a key of its own.
        timeout_s: in which the coordinator must answer each time.

    Raises:
        RowloomError: what it answered; Unavailable when it does not answer, or something else changes the cluster.
    """
    asks = pb.TakeSnapshotRequest(key=request.key, asks=True)
    wanted = request
    while True:
        data = yield from ask(session, methods.TAKE_SNAPSHOT, wanted, session.clock() + timeout_s)
        reply = pb.TakeSnapshotReply.FromString(bytes(data))
        if reply.state == "done":
            return reply
        # "unknown": another coordinator took over, and nothing came of what the one before had begun.
        wanted = request if reply.state == "unknown" else asks


def _look_elsewhere(session: Session, address: str, error: WrongCluster, deadline: float) -> Operation:
    """Another cluster answers where the coordinator was: is there a newer layout that says where it is now?

    Raises:
        Unavailable: there is none.
    """
    for other in session.addresses():
        if other != address:
            until = min(deadline, session.clock() + ELSEWHERE_S)
            event = yield from call(session, other, methods.DESCRIBE_LAYOUT, b"", until)
            if event.error is None:
                session.learn(pb.DescribeLayoutReply.FromString(bytes(event.data)))
    if session.layout is not None and session.layout.coordinator == address:
        raise Unavailable(
            f"another cluster answers at {address} now ({error}), and it was not changed: the cluster of this client "
            "has ended, or its coordinator has. Connect again to use what is there now"
        ) from error


def ask_shards(session: Session, method: str, request: bytes, deadline: float) -> Operation:
    """One call to every shard, repeated until it is answered. Returns the replies by shard. Raises RowloomError."""
    replies: list[Any] = []
    if session.layout is None:
        yield from fetch_layout(session, deadline)
    assert session.layout is not None
    for index in range(session.layout.n):
        attempts, began = 0, session.clock()
        while True:
            assert session.layout is not None
            address = session.layout.shards[index].address
            until = min(deadline, session.clock() + ATTEMPT_TIMEOUT_S)
            event = yield from call(session, address, method, request, until)
            if event.error is None:
                session.outages.answered(index, session.clock())
                replies.append(event.data)
                break
            yield from look_again(session, session.layout.shards[index], event.error, began, deadline)
            attempts += 1
            yield from pause(session, attempts, deadline)
    return replies


def look_again(
    session: Session, shard: ShardAddress, error: RowloomError, began: float, deadline: float
) -> Operation:
    """Before a shard is asked once more: the coordinator says where it is by now, or that it is dead.

    Args:
        session: of the client.
        shard: that was asked.
        error: what came in place of an answer.
        began: when it was asked first.
        deadline: on the session's clock.

    Raises:
        StateLost: it has lost its rows, or is dead for good.
        Unavailable: it has not answered before the deadline.
        RowloomError: the error, where it would be the same once more.
    """
    if isinstance(error, StateLost):
        raise StateLost(f"{named(shard)}: {error}") from error
    if not isinstance(error, Rerouted | Unavailable):
        raise error
    now, layout, outages = session.clock(), session.layout, session.outages
    if now >= deadline:  # what came before says more than an attempt that had no time
        said = outages.in_words(shard, now, str(error))
        raise Unavailable(f"{said}. {outages.what_next([shard], session.durability)}") from error
    outages.failed(shard, error, began, now, deadline, session.durability)
    if layout is None or not layout.coordinator:
        return
    until = min(deadline, now + ELSEWHERE_S)
    event = yield from call(session, layout.coordinator, methods.DESCRIBE_LAYOUT, b"", until)
    if event.error is None and _learned(session, layout.coordinator, event.data) is None:
        reply = pb.DescribeLayoutReply.FromString(bytes(event.data))
        if reply.layout.epoch == layout.epoch and shard.index in reply.dead:
            raise dead(shard)


def statistics(session: Session, deadline: float) -> Operation:
    """Counters of every shard, by shard. Raises RowloomError."""
    request = pb.StatisticsRequest().SerializeToString()
    replies = yield from ask_shards(session, methods.STATISTICS, request, deadline)
    return [_as_dict(pb.StatisticsReply.FromString(reply)) for reply in replies]


def _as_dict(reply: pb.StatisticsReply) -> dict[str, Any]:
    out: dict[str, Any] = {
        f.name: getattr(reply, f.name)
        for f in reply.DESCRIPTOR.fields
        if f.name not in ("tables", "counts", "traffic")
    }
    counts = {c.table: {f.name: getattr(c, f.name) for f in c.DESCRIPTOR.fields[1:]} for c in reply.counts}
    out["tables"] = {
        t.name: {f.name: getattr(t, f.name) for f in t.DESCRIPTOR.fields[2:]} | counts.get(t.name, {})
        for t in reply.tables
    }
    out["rows"] = sum(t.rows for t in reply.tables)
    out["bytes"] = sum(t.bytes for t in reply.tables)
    return out


def call(
    session: Session, address: str, method: str, request: bytes, until: float
) -> Generator[Turn, Event | None, Event]:
    """One request and its end."""
    tag = next(session.tags)
    event = yield Turn([Send(tag, address, method, Message(request), until)], until)
    while session.clock() < until and (event is None or event.tag != tag):
        event = yield Turn([], until)
    if event is None or event.tag != tag:
        return Event(tag, error=NoAnswer.of(address, NO_ANSWER))
    return event


def pause(session: Session, attempts: int, deadline: float) -> Generator[Turn, Event | None, None]:
    """Wait before another attempt, not beyond the deadline."""
    until = min(deadline, session.clock() + backoff_s(attempts, session.rng))
    while session.clock() < until:
        yield Turn([], until)
