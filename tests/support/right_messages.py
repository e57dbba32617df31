"""A right message for every method of a host, and a host that serves and has rows for them."""

import numpy as np
from google.protobuf.message import Message

from rowloom.client import SGD, Adagrad, TableSpec, Zeros
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import ASSIGN, RENORM, Block, PartName, Pull, Push, Step
from rowloom.proto.codec_bags import Entries, PullBags
from rowloom.proto.framing import joined
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry
from rowloom.server import states
from rowloom.server.call import Call, Caller
from rowloom.server.host import Host
from rowloom.server.shard import Shard

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
