"""Shards that fill themselves from a snapshot: of any number, with either strategy, through chains, and from logs."""

import contextlib
import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from snapshot_life import Frozen, SnapshotLife, empty_memory

from rowloom.client import SGD, Adagrad, Adam, Normal, TableSpec
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import Block, PartName, Push
from rowloom.proto.errors import SnapshotCorrupt
from rowloom.proto.layout import Layout, ShardAddress, owner
from rowloom.proto.snapshots.snapshot import open_snapshot
from rowloom.proto.snapshots.stored import StoredShard
from rowloom.proto.spec import TableEntry
from rowloom.server.durable.records import Head, Kind, LoggedRecord
from rowloom.server.durable.replay import Replay
from rowloom.server.moving.receive import Receive, kind_of
from rowloom.server.shard import Shard
from rowloom.server.snapshots.commit import commit_snapshot
from rowloom.server.snapshots.source import PlacedShard, SnapshotSource, may_have
from rowloom.server.snapshots.target import target_of
from rowloom.server.snapshots.writing import write_cut
from rowloom.server.taking import Taking

COUNTS = (1, 2, 3, 5)
NEW = TableSpec("new", 9, dim=1, optimizer=SGD())


def layout_of(shards: int, epoch: int, cluster: str = "new-cluster") -> Layout:
    return Layout(cluster, epoch, tuple(ShardAddress(k, f"new:{k}") for k in range(shards)))


def placed(spec: TableSpec, turn: int) -> TableSpec:
    """The table with its rows lying otherwise, in one of the ways that it can have."""
    ways = [{"partition": "mod", "hash_ids": False}, {"partition": "mod", "hash_ids": True}]
    if spec.num_embeddings is not None:
        ways.append({"partition": "div", "hash_ids": False})
    return dataclasses.replace(spec, **ways[turn % len(ways)])


def filled(
    url: str, entries: list[TableEntry], layout: Layout, index: int
) -> tuple[Shard, list[tuple[Kind, bytes]], int]:
    """A shard that has read all it owns: itself, what it was answered, and how many rows came."""
    snapshot = open_snapshot(url)
    shard = Shard(layout, index, entries)
    source, receive, answers = SnapshotSource(snapshot, shard), Receive(snapshot.layout, shard), []
    for stream in receive.streams:
        asking = stream.run()
        with contextlib.suppress(StopIteration):
            call = next(asking)
            while True:
                answers.append((kind_of(call), source.answer(call)))
                call = asking.send(answers[-1][1])
    assert receive.done
    return shard, answers, receive.rows


def rows_of(shard: Shard, number: int) -> dict[int, tuple[bytes, ...]]:
    """By id: the bytes of values and slots."""
    ids, values, slots, after = shard.tables[number].read(0, 1 << 30)
    assert after == 0
    return {int(k): tuple(a[n].tobytes() for a in (values, *slots)) for n, k in enumerate(ids)}


def check(url: str, frozen: Frozen, shards: int, turn: int) -> None:
    """So many shards hold together what the snapshot has, each what it owns."""
    entries = [dataclasses.replace(e, spec=placed(e.spec, turn)) for e in frozen.entries.values()]
    entries.append(TableEntry(99, NEW))
    layout = layout_of(shards, 9)
    found = [filled(url, entries, layout, index) for index in range(shards)]
    assert sum(rows for _, _, rows in found) == sum(len(rows) for rows in frozen.tables.values())
    for entry in entries[:-1]:
        together: dict[int, tuple[bytes, ...]] = {}
        for shard, _, _ in found:
            rows = rows_of(shard, entry.number)
            assert (owner(entry.spec, np.array(list(rows), np.int64), shards) == shard.index).all()
            together |= rows
        wanted = frozen.tables[entry.spec.name]
        assert together == {
            k: tuple(a.tobytes() for a in (row.values, *row.slots)) for k, row in wanted.items()
        }
    for shard, _, _ in found:
        assert len(shard.tables[99]) == 0
        known = {client.client_id for piece in frozen.ledgers for one in piece for client in one.clients}
        assert all(shard.ledger.knows(client) for client in known)


def history(life: SnapshotLife, chain: int, scales: bool) -> tuple[str, Frozen]:
    """A table after the other is made, rows come, change and go; the newest snapshot of a chain of so many."""
    base, upon, rng = empty_memory(), None, life.rng
    for number in range(chain):
        life.create(number % 3)
        life.create((number + 1) % 3)
        life.push(rng.randint(1, 40))
        life.remove(rng.randint(1, 20))
        life.push(rng.randint(1, 20))
        if scales and number:
            life.scale(rng.randint(1, 4))
        upon = life.snapshot(target_of(f"{base}/{number}"), str(number), upon=upon)
    assert upon is not None
    return f"{base}/{chain - 1}", upon


