"""Messages that nobody sends, to every method of a host. What lanes are told: `tests/end_to_end/test_fuzzed_lanes.py`.

`ROWLOOM_FUZZ_S=1800 pytest tests/server/test_fuzz.py` goes on for half an hour, from another seed each time.
"""

import contextlib
import os
import secrets
import time

import numpy as np
import pytest
from google.protobuf.message import DecodeError, Message
from mutations import spoiled

from rowloom.client import (
    FTRL,
    SGD,
    Adadelta,
    Adagrad,
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
    Zeros,
)
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import ASSIGN, RENORM, Block, PartName, Pull, PullReply, Push, Step
from rowloom.proto.codec_bags import Entries, PullBags
from rowloom.proto.errors import PushUnresolved, RowloomError
from rowloom.proto.framing import joined
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry
from rowloom.server import states
from rowloom.server.call import Call, Caller
from rowloom.server.host import Host
from rowloom.server.shard import Shard

SECONDS = float(os.environ.get("ROWLOOM_FUZZ_S", "0"))
SEED = secrets.randbits(32) if SECONDS else 20240611
ROUNDS = 20_000
REBUILD_EVERY = 300  # tables that come of it, and what they take, go with the host

LAYOUT = Layout("c", 3, (ShardAddress(0, "h:1", 1), ShardAddress(1, "h:2", 2)))
NEXT = LAYOUT.next(LAYOUT.shards[:1], [])
CALLER = Caller("test")
TABLES = [
    TableEntry(1, TableSpec("t", 1000, dim=3, optimizer=SGD(lr=1.0), initializer=Zeros())),
    TableEntry(2, TableSpec("u", None, dim=2, optimizer=Adagrad(lr=0.1), initializer=Zeros())),
]
# Of the client that does nothing wrong: a number that no change of a few bytes makes.
MINE = TableEntry(0x5A17C3E, TableSpec("mine", 1000, dim=3, optimizer=SGD(lr=1.0), initializer=Zeros()))
IDS = np.arange(0, 40, 2)


def fresh() -> Host:
    """A host that serves, with rows of the honest client and some of others."""
    host = Host(state=states.Serving(Shard(LAYOUT, 0, [*TABLES, MINE])), turn=5)
    ask(host, methods.PUSH, push(9, MINE.number, IDS, -np.ones((len(IDS), 3), np.float32), client=1))
    ask(host, methods.PUSH, push(1, 1, IDS, np.ones((len(IDS), 3), np.float32)))
    ask(host, methods.PUSH, push(2, 2, IDS, np.ones((len(IDS), 2), np.float32)))
    return host


def push(seq: int, table: int, ids: np.ndarray, values: np.ndarray, client: int = 7, **more) -> Push:
    block = Block(values, bags=more.pop("bags", None), factors=more.pop("factors", None))
    name = PartName(LAYOUT.epoch, 0, seq)
    return Push(LAYOUT.header(0), client, (name,), push=seq, tables=[(table, ids, block)], **more)


def ask(host: Host, method: str, request) -> bytes:
    data = joined(request.encode()) if hasattr(request, "encode") else request.SerializeToString()
    return joined(host.handle(Call(method, data, CALLER)).buffers)


