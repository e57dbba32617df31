"""Requests as they are sent, the codec's own bytes; and replies read where they lie."""

import random
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowloom.client import SGD, InvalidRequest, PushUnresolved, RowloomError, StateLost, TableSpec
from rowloom.client.calls import operations
from rowloom.client.calls.cutting import RequestSizes
from rowloom.client.calls.operation import Event, Message, as_bytes
from rowloom.client.calls.requests import PullRequest, PushRequest
from rowloom.client.calls.session import Session
from rowloom.client.lookups.bags import Bags
from rowloom.proto import codec
from rowloom.proto.framing import joined
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.plain import put_push
from rowloom.proto.spec import WIRES, TableEntry

LAYOUT = Layout("cluster", 7, tuple(ShardAddress(i, f"h:{i}") for i in range(3)))
SEEDS = st.integers(0, 10**6)
WIRE = st.sampled_from(WIRES)


def a_session(rng: np.random.Generator, sizes: RequestSizes | None = None) -> Session:
    client = int(rng.integers(1, 2**60))
    session = Session(["h:0"], client, random.Random(0), time.monotonic, threading.Lock(), sizes)
    session.layout = LAYOUT
    return session


def some_tables(rng: np.random.Generator) -> list[TableEntry]:
    """One to four tables."""
    numbers = rng.choice([1, 127, 128, 70_000], int(rng.integers(1, 5)), replace=False)
    specs = [TableSpec(f"t{n}", 1000, dim=int(rng.integers(1, 40)), optimizer=SGD()) for n in numbers]
    return [TableEntry(int(n), spec) for n, spec in zip(numbers, specs, strict=True)]


def some_ids(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 1000, int(rng.choice([0, 1, 2, 60])))


def sent(operation) -> list:
    """What an operation sends at first."""
    try:
        return next(operation).sends
    except StopIteration:
        return []


def expected(request) -> bytes:
    """What the codec makes of a request that has been prepared."""
    if isinstance(request, PushRequest) and request.pull is not None:
        return joined(codec.Step(push_message(request), pull_message(request.pull)).encode())
    message = push_message(request) if isinstance(request, PushRequest) else pull_message(request)
    return joined(message.encode())


def pull_message(request: PullRequest) -> codec.Pull:
    tables = [(entry.number, ids) for entry, ids, _, _ in request.tables]
    return codec.Pull(LAYOUT.header(request.shard), tables, request.wire)


def push_message(request: PushRequest) -> codec.Push:
    message = codec.Push._of_head(bytearray(request._head.tobytes()))
    for entry, ids, values in request.tables:
        message.tables.append((entry.number, ids, codec.to_wire(values.array(), request.wire)))
    return message


@given(seed=SEEDS, at=st.integers(0, 70), wire=WIRE, kind=st.sampled_from(["pull", "push", "step", "assign"]))
def test_what_is_sent_is_what_the_codec_would_send(seed: int, at: int, wire: str, kind: str) -> None:
    rng = np.random.default_rng(seed)
    session, entries = a_session(rng), some_tables(rng)
    wanted = [(entry, some_ids(rng)) for entry in entries]
    brought = []
    for entry in entries:
        ids = some_ids(rng)
        brought.append((entry, ids, rng.normal(size=(len(ids), entry.spec.width))))
    deadline = time.monotonic() + 60
    operation = {
        "pull": lambda: operations.pull(session, wanted, deadline, wire),
        "push": lambda: operations.push(session, brought, deadline, wire=wire),
        "step": lambda: operations.step(session, brought, wanted, deadline, wire),
        "assign": lambda: operations.push(session, brought, deadline, codec.ASSIGN),
    }[kind]()
    for send in sent(operation):
        message = send.message
        buffer = np.full(at + message.size + 40, 7, np.uint8)
        begin, end = message.write(buffer, at)
        assert at <= begin < at + 4
        assert end <= at + message.size
        assert buffer[begin:end].tobytes() == expected(message) == as_bytes(message)
        assert (buffer[:at] == 7).all()
        assert (buffer[end:] == 7).all()
        again = np.empty(len(buffer), np.uint8)
        assert message.write(again, at) == (begin, end)
        assert again[begin:end].tobytes() == buffer[begin:end].tobytes()


def test_gradients_of_the_first_table_lie_where_whole_vectors_can_be_written() -> None:
    buffer, head = np.zeros(1000, np.uint8), np.zeros(17, np.uint8)
    for at in range(20):
        for inside in (False, True):
            begin, values = put_push(buffer, at, head, 40, 1, np.arange(5), 16, inside)
            assert at <= begin < at + 4
            assert values % 4 == 0
            assert put_push(buffer, at, head[:0], 40, 1, np.arange(5), 16, False)[0] == at


def test_bytes_are_sent_as_they_are() -> None:
    buffer = np.zeros(10, np.uint8)
    assert Message(b"abc").write(buffer, 4) == (4, 7)
    assert buffer[4:7].tobytes() == as_bytes(Message(b"abc")) == b"abc"


def pull_in(request) -> PullRequest:
    return request.pull if isinstance(request, PushRequest) else request


def answered(request, rng: np.random.Generator, duplicate: bool) -> tuple[bytes, list]:
    """The reply to a request, and the rows in it."""
    pull = pull_in(request)
    shapes = [(len(ids), entry.spec.width) for entry, ids, _, _ in pull.tables]
    blocks = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    reply = codec.PullReply([codec.to_wire(rows, pull.wire) for rows in blocks], pull.wire)
    if isinstance(request, PushRequest):
        return joined(codec.StepReply(duplicate, reply).encode()), blocks
    return joined(reply.encode()), blocks


