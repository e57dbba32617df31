"""Hottest ids as a trainer and an operator have them, and what a plan says of ids that lie unevenly."""

import numpy as np
import pytest

from rowloom.client import InvalidRequest, TableSpec
from rowloom.deploy.observe.rates import activity
from rowloom.deploy.operate.remote import Remote

V = 1 << 18
ITEMS = f"name: local\nshards: 4\ntables:\n  - {{name: items, num_embeddings: {V}, dim: 1}}\n"


@pytest.fixture
def items(client):
    """A table of which even ids were pulled only, one of them over and over, and a few of them were pushed."""
    table = client.create_table(TableSpec("items", V, dim=1))
    for _ in range(5):
        table.pull(np.arange(0, V, 2))
    client.create_table(TableSpec("idle", V, dim=1))
    table.push(np.arange(0, 4000, 2), np.ones((2000, 1), np.float32))
    return table


def test_a_trainer_is_told_the_hottest_ids_and_how_sure_that_is(client):
    users = client.create_table(TableSpec("users", V, dim=1))
    rng = np.random.default_rng(3)
    for _ in range(1000):
        users.pull(np.append(rng.integers(0, V, 400), [7, 8, 8]))
    found = users.hottest(1000)
    assert found.sampled == pytest.approx(1000 * 402 / 1024, rel=0.25)
    assert found.shares.shape == found.shards.shape == found.ids.shape
    assert all(found.shares[:-1] >= found.shares[1:])
    assert found.error == 0.0
    by_id = dict(zip(found.ids.tolist(), found.shards.tolist(), strict=True))
    assert all(shard == row_id % 2 for row_id, shard in by_id.items())
    assert len(users.hottest(1).ids) <= 1
    for wrong in (0, 1025, 2.5, True):
        with pytest.raises(InvalidRequest, match=f"limit must be a whole number from 1 to 1024, got {wrong}"):
            users.hottest(wrong)
    (told,) = {shard["tables"]["users"]["sampled_ids"] > 0 for shard in client.statistics()}
    assert told


def test_hot_and_status_show_ids_and_say_where_none_stands_out(cli, cluster, client):
    users = client.create_table(TableSpec("users", None, dim=1))
    for _ in range(8000):
        users.pull([5])
    client.create_table(TableSpec("idle", V, dim=1))
    address = "--address", cluster.address
    said = cli.json("hot", *address)
    assert said["tables"]["idle"] == {"ids": [], "sampled_ids": 0, "error": None, "unknown": None} | {
        "error": 0.0
    }
    (one,) = said["tables"]["users"]["ids"]
    assert one == {"id": 5, "share": 1.0, "shard": 1}
    assert list(cli.json("hot", "users", *address)["tables"]) == ["users"]
    out, _ = cli.run("hot", *address)
    assert out.splitlines()[1].split() == ["users", "5", "100.00%", "1"]
    sampled = said["tables"]["users"]["sampled_ids"]
    assert (
        f"users: {sampled:,} ids were looked at, so 100.00% is known to about {sampled**-0.5:.2%}"
        in " ".join(out.split())
    )
    assert "idle: hottest ids: no id stands out among the 0 that were looked at" in out
    _, err = cli.run("hot", "user", *address, code=1)
    assert "no table 'user'; there are: idle, users" in err
    tables = {table["name"]: table for table in cli.json("status", "--hot", *address)["tables"]}
    assert tables["users"]["hottest"] == said["tables"]["users"]
    assert "100.00%" in cli.run("status", "--hot", *address)[0]
    assert "hottest" not in cli.json("status", *address)["tables"][0]
    with Remote(cluster.address) as remote:
        by_name = {table["name"]: table["hottest_share"] for table in activity(remote.status())["tables"]}
    assert by_name == {"users": 1.0, "idle": None}


def test_a_plan_warns_of_even_ids_on_an_even_number_of_shards_and_says_what_is_better(cli, cluster, items):
    cli.write(ITEMS)
    planned = cli.json("plan", "--address", cluster.address)
    skew = {one["table"]: one for one in planned["skew"]}
    assert skew["items"]["busiest"] == pytest.approx(2.0, abs=0.3)
    assert skew["items"]["fullest"] == pytest.approx(2.0, abs=0.1)
    assert skew["items"]["shards"] == 4
    assert len(skew["items"]["better"]) == 3
    assert (skew["idle"]["busiest"], skew["idle"]["warning"]) == (None, "")
    assert planned["skew_unknown"] == {}
    out, _ = cli.run("plan", "--address", cluster.address)
    assert "table items: one of 4 shards would have 2." in out
    cli.write(ITEMS.replace("shards: 4", "shards: 3"))
    assert all(not one["warning"] for one in cli.json("plan", "--address", cluster.address)["skew"])
