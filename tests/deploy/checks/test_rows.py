"""What is said of a config whose rows, with every id pushed, are more than the memory of this machine."""

import pytest

from rowloom.deploy.checks import machine
from rowloom.deploy.checks.rows import every_id
from rowloom.deploy.config.config import parse
from rowloom.deploy.config.memory import memory
from rowloom.deploy.operate import planning
from rowloom.server.rows.limits import Limit

MIB = 1 << 20
ROOM = Limit(100 * MIB, "the machine's memory")
# 532 bytes a row, 53.2 MB of all.
TABLES = [{"name": "users", "num_embeddings": 100_000, "dim": 64, "optimizer": "adagrad"}]
HUGE = [{"name": "users", "num_embeddings": 10_000_000_000, "dim": 4096, "optimizer": "adam"}]


def said(there: Limit, **config):
    wanted = parse({"tables": TABLES} | config)
    return every_id(wanted, memory(wanted), there)


def test_a_table_of_447_tebibytes_was_planned_without_a_word(monkeypatch):
    config = parse({"tables": HUGE})
    for module in (planning, machine):
        monkeypatch.setattr(module, "total", lambda: Limit(23 << 30, "the machine's memory"))
    (planned,) = planning.plan(config, None).told
    (examined,) = [one for one in machine.memory(config) if one.name == "memory of rows"]
    assert planned == examined
    assert not planning.plan(config, None).refused
    assert planned.state == "warning"
    assert planned.found == (
        "with every id pushed rows take 447.2 TiB; the machine's memory is 23.0 GiB, enough for 0.005 % of that"
    )
    assert planned.fix.startswith(
        "all of it would take 19,911 such machines, and a cluster has at most 1,024"
    )


def test_rows_that_have_room_are_not_spoken_of():
    assert said(ROOM) is None
    assert said(ROOM, shards=2) is None
    assert said(ROOM, tables=[{"name": "open", "dim": 64}]) is None
    assert said(ROOM, tables=[]) is None


@pytest.mark.parametrize(
    ("config", "found", "fix"),
    [
        ({}, "take 50.7 MiB; the machine's memory is 40.0 MiB, enough for 78 % of that", "2 such machines"),
        (
            {"shards": 3},
            "50.7 MiB, 16.9 MiB in each of 3 shards; ",
            "2 such machines (`launcher: ray`, `shards: 4`)",
        ),
        ({"replicas": 1}, "101.5 MiB, and as much in its standby; ", "3 such machines"),
        ({"launcher": "ray"}, "take 50.7 MiB; the machine's memory is 40.0 MiB", "2 such machines"),
        ({"tables": [*TABLES, {"name": "open", "dim": 64}]}, "take 50.7 MiB; ", "2 such machines"),
    ],
)
def test_what_rows_take_and_what_would_hold_them_is_said(config, found, fix):
    one = said(Limit(40 * MIB, "the machine's memory"), **config)
    assert one is not None
    assert found in one.found
    assert one.fix.startswith(fix)


def test_on_ray_a_shard_alone_is_held_against_this_machine():
    small = Limit(30 * MIB, "the machine's memory")
    assert said(small, launcher="ray", shards=2) is None
    assert (
        said(small, launcher="ray", ray={"memory_per_shard": "1GiB"}) is None
    )  # its own warning goes by that
