"""Messages that nobody sends, to every method of a host. What lanes are told: `tests/end_to_end/test_fuzzed_lanes.py`.

`ROWLOOM_FUZZ_S=1800 pytest tests/server/test_fuzz.py` goes on for half an hour, from another seed each time.
"""

import contextlib
import os
import secrets
import time

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from mutations import spoiled
from right_messages import CALLER, IDS, LAYOUT, MINE, ask, fresh, requests

from rowloom.client import (
    FTRL,
    SGD,
    Adadelta,
    Adam,
    AdamW,
    Constant,
    Constraint,
    Cosine,
    Exponential,
    InvalidRequest,
    Normal,
    RMSprop,
    RowwiseAdagrad,
    TableSpec,
    TruncatedNormal,
    Uniform,
    WarmUp,
)
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import Pull, PullReply
from rowloom.proto.errors import PushUnresolved, RowloomError
from rowloom.proto.spec import TableEntry
from rowloom.server import states
from rowloom.server.call import Call
from rowloom.server.host import Host

SECONDS = float(os.environ.get("ROWLOOM_FUZZ_S", "0"))
SEED = secrets.randbits(32) if SECONDS else 20240611
ROUNDS = 20_000
REBUILD_EVERY = 300  # tables that come of it, and what they take, go with the host


def mine(host: Host) -> list[float]:
    rows = PullReply.decode(ask(host, methods.PULL, Pull(LAYOUT.header(0), [(MINE.number, IDS)])))
    return rows.blocks[0].data.tolist()


def still_serving(host: Host) -> bool:
    """Whether it is as it was, as far as a later message can tell: some of the spoiled ones are right steps."""
    # Else a standby may have taken its place.
    alone = host.feed is None or host.feed.holds(host.process.now())
    same = host.incoming is None and host.turn == 5 and not host.tasks
    return isinstance(host.state, states.Serving) and same and alone


def outcome(host: Host, method: str, data: bytes) -> Exception | None:
    """What came of a message."""
    try:
        host.handle(Call(method, data, CALLER))
    except Exception as e:
        return e
    return None


def rounds(least: int):
    """Numbers, until the time that was asked for is over."""
    until, k = time.monotonic() + SECONDS, 0
    while k < least or time.monotonic() < until:
        yield k
        k += 1


def test_every_method_has_a_right_message_here() -> None:
    host = Host()
    assert {method for method, _ in requests()} == {*host._rows, *host._methods}
    for method, request in requests():
        with contextlib.suppress(RowloomError):
            fresh().handle(Call(method, request.SerializeToString(), CALLER))


@pytest.mark.timeout(0 if SECONDS else 300)
def test_whatever_bytes_come_are_answered_or_refused_and_harm_nobody_else() -> None:
    rng = np.random.default_rng(SEED)
    known = requests()
    host = fresh()
    for k in rounds(ROUNDS):
        if k % REBUILD_EVERY == 0 or not still_serving(host):
            host = fresh()
        method, request = known[int(rng.integers(len(known)))]
        data = spoiled(request, rng)
        what = f"seed {SEED}, round {k}, {method}, {data!r}"
        if method == methods.READ_LEDGER:
            host.state = states.Moving(host.state.shard)  # type: ignore[arg-type]
        error = outcome(host, method, data)
        known_error = isinstance(error, RowloomError) and type(error) is not RowloomError and str(error)
        if error is not None and (not known_error or isinstance(error, PushUnresolved)):
            raise AssertionError(what) from error
        if isinstance(host.state, states.Moving):
            host.state = states.Serving(host.state.shard)
        if still_serving(host) and host.shard.layout == LAYOUT:  # type: ignore[union-attr]
            assert mine(host) == [1.0] * (3 * len(IDS)), what


@pytest.mark.timeout(0 if SECONDS else 300)
def test_a_recipe_with_anything_wrong_is_refused_by_name() -> None:
    """Of every optimizer and initializer: those of the tables above are few, since each has kernels to compile."""
    rng = np.random.default_rng(SEED)
    schedules = [Exponential(0.1, 10, 0.5), Cosine(0.1, 10), WarmUp(5, after=Exponential(0.1, 10, 0.5))]
    optimizers = [SGD(lr=s) for s in schedules] + [
        Adam(),
        AdamW(),
        RMSprop(),
        Adadelta(),
        FTRL(),
        RowwiseAdagrad(),
    ]
    specs = [TableSpec("t", None, optimizer=o, constraint=Constraint(clip_norm=1.0)) for o in optimizers]
    specs += [
        TableSpec("t", 9, dim=2, initializer=i)
        for i in (Uniform(), Normal(), TruncatedNormal(), Constant(1.0))
    ]
    known = [TableEntry(k, spec, lr=0.5, lr_version=k).to_message() for k, spec in enumerate(specs)]
    for k in rounds(ROUNDS):
        data = spoiled(known[k % len(known)], rng)
        with contextlib.suppress(DecodeError):
            message = pb.TableEntry.FromString(data)
            try:
                entry = TableEntry.from_message(message)
            except InvalidRequest:
                continue
            except Exception as e:
                raise AssertionError(f"seed {SEED}, round {k}, {message}") from e
            assert TableEntry.from_message(entry.to_message()) == entry