@given(
    st.integers(0, 2**32),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from(COUNTS),
    st.sampled_from(COUNTS),
    st.integers(0, 2),
)
def test_shards_of_any_number_hold_what_the_snapshot_has_wherever_rows_are_to_lie(
    seed, chain, scales, shards, wanted, turn
):
    check(*history(SnapshotLife(seed, shards), chain, scales), wanted, turn)


@given(
    st.integers(1, 40), st.integers(1, 6), st.integers(1, 6), st.sampled_from(["mod", "div"]), st.booleans()
)
def test_a_file_is_passed_over_only_if_no_id_of_it_is_wanted(v, n, m, partition, hashed):
    spec = TableSpec("t", v, dim=1, partition=partition, hash_ids=hashed and partition == "mod")
    ids = np.arange(v)
    there, here = owner(spec, ids, n), owner(spec, ids, m)
    for k in range(n):
        for j in range(m):
            if ((there == k) & (here == j)).any():
                assert may_have(PlacedShard(spec, k, n), PlacedShard(spec, j, m))


def test_shards_that_lie_as_they_lay_read_their_own_files_only():
    spec = TableSpec("t", 100, dim=1)
    asked = [may_have(PlacedShard(spec, k, 4), PlacedShard(spec, 1, 4)) for k in range(4)]
    assert asked == [False, True, False, False]


# ------------------------------------------------------------------------------------- shards that were trained before

SPECS = [
    TableSpec("a", 60, dim=2, optimizer=Adagrad(lr=0.1), initializer=Normal(seed=1)),
    TableSpec("d", 60, dim=3, partition="div", optimizer=Adam(lr=0.1, mode="dense"), initializer=Normal()),
    TableSpec("s", 60, dim=1, optimizer=Adam(lr=0.1), initializer=Normal()),
]
ENTRIES = [TableEntry(k, spec) for k, spec in enumerate(SPECS, 1)]
OLD = Layout("old-cluster", 4, (ShardAddress(0, "o:0"), ShardAddress(1, "o:1")))


def push(layout: Layout, seq: int, names: dict[int, tuple[PartName, ...]] | None = None) -> list[Push]:
    """A push of client 7, for each shard; names: of each part, before its own."""
    rng = np.random.default_rng(seq)
    ids = [np.sort(rng.choice(60, 20, replace=False)) for _ in SPECS]
    grads = [rng.standard_normal((20, spec.width), np.float32) for spec in SPECS]
    pushes = []
    for k in range(layout.n):
        tables = []
        for entry, some, values in zip(ENTRIES, ids, grads, strict=True):
            mine = owner(entry.spec, some, layout.n) == k
            tables.append((entry.number, some[mine], Block(values[mine])))
        name = (*(names or {}).get(k, ()), PartName(layout.epoch, k, seq))
        pushes.append(Push(layout.header(k), 7, name, push=seq, tables=tables))
    return pushes


def trained(pushes: int = 6) -> list[Shard]:
    shards = [Shard(OLD, k, ENTRIES) for k in range(2)]
    for seq in range(1, pushes + 1):
        for shard, part in zip(shards, push(OLD, seq), strict=True):
            assert not shard.push(part)
    return shards


def taken(shards: list[Shard], url: str) -> str:
    """A snapshot of shards as they are. Returns its folder."""
    parts = []
    for shard in shards:
        taking = Taking("x", url, shard.index, 0, 0, shard.cut())
        parts.append(StoredShard.from_json(write_cut(taking, contextlib.nullcontext)))
    about = {"id": "x", "cluster_name": "o", "created_s": 1.0, "layout": shards[0].layout}
    commit_snapshot(target_of(url), shards=parts, tables=ENTRIES, **about)
    return url


def pulled(shards: list[Shard], entry: TableEntry) -> dict[int, bytes]:
    """All rows of a table as a client sees them: those of a dense optimizer catch up when they are read."""
    rows: dict[int, bytes] = {}
    for shard in shards:
        ids = np.arange(60)[owner(entry.spec, np.arange(60), len(shards)) == shard.index]
        out = np.empty((len(ids), entry.spec.width), np.float32)
        shard.tables[entry.number].pull(ids, out)
        rows |= {int(k): row.tobytes() for k, row in zip(ids, out, strict=True)}
    return rows


