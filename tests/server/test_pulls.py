"""Replies to pulls: the same bytes wherever they are made, and made in place where there is room."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowloom.client import SGD, Adagrad, Constant, Normal, TableSpec, TruncatedNormal, Uniform
from rowloom.proto import codec, methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.framing import joined
from rowloom.proto.layout import Layout, ShardAddress, owner
from rowloom.proto.spec import TableEntry
from rowloom.server.call import Call, Caller
from rowloom.server.host import Host
from rowloom.server.shard import Shard
from rowloom.server.states import Serving

N = 3
LAYOUT = Layout("c", 5, tuple(ShardAddress(i, f"h:{i}") for i in range(N)))
SPECS = [
    TableSpec("mod", 1000, dim=5, optimizer=Adagrad(), initializer=Normal(seed=1)),
    TableSpec("div", 100, dim=1, partition="div", initializer=Uniform()),
    TableSpec("hash", None, dim=64, hash_ids=True, initializer=TruncatedNormal()),
    TableSpec("few", 2, dim=(2, 3), initializer=Constant(0.5)),
    TableSpec("dense", 50, dim=4, optimizer=SGD(momentum=0.9, mode="dense"), initializer=Normal()),
]
ENTRIES = [TableEntry(number, spec) for number, spec in enumerate(SPECS, 1)]
CALLER = Caller("test")


def mine(spec: TableSpec, ids: np.ndarray) -> np.ndarray:
    ids = ids[ids < spec.id_limit]
    return ids[owner(spec, ids, N) == 1]


@pytest.fixture(scope="module")
def host() -> Host:
    """Tables of which every other row exists."""
    shard = Shard(LAYOUT, 1, ENTRIES)
    for entry in ENTRIES:
        table, ids = shard.tables[entry.number], mine(entry.spec, np.arange(0, 400, 2))
        grads = np.random.default_rng(0).normal(size=(len(ids), table.width)).astype(np.float32)
        table.push(ids, grads, table.next_step() if table.counts_steps else 1)
    return Host(state=Serving(shard))


def expected(host: Host, tables: list[tuple[int, np.ndarray]]) -> bytes:
    """The reply as protobuf makes it, table by table."""
    assert host.shard is not None
    reply = pb.PullReply()
    for number, ids in tables:
        table = host.shard.tables[number]
        rows = np.empty((len(ids), table.width), np.float32)
        table.pull(ids, rows)
        reply.tables.add(rows=rows.tobytes())
    return reply.SerializeToString()


@given(seed=st.integers(0, 10**6), skip=st.integers(0, 9), cut=st.integers(0, 3))
def test_a_reply_is_the_same_with_a_buffer_too_small_a_one_and_none(host, seed, skip, cut) -> None:
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(np.array(ENTRIES, object))[: int(rng.integers(1, 6))]
    sizes = rng.choice([0, 1, 5, 40, 300], len(chosen))
    tables = [
        (e.number, mine(e.spec, rng.integers(0, 400, int(n)))) for e, n in zip(chosen, sizes, strict=True)
    ]
    data = joined(codec.Pull(LAYOUT.header(1), tables).encode())
    whole = joined(host.handle(Call(methods.PULL, data, CALLER)).buffers)
    assert pb.PullReply.FromString(whole) == pb.PullReply.FromString(expected(host, tables))
    size = len(whole) if cut == 0 else max(0, len(whole) - cut) if cut < 3 else len(whole) + 100
    space = memoryview(bytearray(skip + size))[skip:]
    call = Call(methods.PULL, data, CALLER, space)
    buffers = host.handle(call).buffers
    if size >= len(whole):
        assert not buffers
        assert bytes(space[: call.placed]) == whole
    else:
        assert not call.placed
        assert joined(buffers) == whole


def test_a_step_is_answered_with_the_same_bytes_in_a_space_and_outside_of_one() -> None:
    entry = TableEntry(1, TableSpec("t", 300, dim=4, optimizer=SGD(lr=0.5), initializer=Constant(0)))
    ids = mine(entry.spec, np.arange(300))
    grads = np.ones((len(ids), 4), np.float32)
    replies = []
    for size in (0, 10, 100_000):
        host = Host(state=Serving(Shard(LAYOUT, 1, [entry])))
        for _ in range(2):  # the second is a duplicate
            name = codec.PartName(LAYOUT.epoch, 1, 1)
            push = codec.Push(LAYOUT.header(1), 7, (name,), 1, [(1, ids, codec.Block(grads))])
            step = codec.Step(push, codec.Pull(LAYOUT.header(1), [(1, ids)]))
            space = memoryview(bytearray(size))
            call = Call(methods.STEP, joined(step.encode()), CALLER, space)
            buffers = host.handle(call).buffers
            assert bool(call.placed) == (size == 100_000)
            replies.append(bytes(space[: call.placed]) if call.placed else joined(buffers))
    assert replies[0:2] == replies[2:4] == replies[4:6]
    first, second = (pb.StepReply.FromString(reply) for reply in replies[:2])
    assert (first.push.duplicate, second.push.duplicate) == (False, True)
    assert np.frombuffer(first.pull.tables[0].rows, np.float32).tolist() == [-0.5] * (4 * len(ids))
    assert first.pull == second.pull
