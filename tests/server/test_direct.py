"""Pulls answered by compiled code: the same bytes as in the usual way, and nothing where something is wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowloom.client import SGD, Adagrad, Constant, Normal, TableSpec, TruncatedNormal, Uniform
from rowloom.proto import codec
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.layout import Layout, ShardAddress, owner
from rowloom.proto.spec import TableEntry
from rowloom.server.shard import Shard

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


def header(shard: int = 1) -> pb.Header:
    return pb.Header(cluster_id="c", epoch=5, protocol=1, shard=shard)


def request(number: int, ids: np.ndarray, shard: int = 1) -> bytes:
    return b"".join(bytes(b) for b in codec.Pull(header(shard), [(number, ids)]).encode())


def request_of(tables: list[tuple[int, np.ndarray]]) -> bytes:
    return b"".join(bytes(b) for b in codec.Pull(header(), tables).encode())


def mine(spec: TableSpec, ids: np.ndarray, shard: int = 1) -> np.ndarray:
    ids = ids[ids < spec.id_limit]
    return ids[owner(spec, ids, N) == shard]


@pytest.fixture(scope="module")
def shard() -> Shard:
    """Tables of which every other row exists."""
    shard = Shard(LAYOUT, 1, ENTRIES)
    for entry in ENTRIES:
        table, ids = shard.tables[entry.number], mine(entry.spec, np.arange(0, 400, 2))
        grads = np.random.default_rng(0).normal(size=(len(ids), table.width)).astype(np.float32)
        table.push(ids, grads, table.next_step() if table.counts_steps else 1)
    return shard


@given(entry=st.sampled_from(ENTRIES[:4]), seed=st.integers(0, 10**6), skip=st.integers(0, 9))
def test_the_reply_is_the_one_of_the_usual_way(shard, entry: TableEntry, seed: int, skip: int) -> None:
    rng = np.random.default_rng(seed)
    ids = mine(entry.spec, rng.integers(0, 400, int(rng.choice([0, 1, 5, 40, 300]))))
    data = request(entry.number, ids)
    expected = b"".join(bytes(b) for b in shard.pull(codec.Pull.decode(data)).encode())
    space = memoryview(bytearray(skip + 300 * 400))[skip:]
    before = shard.counters.pulled_rows
    length = shard.answer_pull(data, space)
    assert bytes(space[:length]) == expected
    assert shard.counters.pulled_rows == before + len(ids)
    if len(ids):
        assert shard.answer_pull(data, space[: length - 1]) == -1


@given(seed=st.integers(0, 10**6), skip=st.integers(0, 9))
def test_the_reply_for_many_tables_is_the_one_of_the_usual_way(shard, seed: int, skip: int) -> None:
    rng = np.random.default_rng(seed)
    entries = rng.permutation(np.array(ENTRIES[:4], object))[: int(rng.integers(1, 5))]
    tables = [(e.number, mine(e.spec, rng.integers(0, 400, int(rng.choice([0, 1, 40]))))) for e in entries]
    data = request_of(tables)
    expected = b"".join(bytes(b) for b in shard.pull(codec.Pull.decode(data)).encode())
    space = memoryview(bytearray(skip + 300 * 400))[skip:]
    before = shard.counters.pulled_rows
    assert bytes(space[: shard.answer_pull(data, space)]) == expected
    assert shard.counters.pulled_rows == before + sum(len(ids) for _, ids in tables)
    drifting = request_of([*tables, (5, mine(SPECS[4], np.arange(50)))])
    assert shard.answer_pull(drifting, space) == -1


def test_what_is_wrong_is_left_to_the_usual_way(shard) -> None:
    space, ids = memoryview(bytearray(10_000)), mine(SPECS[0], np.arange(30))
    assert shard.answer_pull(request(1, ids), space) > 0
    wrong = [
        request(1, np.append(ids, ids[0] + 1)),  # another shard's
        request(1, np.append(ids, 1000)),
        request(1, np.append(ids, -1)),
        request(99, ids),
        request(1, ids, shard=2),
        request(5, mine(SPECS[4], np.arange(50))),  # rows drift: they are to be brought up to date
        request(1, ids)[:-1],
        request(1, ids) + b"\x18\x01",  # in another wire type
        b"",
    ]
    before = shard.counters.pulls
    for data in wrong:
        assert shard.answer_pull(data, space) == -1
    assert shard.counters.pulls == before