def requests() -> list[tuple[str, Message]]:
    """A right message for every method, several for some."""
    head = LAYOUT.header(0)
    ones, bags = np.ones((20, 3), np.float32), np.repeat(np.arange(5, dtype=np.int32), 4)
    tables = [entry.to_message() for entry in TABLES]
    pull = Pull(head, [(1, IDS), (2, IDS)])
    pushes = [
        push(10, 1, IDS, ones),
        push(11, 1, IDS, ones, kind=ASSIGN),
        push(12, 1, IDS, ones[:0], kind=RENORM, max_norm=0.5, norm_type=2.0),
        push(13, 1, IDS, ones[:5], bags=bags, factors=np.ones(20, np.float32)),
        push(14, 2, IDS, np.ones((20, 2), np.float32)),
    ]
    found: list[tuple[str, object]] = [(methods.PUSH, p) for p in pushes]
    found += [
        (methods.PULL, pull),
        (methods.STEP, Step(push(15, 1, IDS, ones), pull)),
        (
            methods.PULL_BAGS,
            PullBags(head, [Entries(1, IDS, bags, np.ones(20, np.float32)), Entries(2, IDS, bags)]),
        ),
    ]
    classes = {
        methods.PUSH: pb.PushRequest,
        methods.PULL: pb.PullRequest,
        methods.STEP: pb.StepRequest,
        methods.PULL_BAGS: pb.PullBagsRequest,
    }
    hot = [(method, classes[method].FromString(joined(r.encode()))) for method, r in found]  # type: ignore[attr-defined]
    source, layout = LAYOUT.to_message(), NEXT.to_message()
    control: list[tuple[str, Message]] = [
        (methods.DESCRIBE_LANE, pb.LaneRequest()),
        (methods.SHARD_CREATE_TABLE, pb.CreateTableRequest(header=head, table=made(8).to_message())),
        (methods.SHARD_DROP_TABLE, pb.DropTableRequest(header=head, table=9)),
        (methods.LIST_TABLES, pb.ListTablesRequest()),
        (methods.SHARD_SET_LEARNING_RATE, pb.SetLearningRateRequest(header=head, table=1, lr=0.5, version=3)),
        (methods.STATISTICS, pb.StatisticsRequest()),
        (methods.ADOPT, pb.AdoptRequest(layout=source, index=0, turn=5, tables=tables)),
        (methods.PREPARE, pb.PrepareRequest(source=source, layout=layout, index=0, tables=tables, turn=5)),
        (methods.FREEZE, pb.FreezeRequest(cluster_id="c", epoch=3, on=False, turn=5)),
        (methods.BRAKE, pb.BrakeRequest(cluster_id="c", epoch=3, turn=5, row_s=1e-6)),
        (
            methods.READ_PASS,
            pb.ReadPassRequest(header=head, tables=[1], new_n=2, new_index=1, limit_bytes=1000),
        ),
        (methods.READ_ROWS, pb.ReadRowsRequest(header=head, table=1, new_n=1, limit_bytes=1000)),
        (methods.HOTTEST_IDS, pb.HottestIdsRequest(header=head, table=1, limit=10, recent=True)),
        (methods.READ_LEDGER, pb.ReadLedgerRequest(header=head)),
        (methods.PROGRESS, pb.ProgressRequest()),
        (methods.STAND_BY, pb.StandByRequest(layout=source, index=0, turn=5, lease_s=2.0)),
        (
            methods.SET_STANDBY,
            pb.SetStandbyRequest(cluster_id="c", epoch=3, turn=5, standby=7, waits=True, lease_s=1e9),
        ),
        (
            methods.ATTACH,
            pb.AttachRequest(header=head, standby=7, feed=1, tables=[1, 2], since=1, limit_bytes=1 << 20),
        ),
        (methods.FOLLOW, pb.FollowRequest(header=head, feed=1, position=0, heard=0)),
        (methods.CUT, pb.CutRequest(header=head, turn=5, id="20260101T000000Z-1")),
        (methods.CUT_PROGRESS, pb.CutProgressRequest(id="20260101T000000Z-1")),
        (methods.TRIM_LOG, pb.TrimLogRequest(header=head, lsn=7)),
        (methods.SHUT_DOWN_SHARD, pb.ShutdownRequest(cluster_id="c")),
        (methods.DESCRIBE_LAYOUT, pb.DescribeLayoutRequest()),
        (methods.HEALTH, pb.HealthRequest()),
    ]
    return hot + control


def made(number: int) -> TableEntry:
    spec = TableSpec(
        "made", None, dim=(2, 2), optimizer=Adagrad(lr=0.1), initializer=Zeros(), metadata={"a": "b"}
    )
    return TableEntry(number, spec)


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
