"""How long an attempt may take: what its bytes need on a slow link, and ever more while none gets through."""

import random
import threading

import numpy as np
import pytest

from rowloom.client import SGD, TableSpec, Unavailable
from rowloom.client.calls import operations
from rowloom.client.calls.operation import Event, Send
from rowloom.client.calls.session import ATTEMPT_TIMEOUT_S, SLOWEST_BYTES_S, Session
from rowloom.proto.errors import NoAnswer
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry

DIM = 512
ENTRY = TableEntry(1, TableSpec("t", 10_000, dim=DIM, optimizer=SGD()))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pushing(clock: Clock, ids: int):
    """A push of so many ids to one shard."""
    session = Session(["h:0"], 1, random.Random(0), clock, threading.Lock())
    session.layout = Layout("c", 1, (ShardAddress(0, "h:0"),))
    grads = np.zeros((ids, DIM), np.float32)
    return operations.push(session, [(ENTRY, np.arange(ids), grads)], deadline=10_000.0)


def pulling(clock: Clock, deadline: float):
    """A pull of a row, and the session whose it is."""
    session = Session(["h:0"], 1, random.Random(0), clock, threading.Lock())
    session.layout = Layout("c", 1, (ShardAddress(0, "h:0"),))
    return operations.pull(session, [(ENTRY, np.arange(1))], deadline), session


def size_of(send: Send) -> int:
    return send.message.size  # type: ignore[attr-defined]


def test_an_attempt_of_many_bytes_gets_the_time_that_a_slow_link_takes_for_them(clock: Clock) -> None:
    # Each was cut after ten seconds and sent anew, for ever: a link of a few MB/s never took a large push.
    sends = next(pushing(clock, 5000)).sends
    assert sum(map(size_of, sends)) > 8 << 20
    before = 0
    for send in sends:  # they share the link
        before += size_of(send)
        assert send.until - clock.now >= ATTEMPT_TIMEOUT_S + before / SLOWEST_BYTES_S
    (small,) = next(pushing(clock, 1)).sends
    assert small.until - clock.now < ATTEMPT_TIMEOUT_S + 1


def test_time_in_which_kernels_are_compiled_is_not_taken_from_the_call(clock: Clock) -> None:
    # On a machine that had compiled none, a first pull with a short time-out failed: the shards "did not answer".
    operation, session = pulling(clock, deadline=2.0)
    next(operation)
    session.compiled_s = lambda deadline: {2.0: 2.5}[deadline]
    clock.now = 3.0
    assert operation.send(None).wake_at == 4.5
    clock.now = 4.5
    with pytest.raises(Unavailable, match="no answer in time"):
        operation.send(None)


def test_an_attempt_after_one_that_got_no_answer_may_take_longer(clock: Clock) -> None:
    operation = pushing(clock, 1000)
    given: list[float] = []
    turn = next(operation)
    for _ in range(4):
        (send,) = [one for one in turn.sends if getattr(one.message, "size", 0) > 1 << 20]
        given.append(send.until - clock.now - ATTEMPT_TIMEOUT_S)
        clock.now = send.until
        turn = operation.send(Event(send.tag, error=NoAnswer("h:0 did not answer in time")))
        for _ in range(20):  # the layout is asked for meanwhile, and a pause is made
            if any(getattr(one.message, "size", 0) > 1 << 20 for one in turn.sends):
                break
            asked = [Event(one.tag, error=Unavailable("no")) for one in turn.sends]
            clock.now = clock.now if asked else turn.wake_at
            turn = operation.send(asked[0] if asked else None)
    assert given == pytest.approx([given[0] * k for k in (1, 2, 4, 8)])
    assert given[0] > 1
    operation.close()
