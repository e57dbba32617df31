"""Ids of tables that exist are dealt otherwise, with as many shards or others, while clients go on."""

import threading

import numpy as np
import pytest

from rowloom.client import SGD, Adagrad, Adam, Normal, TableSpec, Zeros
from rowloom.deploy import local_cluster
from rowloom.proto.errors import InvalidRequest, TableExists, TableNotFound
from rowloom.proto.snapshots.snapshot import open_snapshot

ROWS = 60
USERS = TableSpec("users", ROWS, dim=3, optimizer=Adagrad(lr=0.1), initializer=Normal(seed=1))
ITEMS = TableSpec("items", 7, dim=2, partition="div", optimizer=Adam(lr=0.01), initializer=Normal(seed=2))


def pushed(client, oracle, rng) -> None:
    """One push to both tables, there and in the oracle; all that is pulled afterwards is equal to the bit."""
    for spec in (USERS, ITEMS):
        ids = rng.integers(0, spec.num_embeddings, 20)
        grads = rng.normal(size=(20, spec.width)).astype(np.float32)
        client.table(spec.name).push(ids, grads)
        oracle[spec.name].push(ids, grads)
        every = np.arange(spec.num_embeddings)
        np.testing.assert_array_equal(client.table(spec.name).pull(every), oracle[spec.name].pull(every))


@pytest.fixture
def cluster():
    with local_cluster(shards=2) as cluster:
        yield cluster


@pytest.fixture
def tables(cluster, oracle):
    with cluster.connect() as client:
        for spec in (USERS, ITEMS):
            client.create_table(spec)
            oracle.create_table(spec)
        yield client


def test_any_course_through_strategies_and_counts_leaves_every_bit_as_it_is(cluster, tables, oracle):
    rng = np.random.default_rng(3)
    kept = tables.table("users")
    course = [
        (2, "div", "mod"),
        (5, "mod", "mod"),
        (5, "div", "div"),
        (16, "div", "mod"),
        (1, "mod", "div"),
        (2, "div", "div"),
    ]
    for shards, users, items in course:
        pushed(tables, oracle, rng)
        cluster.scale(shards, partitions={"users": users, "items": items})
        pushed(tables, oracle, rng)
        assert cluster.shards == shards
        assert (kept.spec.partition, tables.table("items").spec.partition) == (users, items)
        with cluster.connect() as another:
            pushed(another, oracle, rng)


def test_pushes_of_a_client_that_knows_the_old_strategy_all_arrive_once(cluster, tables):
    spec = TableSpec("counts", ROWS, dim=1, optimizer=SGD(lr=1.0), initializer=Zeros())
    counts, every = tables.create_table(spec), np.arange(ROWS)
    ended, calls = threading.Event(), [0]

    def train() -> None:
        while not ended.is_set():
            counts.push(every, -np.ones((ROWS, 1), np.float32))
            calls[0] += 1

    trainer = threading.Thread(target=train)
    trainer.start()
    for shards, strategy in ((2, "div"), (3, "mod"), (2, "div")):
        cluster.scale(shards, partitions={"counts": strategy})
    ended.set()
    trainer.join()
    assert calls[0]
    assert counts.pull(every).tolist() == [[calls[0]]] * ROWS


def test_a_snapshot_and_what_is_restored_from_it_have_the_new_strategy(cluster, tables, oracle, tmp_path):
    rng = np.random.default_rng(4)
    pushed(tables, oracle, rng)
    with local_cluster(2, storage=str(tmp_path), tables=[USERS]) as here, here.connect() as client:
        ids = np.arange(ROWS)
        rows = client.table("users").pull(ids)
        client.table("users").push(ids, np.ones((ROWS, 3), np.float32))
        here.scale(2, partitions={"users": "div"})
        rows = client.table("users").pull(ids)
        taken = client.snapshot()
        assert open_snapshot(taken.path).table("users").spec.partition == "div"
        with local_cluster(3, restore=taken.path) as there, there.connect() as other:
            assert other.table("users").spec.partition == "div"
            np.testing.assert_array_equal(other.table("users").pull(ids), rows)
            there.scale(2, partitions={"users": "mod"})
            np.testing.assert_array_equal(other.table("users").pull(ids), rows)


def test_who_makes_the_table_again_may_say_what_it_was_made_with_or_what_is_so_now(cluster, tables):
    cluster.scale(2, partitions={"users": "div"})
    assert tables.create_table(USERS).spec.partition == "div"
    assert tables.create_table(tables.table("users").spec).spec.partition == "div"
    with pytest.raises(TableExists, match="hash_ids"):
        tables.create_table(TableSpec(**{**vars_of(USERS), "hash_ids": True}))


def vars_of(spec: TableSpec) -> dict:
    return {
        name: getattr(spec, name) for name in ("name", "num_embeddings", "dim", "optimizer", "initializer")
    }


def test_what_cannot_be_dealt_so_is_refused_with_what_would_be_right(cluster, tables):
    tables.create_table(TableSpec("words"))
    with pytest.raises(InvalidRequest, match='"mod" for a table of open-ended ids'):
        cluster.scale(3, partitions={"words": "div"})
    with pytest.raises(InvalidRequest, match='partition must be "mod" or "div", got \'range\''):
        cluster.scale(3, partitions={"users": "range"})
    with pytest.raises(
        TableNotFound, match="no table 'user', whose ids are to be dealt anew; there are: items, users"
    ):
        cluster.scale(3, partitions={"user": "div"})
    assert cluster.shards == 2
