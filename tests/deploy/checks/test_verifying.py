"""`rowloom verify` of a cluster: each kind of discrepancy is named, and trainers are none."""

import threading

import numpy as np
import pytest

from rowloom.client import TableSpec
from rowloom.deploy import local_cluster
from rowloom.deploy.checks import verifying
from rowloom.deploy.checks.verifying import strangers_in, verify_cluster
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.channel import Channels
from rowloom.proto.errors import PermissionDenied, Unavailable
from rowloom.proto.spec import TableEntry


@pytest.fixture
def users(client):
    users = client.create_table(TableSpec("users", 1000, dim=4))
    users.push(np.arange(0, 1000, 3), np.ones((334, 4), np.float32))
    return users


@pytest.fixture
def said(monkeypatch):
    """Changes what servers are heard to say: a function of (method, address, message) that changes the message."""
    changes = []
    call = Channels.call

    def changed(self, address, method, request, timeout_s, **more):
        data = call(self, address, method, request, timeout_s, **more)
        for change in changes:
            data = change(method, address, data)
        return data

    monkeypatch.setattr(verifying.Channels, "call", changed)
    return changes.append


def test_a_cluster_that_agrees_with_itself_has_no_fault(cluster, client, users):
    client.create_table(TableSpec("items", dim=2, hash_ids=True)).push(
        [3, 2**50], np.ones((2, 2), np.float32)
    )
    users.set_lr(0.5)
    found = verify_cluster(cluster.address)
    assert (found.faults, found.shards, found.tables, found.epoch) == ((), 2, 2, 1)
    assert found.rows == {"users": 334, "items": 2}
    cluster.scale(3)
    found = verify_cluster(cluster.address)
    assert (found.faults, found.shards, sum(found.rows.values())) == ((), 3, 336)


def test_an_empty_cluster_is_whole():
    with local_cluster(shards=3) as cluster:
        assert verify_cluster(cluster.address).faults == ()


def test_trainers_that_push_meanwhile_are_no_fault(cluster, client, users):
    done = threading.Event()

    def train():
        k = 0
        while not done.is_set():
            users.push(np.arange(k, k + 50) % 1000, np.ones((50, 4), np.float32))
            k += 50

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        for _ in range(5):
            assert verify_cluster(cluster.address).faults == ()
    finally:
        done.set()
        trainer.join()


def second_shard(cluster) -> str:
    return cluster._server.coordinator.state.layout.shards[1].address


@pytest.mark.parametrize(
    ("method", "reply", "change", "kind", "words"),
    [
        (methods.HEALTH, pb.HealthReply, {"epoch": 7}, "epoch", "it is of epoch 7, not 1"),
        (methods.HEALTH, pb.HealthReply, {"index": 0}, "epoch", "shard 0 of cluster"),
        (methods.HEALTH, pb.HealthReply, {"cluster_id": "x"}, "epoch", "shard 1 of cluster 'x' answers"),
        (methods.HEALTH, pb.HealthReply, {"incarnation": 5}, "layout", "its process has started since"),
    ],
)
def test_a_shard_of_another_layout_is_named(cluster, users, said, method, reply, change, kind, words):
    there = second_shard(cluster)

    def other(called, address, data):
        if (called, address) != (method, there):
            return data
        message = reply.FromString(data)
        for key, value in change.items():
            setattr(message, key, value)
        return message.SerializeToString()

    said(other)
    (fault,) = verify_cluster(cluster.address).faults
    assert (fault.kind, fault.shard) == (kind, 1)
    assert words in fault.what


def described(there, change):
    """Changes what one shard knows of layout and tables."""

    def other(method, address, data):
        if (method, address) != (methods.DESCRIBE_LAYOUT, there):
            return data
        message = pb.DescribeLayoutReply.FromString(data)
        change(message)
        return message.SerializeToString()

    return other


def test_a_shard_that_knows_other_addresses_is_named(cluster, users, said):
    said(described(second_shard(cluster), lambda m: setattr(m.layout.shards[0], "address", "127.0.0.1:1")))
    (fault,) = verify_cluster(cluster.address).faults
    assert (fault.kind, fault.shard) == ("layout", 1)
    assert "it knows epoch 1 of 127.0.0.1:1, " in fault.what


def test_a_table_that_a_shard_lacks_or_has_otherwise_is_named(cluster, users, said):
    there = second_shard(cluster)
    said(described(there, lambda m: m.tables.add(number=9, spec=TableSpec("old").to_message())))
    said(described(there, lambda m: setattr(m.tables[0].spec, "wire", "int8")))
    faults = verify_cluster(cluster.address).faults
    assert {(f.kind, f.shard, f.table, f.what) for f in faults} == {
        ("tables", 1, "old", "the cluster has no such table"),
        ("tables", 1, "users", "its spec is another one than the coordinator's"),
    }
    assert str(faults[0]).startswith("shard 1, table 'old': tables: ")