@pytest.mark.parametrize("shards", COUNTS)
def test_training_goes_on_to_the_bit_as_if_nothing_had_happened(shards):
    old = trained()
    url = taken(old, empty_memory())
    layout = layout_of(shards, OLD.epoch + 1)
    new = [filled(url, ENTRIES, layout, k)[0] for k in range(shards)]
    for seq in (7, 8):
        for shard, part in zip(old, push(OLD, seq), strict=True):
            shard.push(part)
        for shard, part in zip(new, push(layout, seq), strict=True):
            assert not shard.push(part)
    for entry in ENTRIES:
        assert pulled(new, entry) == pulled(old, entry)
        steps = {shard.tables[entry.number].step for shard in new}
        assert steps == {8 if entry.spec.optimizer.counts_steps else 0}


@pytest.mark.parametrize("shards", COUNTS)
def test_a_push_that_the_snapshot_has_is_known_to_every_shard_under_its_old_name(shards):
    layout = layout_of(shards, OLD.epoch + 1)
    url = taken(trained(), empty_memory())
    new = [filled(url, ENTRIES, layout, k)[0] for k in range(shards)]
    before = [rows_of(shard, entry.number) for shard in new for entry in ENTRIES]
    for old in range(2):
        known = {k: (PartName(OLD.epoch, old, 6),) for k in range(shards)}
        assert all(shard.push(part) for shard, part in zip(new, push(layout, 60 + old, known), strict=True))
    assert [rows_of(shard, entry.number) for shard in new for entry in ENTRIES] == before
    unknown = {k: (PartName(OLD.epoch, 0, 7),) for k in range(shards)}
    assert not any(shard.push(part) for shard, part in zip(new, push(layout, 70, unknown), strict=True))


def test_a_push_that_one_shard_had_and_another_had_not_counts_one_step():
    old = trained()
    assert not old[1].push(push(OLD, 7)[1])
    url = taken(old, empty_memory())
    shard, _, _ = filled(url, ENTRIES, layout_of(1, 5), 0)
    assert [table.step for table in shard.tables.values()] == [0, 7, 7]


@pytest.mark.parametrize("index", [0, 2])
def test_a_log_of_what_was_read_gives_the_same_shard_without_the_snapshot(index):
    url = taken(trained(), empty_memory())
    layout = layout_of(3, 5)
    shard, answers, _ = filled(url, ENTRIES, layout, index)
    request = pb.PrepareRequest(
        source=OLD.to_message(),
        layout=layout.to_message(),
        index=index,
        tables=[entry.to_message() for entry in ENTRIES],
        snapshot=url,
    )
    empty_memory()  # the snapshot is gone
    again = Shard(layout, index)
    replay = Replay(again)
    for lsn, (kind, data) in enumerate([(Kind.RECEIVE, request.SerializeToString()), *answers], 1):
        replay.redo(LoggedRecord(Head(kind, len(data), lsn, 0, 0), memoryview(data)))
    replay.finish()
    for entry in ENTRIES:
        assert rows_of(again, entry.number) == rows_of(shard, entry.number)
        assert again.tables[entry.number].step == shard.tables[entry.number].step
    assert again.ledger.read() == shard.ledger.read()


@pytest.mark.parametrize("file", ["users.rows", "ledger"])
def test_a_damaged_block_is_named_with_its_file(tmp_path, file):
    life = SnapshotLife(seed=3)
    life.create(0)
    life.push(40)
    frozen = life.snapshot(target_of(tmp_path / "x"), "x", file_bytes=1 << 20)
    path = next((tmp_path / "x").glob(f"shard-00001/{file}*"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(SnapshotCorrupt, match=rf"shard-00001/{path.name} is damaged: block 0, bytes 0 to"):
        filled(str(tmp_path / "x"), list(frozen.entries.values()), layout_of(1, 9), 0)


def test_ids_that_a_table_cannot_have_are_refused_and_not_left_out(tmp_path):
    life = SnapshotLife(seed=3, shards=1)
    life.create(1)
    life.set(life.tables["items"], 700)
    frozen = life.snapshot(target_of(tmp_path / "x"), "x")
    with pytest.raises(
        SnapshotCorrupt,
        match=r"items\.rows-00000\.safetensors: row \d+ has id \d+, ids of 'items' are below 500",
    ):
        filled(str(tmp_path / "x"), list(frozen.entries.values()), layout_of(1, 9), 0)
