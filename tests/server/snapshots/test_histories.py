"""Random histories: what a snapshot gives back is what was there when it was made, through chains of increments."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from snapshot_life import SnapshotLife, check, check_rows, empty_memory, read

from rowloom.proto.layout import owner
from rowloom.proto.snapshots.differing import difference
from rowloom.proto.snapshots.snapshot import open_snapshot
from rowloom.proto.snapshots.verifying import verify
from rowloom.server.snapshots.target import target_of

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 40)),
        st.tuples(st.just("remove"), st.integers(1, 20)),
        st.tuples(st.just("scale"), st.integers(1, 4)),
        st.tuples(st.sampled_from(["create", "drop"]), st.integers(0, 2)),
        st.tuples(st.sampled_from(["full", "increment"]), st.just(0)),
    ),
    max_size=16,
)


def run(life: SnapshotLife, steps, base: str):
    """Makes the snapshots of a history. Returns (url, what it must hold) of each."""
    made, chain = [], 0
    for step, n in [("create", 0), ("create", 1), *steps, ("increment", 0), ("increment", 0)]:
        if step in ("full", "increment"):
            upon = made[-1][1] if made and step == "increment" and chain < 5 else None
            chain = chain + 1 if upon else 1
            url = f"{base}/snapshot-{len(made)}"
            made.append((url, life.snapshot(target_of(url), f"snapshot-{len(made)}", upon=upon)))
        else:
            getattr(life, step)(n)
    return made


@given(STEPS, st.integers(0, 2**32), st.integers(1, 3), st.sampled_from([0.0, 0.5]))
def test_every_snapshot_of_a_history_is_read_as_it_was_made(steps, seed, shards, wholes):
    # In an object store: a file system of fsspec in memory.
    life = SnapshotLife(seed, shards, wholes)
    for url, frozen in run(life, steps, empty_memory()):
        snapshot = open_snapshot(url)
        check(snapshot, frozen)
        assert verify(url).rows == sum(len(rows) for rows in frozen.tables.values())


@given(STEPS, st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 5), st.sampled_from([0.0, 0.5]))
def test_each_shard_of_any_number_is_given_the_rows_that_it_owns(steps, seed, shards, wanted, wholes):
    life = SnapshotLife(seed, shards, wholes)
    url, frozen = run(life, steps, empty_memory())[-1]
    snapshot = open_snapshot(url)
    for name, count in itertools.product(frozen.tables, (wanted, snapshot.layout.n)):
        together = {}
        for shard in range(count):
            rows = read(snapshot, name, shard=shard, shards=count)
            owners = owner(frozen.entries[name].spec, np.array(list(rows), np.int64), count)
            assert (owners == shard).all()
            together.update(rows)
        check_rows(together, frozen.tables[name])


@given(STEPS, st.integers(0, 2**32), st.sampled_from([1 << 28, 200]))
def test_a_difference_counts_what_two_dicts_of_rows_count(steps, seed, part_bytes):
    life = SnapshotLife(seed)
    made = run(life, steps, empty_memory())
    (first, a), (second, b) = made[0], made[-1]
    found = {table.name: table for table in difference(first, second, part_bytes)}
    for name in {*a.tables, *b.tables}:
        mine, theirs = a.tables.get(name, {}), b.tables.get(name, {})
        both = [k for k in mine if k in theirs]
        values = {k for k in both if mine[k].values.tobytes() != theirs[k].values.tobytes()}
        pairs = {k: zip(mine[k].slots, theirs[k].slots, strict=True) for k in both}
        slots = {k: [x.tobytes() != y.tobytes() for x, y in pair] for k, pair in pairs.items()}
        if name not in found:
            assert mine.keys() == theirs.keys()
            assert not values
            assert not any(map(any, slots.values()))
            continue
        got = found[name]
        assert got.only_first == len(mine.keys() - theirs.keys())
        assert got.only_second == len(theirs.keys() - mine.keys())
        assert got.values == len(values)
        differing = values | {k for k, differs in slots.items() if any(differs)}
        assert got.differing == len(differing)
        if name in a.tables and name in b.tables:
            assert (
                list(got.slots) == [sum(column) for column in zip(*slots.values(), strict=True)] or not both
            )
            assert len(got.ids) == min(10, len(differing | mine.keys() ^ theirs.keys()))
            assert set(got.ids) <= differing | mine.keys() ^ theirs.keys()


def test_an_increment_has_only_what_changed(tmp_path):
    life = SnapshotLife()
    life.create(0)
    life.push(200)
    full = life.snapshot(target_of(tmp_path / "a"), "a")
    life.set(life.tables["users"], 7)
    increment = life.snapshot(target_of(tmp_path / "b"), "b", upon=full)
    stored = [table.stored_rows for shard in increment.manifest.shards for table in shard.tables]
    assert sum(stored) == 1
    check(open_snapshot(tmp_path / "b"), increment)
    check(open_snapshot(str(tmp_path / "a") + "/"), full)


def test_a_row_that_was_removed_and_came_back_is_there_and_one_that_did_not_is_not(tmp_path):
    life = SnapshotLife(shards=1)
    life.create(0)
    table = life.tables["users"]
    for k in (1, 2, 3):
        life.set(table, k)
    frozen = life.snapshot(target_of(tmp_path / "a"), "a")
    del table.rows[1], table.rows[2]
    table.removed |= {1, 2}
    life.set(table, 2)
    frozen = life.snapshot(target_of(tmp_path / "b"), "b", upon=frozen)
    frozen = life.snapshot(target_of(tmp_path / "c"), "c", upon=frozen)
    assert sorted(read(open_snapshot(tmp_path / "c"), "users")) == [2, 3]
    check(open_snapshot(tmp_path / "c"), frozen)


@pytest.mark.parametrize("again", [False, True])
def test_a_table_that_was_dropped_and_made_anew_has_none_of_the_old_rows(tmp_path, again):
    life = SnapshotLife()
    life.create(0)
    life.push()
    frozen = life.snapshot(target_of(tmp_path / "a"), "a")
    life.drop(0)
    if again:
        life.create(0)
        life.set(life.tables["users"], 59)
    frozen = life.snapshot(target_of(tmp_path / "b"), "b", upon=frozen)
    check(open_snapshot(tmp_path / "b"), frozen)


def test_blocks_are_kept_unless_their_memory_is_given_to_the_next(tmp_path):
    life = SnapshotLife()
    life.create(0)
    life.push(100)
    frozen = life.snapshot(target_of(tmp_path / "a"), "a")
    blocks = list(open_snapshot(tmp_path / "a").read("users"))
    assert len(blocks) > 2
    got = {k: v.tobytes() for block in blocks for k, v in zip(block.ids.tolist(), block.values, strict=True)}
    assert got == {k: row.values.tobytes() for k, row in frozen.tables["users"].items()}
