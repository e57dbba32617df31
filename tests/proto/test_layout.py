"""Who the shards are, and which of them owns an id."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowloom.proto import partition
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import InvalidRequest
from rowloom.proto.layout import Layout, ShardAddress, owner
from rowloom.proto.spec import Dealing, TableEntry, TableSpec

addresses = st.builds(
    ShardAddress, st.integers(0, 2**32 - 1), st.text(max_size=20), st.integers(0, 2**64 - 1)
)
layouts = st.builds(
    Layout,
    st.text(max_size=20),
    st.integers(0, 2**64 - 1),
    st.lists(addresses).map(tuple),
    st.text(max_size=20),
)


@given(layouts)
def test_a_layout_crosses_the_wire_unchanged(layout):
    message = pb.Layout.FromString(layout.to_message().SerializeToString())
    assert Layout.from_message(message) == layout


def test_the_next_layout_is_one_epoch_on_and_keeps_the_rest():
    first = Layout("c1", 1, (ShardAddress(0, "h:1"), ShardAddress(1, "h:2")), "h:7400")
    second = first.next((ShardAddress(0, "h:3"),), [])
    assert (second.epoch, second.n, second.cluster_id, second.coordinator) == (2, 1, "c1", "h:7400")
    assert (first.epoch, first.n) == (1, 2)


def test_a_layout_says_of_any_entry_of_a_table_how_its_ids_are_dealt():
    made = TableEntry(3, TableSpec("t", 10, dim=1))
    dealt = made.dealt(Dealing("div"))
    other = TableEntry(4, TableSpec("u", 10, dim=1))
    layouts = [Layout("c1", 1, (ShardAddress(0, "h:1"), ShardAddress(1, "h:2")))]
    for tables in ([dealt, other], [dealt.dealt(Dealing("mod")), other]):
        layouts.append(layouts[-1].next(layouts[-1].shards, tables))
    assert [dict(one.dealt) for one in layouts] == [{}, {3: Dealing("div")}, {}]
    for layout, strategy in zip(layouts, ("mod", "div", "mod"), strict=True):
        again = Layout.from_message(pb.Layout.FromString(layout.to_message().SerializeToString()))
        for entry in (made, dealt, TableEntry.from_message(dealt.to_message())):
            assert again.spec_of(entry).partition == strategy
            assert again.owner(entry, np.arange(10)).tolist() == [
                k % 2 if strategy == "mod" else k // 5 for k in range(10)
            ]
        assert again.spec_of(other) is other.spec


def test_an_entry_knows_how_its_ids_were_dealt_at_first():
    entry = TableEntry(3, TableSpec("t", 10, dim=1), 0.5, 1)
    there = entry.dealt(Dealing("div"))
    assert (there.spec.partition, there.made, there.lr) == ("div", Dealing("mod"), 0.5)
    assert there.dealt(Dealing("mod", True)).made == Dealing("mod")
    assert there.dealt(Dealing("mod")) == entry
    with pytest.raises(InvalidRequest, match='partition must be "mod" or "div", got \'range\''):
        entry.dealt(Dealing("range"))
    with pytest.raises(InvalidRequest, match="open-ended"):
        TableEntry(3, TableSpec("t")).dealt(Dealing("div"))


def test_an_entry_that_is_dealt_as_it_was_is_the_same_one():
    """Each look at a layer's table made a new spec and checked it: a fourth of a training step over 26 tables."""
    entry = TableEntry(3, TableSpec("t", 10))
    assert entry.dealt(Dealing("mod")) is entry
    there = entry.dealt(Dealing("div"))
    assert there.dealt(Dealing("div")) is there


def test_a_layout_is_a_frozen_value():
    layout = Layout("c1", 1, ())
    with pytest.raises(dataclasses.FrozenInstanceError):
        layout.epoch = 2  # type: ignore[misc]
    assert hash(layout) == hash(Layout("c1", 1, ()))


def test_owners_follow_the_tables_strategy():
    ids = np.arange(13)
    assert owner(TableSpec("t", num_embeddings=13, dim=1), ids, 5).tolist() == [i % 5 for i in range(13)]
    div = TableSpec("t", num_embeddings=13, dim=1, partition="div")
    assert owner(div, ids, 5).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4]


def test_owners_of_hashed_ids_are_those_of_the_hash():
    spec = TableSpec("t", dim=1, hash_ids=True)
    ids = np.arange(0, 8000, 8)
    assert owner(spec, ids, 8).tolist() == (partition.mix(ids) % 8).tolist()
    assert len(set(owner(spec, ids, 8).tolist())) == 8


def test_owners_of_an_open_ended_table_reach_the_largest_id():
    ids = np.array([0, 2**63 - 1, 2**63 - 2])
    assert owner(TableSpec("t", dim=1), ids, 3).tolist() == [i % 3 for i in ids.tolist()]
