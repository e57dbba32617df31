"""Which tables a restored cluster has, and what a coordinator remembers of where they came from."""

import dataclasses

import pytest

from rowloom.client import SGD, Adagrad, InvalidRequest, TableSpec, Zeros
from rowloom.deploy.control.restoring import RestoreSource, merged_tables
from rowloom.deploy.control.state import ClusterState, RestoredSnapshot
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry

USERS = TableSpec("users", 100, dim=4, optimizer=Adagrad(lr=0.1), initializer=Zeros(), metadata={"a": "b"})
ITEMS = TableSpec("items", dim=2, optimizer=SGD(lr=1.0))
ABOUT = RestoredSnapshot("some-id", "file:///x/some-id", 7, 99, "before", bytes(range(256)), 1.5)
SOURCE = RestoreSource(
    ABOUT,
    Layout("old", 4, (ShardAddress(0, "h:0"),)),
    [TableEntry(3, USERS, lr=0.5, lr_version=2), TableEntry(7, ITEMS)],
)


def asked(**changes) -> list[TableSpec]:
    return [dataclasses.replace(USERS, **{"metadata": {}} | changes)]


def test_tables_keep_numbers_and_rates_and_lie_as_the_config_says() -> None:
    users, items = merged_tables(SOURCE, asked(partition="div"))
    assert users == TableEntry(3, dataclasses.replace(USERS, partition="div"), lr=0.5, lr_version=2)
    assert items == TableEntry(7, ITEMS)


def test_tables_that_the_snapshot_lacks_get_numbers_that_none_ever_had() -> None:
    more = [TableSpec("new", 5, dim=1), TableSpec("newer", 5, dim=1)]
    assert [(e.number, e.spec.name) for e in merged_tables(SOURCE, more)] == [
        (3, "users"),
        (7, "items"),
        (8, "new"),
        (9, "newer"),
    ]


@pytest.mark.parametrize("lr", [0.1, 0.5])
def test_a_config_may_have_the_rate_at_first_or_that_in_force(lr) -> None:
    assert merged_tables(SOURCE, asked(optimizer=Adagrad(lr=lr)))[0].current_lr == 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"dim": 8},
        {"num_embeddings": 200},
        {"optimizer": SGD(lr=0.1)},
        {"optimizer": Adagrad(lr=0.2)},
        {"frozen": True},
        {"metadata": {"a": "c"}},
        {"wire": "bfloat16"},
        {"num_embeddings": None},
    ],
)
def test_a_table_that_is_another_one_in_the_config_is_refused_by_name(changes) -> None:
    with pytest.raises(InvalidRequest, match=f"table 'users': {next(iter(changes))}: ") as refused:
        merged_tables(SOURCE, asked(**changes))
    assert "nothing was started: the config contradicts snapshot file:///x/some-id" in str(refused.value)


def test_all_that_contradicts_is_named_at_once() -> None:
    with pytest.raises(
        InvalidRequest, match=r"table 'users': dim: 4 here, 8 there\n  table 'items': dim: 2 here"
    ):
        merged_tables(SOURCE, [*asked(dim=8), dataclasses.replace(ITEMS, dim=9)])


def test_a_table_of_open_ended_ids_cannot_be_cut_into_ranges_by_a_config() -> None:
    bounded = dataclasses.replace(ITEMS, num_embeddings=10, partition="div")
    with pytest.raises(InvalidRequest, match="table 'items': num_embeddings: None here, 10 there"):
        merged_tables(SOURCE, [bounded])


def test_what_a_cluster_began_with_outlives_its_coordinator_to_the_bit() -> None:
    state = ClusterState("ads", restored=ABOUT, beginning="ads-17")
    again = ClusterState.from_json(state.to_json())
    assert (again.restored, again.beginning) == (ABOUT, "ads-17")
    assert ClusterState.from_json(ClusterState("ads").to_json()).restored is None