def test_a_table_that_is_not_there_on_a_shard_is_named(cluster, users, said):
    def gone(message):
        del message.tables[:]

    said(described(second_shard(cluster), gone))
    assert [(f.kind, f.table, f.what) for f in verify_cluster(cluster.address).faults] == [
        ("tables", "users", "it is not there")
    ]


def test_a_learning_rate_that_a_shard_has_not_heard_of_is_named(cluster, users, said):
    users.set_lr(0.25)

    def old(message):
        message.tables[0].lr, message.tables[0].lr_version = 0.5, 0

    said(described(second_shard(cluster), old))
    (fault,) = verify_cluster(cluster.address).faults
    assert (fault.kind, fault.table) == ("rate", "users")
    assert fault.what == "it is 0.5 (change 0), and 0.25 (change 1) with the coordinator"


def test_a_row_on_a_shard_that_does_not_own_it_and_one_that_was_lost_are_named(cluster, users, said):
    there = second_shard(cluster)

    def moved(method, address, data):
        if (method, address) != (methods.READ_ROWS, there):
            return data
        message = pb.ReadRowsReply.FromString(data)
        message.ids = np.append(np.frombuffer(message.ids, "<i8")[3:], [4, -1]).tobytes()
        return message.SerializeToString()

    said(moved)
    faults = {f.kind: f for f in verify_cluster(cluster.address).faults}
    assert faults.keys() == {"owner", "range", "rows"}
    assert faults["owner"].what == "1 row of other shards, such as id 4 of shard 0"
    assert "such as -1: they are in [0, 1000)" in faults["range"].what
    assert faults["rows"].what == "166 rows were read, and it says that it has 167"


def test_a_shard_that_does_not_answer_is_named(cluster, users, said):
    there = second_shard(cluster)

    def silent(method, address, data):
        if address == there:
            raise Unavailable(f"{address} did not answer")
        return data

    said(silent)
    found = verify_cluster(cluster.address)
    assert [(f.kind, f.shard) for f in found.faults] == [("no answer", 1)]
    assert found.rows["users"] == 167  # of the other one


def test_a_right_that_is_missing_was_called_a_shard_that_does_not_answer(cluster, users, said):
    def refusing(method, address, data):
        if method == methods.READ_ROWS:
            raise PermissionDenied("'reader' may not pull from table 'users': it lacks the right pull:users")
        return data

    said(refusing)
    with pytest.raises(PermissionDenied, match="lacks the right pull:users"):
        verify_cluster(cluster.address)


def test_a_cluster_that_changes_each_time_is_no_fault_and_is_not_called_whole(cluster, users, said):
    rates = iter(range(100))

    def changing(method, address, data):
        if (method, address) == (methods.DESCRIBE_LAYOUT, cluster.address):
            message = pb.DescribeLayoutReply.FromString(data)
            message.tables[0].lr = next(rates)
            return message.SerializeToString()
        return data

    said(changing)
    with pytest.raises(Unavailable, match="changes while it is verified"):
        verify_cluster(cluster.address)


def test_strangers_are_found_for_each_way_of_dealing_ids():
    for spec in (TableSpec("t", 10), TableSpec("t", 10, partition="div"), TableSpec("t", hash_ids=True)):
        entry, ids = TableEntry(1, spec), np.arange(10)
        kinds = [[f.kind for f in strangers_in(entry, ids, shard, 2)] for shard in (0, 1)]
        assert kinds == [["owner"], ["owner"]]
        assert list(strangers_in(entry, ids, 0, 1)) == []
        assert list(strangers_in(entry, ids[:0], 1, 2)) == []


def test_verify_of_a_cluster_by_its_users(cli, ads, monkeypatch):
    out, _ = cli.run("verify")
    assert out.startswith(
        "ads: 2 shards, epoch 1, 1 table, 1,000 rows, each on its owner; layout, tables and"
    )
    told = cli.json("verify", "--name", "ads")
    assert (told["whole"], told["rows"], told["faults"]) == (True, {"users": 1000}, [])
    assert "give one of them" in cli.run("verify", "url", "--name", "ads", code=2)[1]
    fault = verifying.Discrepancy("rows", 1, "users", "3 rows were read, and it says that it has 4")
    monkeypatch.setattr(
        verifying, "verify_cluster", lambda *_: verifying.VerifiedCluster(1, 2, 1, {}, (fault,))
    )
    out, err = cli.run("verify", code=1)
    assert "shard 1, table 'users': rows: 3 rows were read" in out
    assert err.startswith("rowloom: 1 fault, the first: shard 1, table 'users': rows: 3 rows were read")
