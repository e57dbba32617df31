"""Tables by shards, and what they are held against."""

import random

import pytest
from busy_shards import status

from rowloom.client import SGD, Adagrad, TableSpec
from rowloom.deploy.config.config import parse
from rowloom.deploy.observe.limits import limits
from rowloom.deploy.observe.matrix import FEWEST_TABLES, MOST_CELLS, MOST_TABLES, matrix
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.spec import TableEntry


def crowd(shards: int, tables: int, seed: int) -> tuple[pb.StatusReply, pb.StatusReply]:
    """Two looks at shards, two seconds apart, at random; the second shard tells nothing."""
    rng = random.Random(seed)
    before, now = pb.StatusReply(), pb.StatusReply()
    for reply, up in ((before, 10.0), (now, 12.0)):
        reply.tables.extend(
            TableEntry(k, TableSpec(f"t{k}", 9, dim=2)).to_message() for k in range(1, tables + 1)
        )
        for index in range(shards):
            shard = reply.shards.add(health="serving" if index != 1 else "dead")
            shard.shard.index, shard.shard.incarnation = index, index + 1
            if index == 1:
                continue
            shard.statistics.uptime_s = up
            for k in range(1, tables + 1):
                rows = rng.randrange(1000)
                shard.statistics.tables.add(table=k, name=f"t{k}", rows=rows, bytes=8 * rows)
                done = int(100 * up) * k
                shard.statistics.counts.add(table=f"t{k}", pulled_rows=done, pushed_rows=2 * done)
    return now, before


@pytest.mark.parametrize(("shards", "tables"), [(1, 1), (3, 4), (64, 150), (1024, 12), (3, 150)])
def test_each_row_is_in_one_cell_and_what_there_is_no_room_for_is_one_line(shards, tables):
    now, before = crowd(shards, tables, shards)
    shown = matrix(now, before)
    assert shown["shards"] == list(range(shards))
    named = [one for one in shown["tables"] if one["name"] is not None]
    room = min(max(MOST_CELLS // shards, FEWEST_TABLES), MOST_TABLES)
    assert (len(named), shown["tables_left_out"]) == (min(tables, room), max(0, tables - room))
    for index, shard in enumerate(now.shards):
        cells = [one["cells"][index] for one in shown["tables"]]
        if not shard.HasField("statistics"):
            assert set(map(str, cells)) == {"None"}
            continue
        assert sum(cell[0] for cell in cells) == sum(t.rows for t in shard.statistics.tables)
        assert sum(cell[1] for cell in cells) == sum(t.bytes for t in shard.statistics.tables)
        assert sum(cell[2] for cell in cells) == pytest.approx(300.0 * tables * (tables + 1) / 2, rel=0.01)
    left_out = tables - len(named)
    if left_out:
        total = {
            entry.spec.name: sum(
                t.bytes for s in now.shards for t in s.statistics.tables if t.table == entry.number
            )
            for entry in now.tables
        }
        kept = {one["name"] for one in named}
        assert min(total[name] for name in kept) >= max(total[name] for name in total if name not in kept)


def test_what_a_config_allows_is_what_plan_computes():
    assert limits(status(1.0, (3, 1))) == {
        **dict.fromkeys(("process_bytes", "rows_bytes", "extra_bytes", "snapshot_every_s")),
        "storage": False,
    }
    now = status(1.0, (3, 1))
    now.layout.shards.add(index=0)
    now.layout.shards.add(index=1)
    del now.tables[:]
    specs = [
        TableSpec("users", 1001, dim=2, optimizer=Adagrad(lr=0.1)),
        TableSpec("n", 100, dim=4, optimizer=SGD(lr=0.1)),
    ]
    now.tables.extend(TableEntry(k, spec).to_message() for k, spec in enumerate(specs, 1))
    written = {
        "name": "ads",
        "shards": 2,
        "storage": "/kept",
        "snapshots": {"every": 600},
        "limits": {"max_extra_memory": "1GiB"},
    }
    now.config = parse(written).to_json()
    assert limits(now) == {
        "process_bytes": None,
        "rows_bytes": 501 * (4 * 4 + 20) + 50 * (4 * 4 + 20),
        "extra_bytes": 1 << 30,
        "snapshot_every_s": 600.0,
        "storage": True,
    }
    on_ray = {"name": "ads", "shards": 2, "launcher": "ray", "ray": {"memory_per_shard": "2GiB"}}
    now.config = parse(on_ray).to_json()
    assert (limits(now)["process_bytes"], limits(now)["storage"]) == (2 << 30, False)
    now.tables.append(TableEntry(3, TableSpec("open", None, dim=4)).to_message())
    assert limits(now)["rows_bytes"] is None
