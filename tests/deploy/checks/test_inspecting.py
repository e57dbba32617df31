"""`rowloom inspect`: rows as their shards hold them."""

import numpy as np
import pytest

from rowloom.client import SGD, Adagrad, Adam, TableSpec, connect
from rowloom.deploy.checks.inspecting import inspect_rows
from rowloom.deploy.operate.reader import Reader
from rowloom.proto import partition


def looked_at(client, address, name, ids):
    with Reader(address) as reader:
        return inspect_rows(reader, reader.tables[name], ids, client.table(name).pull(ids))


@pytest.mark.parametrize("strategy", ["mod", "div"])
def test_a_row_is_shown_with_its_owner_its_place_there_and_its_slots(cluster, client, strategy):
    spec = TableSpec(
        "users", 101, dim=3, partition=strategy, optimizer=Adagrad(lr=0.1, initial_accumulator=0.5)
    )
    users = client.create_table(spec)
    ids = [0, 1, 50, 51, 100]
    users.push(ids[:3], np.full((3, 3), 2, np.float32))
    found = looked_at(client, cluster.address, "users", ids)
    where = np.array(ids)
    assert [row.shard for row in found] == partition.shard_of(where, 2, strategy, 101).tolist()
    assert [row.index for row in found] == partition.local_of(where, 2, strategy, 101).tolist()
    assert [row.trained for row in found] == [True, True, True, False, False]
    assert [[slot.tolist() for slot in row.slots] for row in found] == [[[4.5] * 3]] * 3 + [[]] * 2
    for row, values in zip(found, users.pull(ids), strict=True):
        np.testing.assert_array_equal(row.values, values)


def test_a_row_of_a_dense_optimizer_says_which_step_it_has_reached(cluster, client):
    deep = client.create_table(TableSpec("deep", 10, dim=2, optimizer=Adam(lr=0.1, mode="dense")))
    deep.push([4], np.ones((1, 2), np.float32))
    for _ in range(2):
        deep.push([5], np.ones((1, 2), np.float32))
    four, five, six = looked_at(client, cluster.address, "deep", [4, 5, 6])
    assert (four.reached, five.reached, six.reached) == (1, 3, None)
    assert [len(row.slots) for row in (four, five, six)] == [2, 2, 0]


def test_one_of_many_rows_is_found_in_pieces_that_the_shard_gives(cluster, client, monkeypatch):
    monkeypatch.setattr("rowloom.deploy.operate.reader.SCAN_BYTES", 64)
    big = client.create_table(TableSpec("big", dim=1, optimizer=SGD(lr=1.0, momentum=0.5), hash_ids=True))
    ids = np.arange(5000) * 2**20
    big.push(ids, np.arange(5000, dtype=np.float32).reshape(-1, 1))
    last, none = looked_at(client, cluster.address, "big", [int(ids[-1]), 3])
    assert (last.slots[0].tolist(), last.trained, last.index) == ([4999.0], True, None)
    assert not none.trained


def test_what_inspect_prints_for_people_and_programs(cli, ads):
    with connect(ads) as client:
        rows = client.table("users").pull([7, 8]).tolist()
    shown = cli.json("inspect", "users", "7", "8")
    assert [one["id"] for one in shown["rows"]] == [7, 8]
    assert [one["row"] for one in shown["rows"]] == rows
    assert shown["rows"][0]["slots"] == [[1.0] * 4]
    assert (shown["table"], shown["epoch"], shown["step"], shown["lr"]) == ("users", 1, None, 0.05)
    one = cli.json("inspect", "users", "7")
    assert one["rows"][0] == {key: one[key] for key in one["rows"][0]}
    assert (one["shard"], one["index"], one["trained"]) == (1, 3, True)
    out, _ = cli.run("inspect", "users", "7")
    assert "[7]  shard 1 of 2 at 127.0.0.1:" in out
    assert "number 3 of its ids; trained\n[-0.05 -0.05 -0.05 -0.05]\nslot 0  [1. 1. 1. 1.]" in out
    assert (
        "ids[1] is -1, table 'users' has ids in [0, 1000)"
        in cli.run("inspect", "users", "7", "-1", code=1)[1]
    )
    cli.run("inspect", "users", code=2)
    cli.run("inspect", "users", "x", code=2)
