"""What rows that move take of memory beside those that serve: planned, bounded, shown."""

import numpy as np
import pytest
from rich.console import Console

from rowloom.client import Adagrad, TableSpec
from rowloom.deploy import local_cluster
from rowloom.deploy.config.config import DeployConfig, from_json, parse
from rowloom.deploy.config.memory import extra_bytes, memory, row_bytes
from rowloom.deploy.operate.applying import apply
from rowloom.deploy.operate.planning import plan
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.operate.status import render_plan
from rowloom.proto.errors import InvalidRequest, Unavailable

ROWS = 2000
USERS = TableSpec("users", ROWS, dim=16, optimizer=Adagrad(lr=0.1))
NEEDED = extra_bytes([(USERS, ROWS)], 1, 3)


@pytest.fixture
def cluster():
    with local_cluster(shards=2, tables=[USERS]) as cluster, cluster.connect() as client:
        client.table("users").push(np.arange(ROWS), np.ones((ROWS, 16), np.float32))
        yield cluster


@pytest.fixture
def remote(cluster):
    with Remote(cluster.address) as remote:
        yield remote


def wanted(shards: int, limit: int | None, partition: str = "mod") -> DeployConfig:
    """What runs, with these in it."""
    table = {"name": "users", "num_embeddings": ROWS, "dim": 16, "partition": partition}
    given = {"name": "local", "shards": shards, "tables": [table | {"optimizer": {"adagrad": {"lr": 0.1}}}]}
    return parse(given | ({"limits": {"max_extra_memory": limit}} if limit else {}))


def test_a_plan_says_what_moves_and_what_that_takes(remote):
    status = remote.status()
    move = plan(wanted(3, None), status).memory.move
    assert (move.rows, move.bytes) == (ROWS, ROWS * (8 + 2 * 16 * 4))
    assert move.extra_bytes == NEEDED >= ROWS * row_bytes(USERS)
    assert move.extra_shard_bytes == -(-NEEDED // 3)
    dealt = plan(wanted(2, None, "div"), status).memory
    assert dealt.move.rows == ROWS
    assert dealt.peak_bytes > dealt.now_bytes
    assert plan(wanted(2, None), status).memory.move is None


def test_a_move_that_needs_more_than_it_may_take_is_refused_before_anything_begins(cluster, remote):
    refused = wanted(3, NEEDED - 1, "div")
    assert plan(refused, remote.status()).refused
    assert not plan(wanted(3, NEEDED, "div"), remote.status()).refused
    with pytest.raises(
        InvalidRequest, match=rf"nothing was changed: .*\({NEEDED} bytes\).*max_extra_memory is"
    ):
        apply(refused, remote, remote.status())
    remote.bound_moves(NEEDED - 1)  # whoever asks without a plan, and another bound than it had
    with pytest.raises(Unavailable, match=rf"\({NEEDED} bytes\).*max_extra_memory is .*nothing was changed"):
        cluster.scale(3)
    assert cluster.shards == 2
    assert not remote.status().unfinished


def test_a_bound_is_live_and_a_move_that_keeps_it_is_made(cluster, remote):
    remote.bound_moves(1)
    assert from_json(remote.status().config).limits.max_extra_memory == 1
    done, scaled = apply(wanted(3, NEEDED, "div"), remote, remote.status())
    assert {c.action for c in done.changes} == {"limit", "scale", "deal"}
    assert scaled.state == "done"
    assert cluster.shards == 3
    assert from_json(remote.status().config).limits.max_extra_memory == NEEDED
    remote.bound_moves(0)
    assert from_json(remote.status().config).limits.max_extra_memory is None


def test_a_plan_says_that_standbys_need_memory_too():
    config = parse({"shards": 2, "tables": [USERS], "replicas": 1})
    assert memory(config).standbys == 1
    with (console := Console(width=200)).capture() as said:
        console.print(render_plan(plan(config, None)))
    assert "the standby of a shard needs as much again" in said.get()