@given(seed=SEEDS, fused=st.booleans(), duplicate=st.booleans(), wire=WIRE, lies=st.booleans())
def test_rows_are_read_where_the_reply_lies_and_nothing_is_read_from_other_replies(
    seed: int, fused: bool, duplicate: bool, wire: str, lies: bool
) -> None:
    rng = np.random.default_rng(seed)
    session, entries = a_session(rng), some_tables(rng)
    wanted = [(entry, rng.integers(0, 1000, 40)) for entry in entries]
    pushed = [(entry, np.arange(9), np.zeros((9, entry.spec.width))) for entry in entries] if fused else []
    deadline = time.monotonic() + 60
    for send in sent(operations.step(session, pushed, wanted, deadline, wire)):
        data, blocks = answered(send.message, rng, duplicate)
        if lies:
            cut = int(rng.integers(1, len(data)))
            for wrong in (data[:cut], data + b"\x12\x01x", b"", rng.bytes(len(data))):
                with pytest.raises(InvalidRequest):
                    send.message.accept(wrong)
        at = int(rng.integers(0, 9))
        buffer = np.frombuffer(bytearray(b"x" * at + data + b"y"), np.uint8)
        send.message.accept(buffer[at : at + len(data)])
        pull = pull_in(send.message)
        for (entry, _, arrived, places), rows in zip(pull.tables, blocks, strict=True):
            arrives = codec.from_wire(codec.to_wire(rows, pull.wire), pull.wire)
            for k, place in enumerate(range(places.start, places.stop)):
                one = arrived._where[place]
                assert one != 0
                np.testing.assert_array_equal(
                    _row_at(one, entry.spec.width), arrives[k], err_msg=f"{wire} {k}"
                )


def _row_at(address: int, width: int) -> np.ndarray:
    import ctypes

    return np.frombuffer((ctypes.c_char * (4 * width)).from_address(int(address)), np.float32).copy()


@given(seed=SEEDS, whole=st.integers(8, 400), piece=st.integers(8, 200), fused=st.booleans())
def test_however_a_call_is_cut_every_id_goes_once_and_pulls_come_after_pushes(
    seed: int, whole: int, piece: int, fused: bool
) -> None:
    rng = np.random.default_rng(seed)
    session, entries = a_session(rng, RequestSizes(whole, piece)), some_tables(rng)
    brought = [(entry, some_ids(rng)) for entry in entries]
    brought = [(entry, ids, np.ones((len(ids), entry.spec.width))) for entry, ids in brought]
    operation = operations.step(session, brought, [], time.monotonic() + 60)
    requests, sends = [], sent(operation)
    while sends:  # a few at a time
        requests += [send.message for send in sends]
        more = []
        for send in sends:
            try:
                more += operation.send(Event(send.tag, b"")).sends
            except StopIteration:
                break
        sends = more
    for entry, ids, _ in brought:
        mine = [some for r in requests for of, some, _ in r.tables if of is entry]
        assert sorted(np.concatenate([np.empty(0, np.int64), *mine]).tolist()) == sorted(set(ids.tolist()))
    for request in requests:
        assert len({entry.number for entry, *_ in request.tables}) == len(request.tables)
    numbers = [name for request in requests for name in request.names]
    assert len(set(numbers)) == len(numbers)
    assert not any(pusher.open_numbers for pusher in session.pushers)


@pytest.mark.parametrize(
    ("error", "unknown"),
    [
        (RowloomError("internal error"), 3),
        (PushUnresolved("half-way"), 3),
        (InvalidRequest("id 5 is another shard's"), 0),
        (StateLost("started anew"), 0),
    ],
)
def test_an_error_of_a_shard_that_leaves_open_what_became_of_a_push_is_no_promise_that_nothing_did(
    error: RowloomError, unknown: int
) -> None:
    session = a_session(np.random.default_rng(0))
    entry = TableEntry(1, TableSpec("t", 1000, dim=4))
    operation = operations.push(session, [(entry, [0, 3, 6], np.ones((3, 4)))], time.monotonic() + 60)
    (send,) = next(operation).sends
    with pytest.raises(PushUnresolved if unknown else type(error)) as raised:
        operation.send(Event(send.tag, error=error))
    assert getattr(raised.value, "unknown_rows", 0) == unknown
    assert not any(pusher.open_numbers for pusher in session.pushers)


def test_a_call_that_is_cut_by_an_exception_leaves_no_number_open() -> None:
    """One Ctrl-C in 65,536 pushes made every later push to that shard Overloaded."""
    rng = np.random.default_rng(0)
    session = a_session(rng)
    entry = TableEntry(1, TableSpec("t", 1000, dim=4))
    bags = Bags(np.arange(30), np.arange(30), None, (30,))
    shares = operations.Shares(bags.segments, None)
    given_rows = [(entry, np.arange(30), np.ones((30, 4)))]
    for make in (
        lambda: operations.push(session, given_rows, time.monotonic() + 60),
        lambda: operations.step(session, given_rows, [(entry, [1])], time.monotonic() + 60),
        lambda: operations.renorm(session, entry, np.arange(9), 1.0, 2.0, time.monotonic() + 60),
        lambda: operations.push_bags(
            session, entry, bags.ids, shares, (30,), np.ones((30, 4)), time.monotonic() + 60
        ),
    ):
        closed, thrown = make(), make()
        next(closed)
        closed.close()
        next(thrown)
        with pytest.raises(KeyboardInterrupt):
            thrown.throw(KeyboardInterrupt())
        assert not any(pusher.open_numbers for pusher in session.pushers)
    assert len(session.pushers) == 1  # none of these calls was under way with another
