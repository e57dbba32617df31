"""Points in time that logs cannot take a snapshot to: refused, with what can be had instead; and odd ones that can."""

import re
import shutil
import time

import numpy as np
import pytest
from old_cluster import SPECS, OldCluster, do, rows

from rowloom.client import InvalidRequest, TableSpec
from rowloom.deploy import local_cluster
from rowloom.deploy.control import hold
from rowloom.deploy.snapshots.moments import in_words, point_of
from rowloom.deploy.snapshots.point_in_time import rolled_forward
from rowloom.proto import methods
from rowloom.proto.channel import Channels
from rowloom.proto.codec import Block, PartName, Push
from rowloom.proto.framing import joined
from rowloom.proto.snapshots.snapshot import open_snapshot
from rowloom.server.durable.history import NoLog, ShardHistory
from rowloom.server.durable.point import Point
from rowloom.server.durable.reading import Reading
from rowloom.server.durable.records import HEAD_BYTES, LogCorrupt


@pytest.fixture
def old(tmp_path):
    """Of two shards, that runs; 4 pushes, a snapshot, 4 more."""
    cluster = OldCluster(tmp_path / "old", shards=2)
    for k in range(4):
        cluster.do("push", k)
    cluster.url = cluster.snapshot()
    for k in range(4, 8):
        cluster.do("push", k)
    yield cluster
    cluster.close()


def refused(old, point, error=InvalidRequest, **options) -> str:
    with pytest.raises(error) as found, rolled_forward(open_snapshot(old.url), point, **options):
        pass
    assert not list(old.folder.glob("snapshots/until-*"))
    return str(found.value)


def found(url: str, point: Point) -> tuple[list[bytes], int, int]:
    """Rows, and how many pushes count and are left out."""
    with (
        rolled_forward(open_snapshot(url), point) as there,
        local_cluster(3, restore=there.url) as cluster,
        cluster.connect() as client,
    ):
        assert f"{there.pushes} push" in str(there)
        assert ("left out" in str(there)) is bool(there.left_out)
        return rows(client), there.pushes, there.left_out


def rows_after(done) -> list[bytes]:
    with local_cluster(1, tables=SPECS) as cluster, cluster.connect() as client:
        for what, _ in done:
            do(client, *what)
        return rows(client)


def at(old, k) -> Point:
    """Just before the k-th thing was done."""
    return Point(before_s=int(old.done[k][1]))


def test_a_cluster_that_runs_is_left_as_it_is_and_goes_on(old) -> None:
    assert found(old.url, at(old, 6)) == (rows_after(old.done[:6]), 2, 0)
    old.do("push", 8)
    assert rows(old.clients[0]) == rows_after(old.done)


def test_a_moment_before_the_snapshot_names_an_older_one(old) -> None:
    later = old.snapshot()
    first, old.url = old.url, later
    point = Point(before_s=int(open_snapshot(later).manifest.created_s))
    said = refused(old, point)
    assert f"is not after snapshot {open_snapshot(later).id}" in said
    assert f"the newest one before it is {first}" in said
    old.url = first
    assert "has no other one of this cluster that is older" in refused(old, Point(before_s=1000))


def test_a_moment_behind_the_logs_names_the_newest_that_they_have(old) -> None:
    said = refused(old, Point(before_s=int(old.now()) + 60))
    newest = re.search(r"--until (\S+) is the newest point", said)
    assert newest
    assert found(old.url, point_of(newest[1], old.now() + 60)) == (rows_after(old.done), 4, 0)


def test_a_snapshot_after_which_nothing_came_is_to_be_restored_by_itself(old) -> None:
    old.url = old.snapshot()
    assert "restore it by itself" in refused(old, Point(before_s=int(old.now()) + 60))


def push_half(old, shard: int) -> None:
    """What one of two shards gets of a push of all rows of a table, by a client of another make."""
    old.ahead_s += 10
    coordinator = old.server.coordinator
    grads = (
        coordinator.state.tables["t"].number,
        np.arange(shard, 400, 2),
        Block(np.ones((200, 3), np.float32)),
    )
    name = PartName(coordinator.layout.epoch, shard, 1)
    half = Push(coordinator.layout.header(shard), 77, (name,), 1, [grads], parts=2)
    with Channels() as channels:
        address = coordinator.layout.shards[shard].address
        channels.call(address, methods.PUSH, bytes(joined(half.encode())), 10)


def test_a_push_that_the_snapshot_has_in_part_is_whole_when_the_rest_came_before_the_moment(
    old, monkeypatch
) -> None:
    monkeypatch.setattr(hold, "HOLD_S", (0.01, 0.01))
    monkeypatch.setattr(hold, "GONE_S", 0.01)
    push_half(old, 0)
    then, url = rows(old.clients[0]), old.snapshot()
    asked_s = old.server.coordinator.state.snapshots[-1].created_s
    assert open_snapshot(url).manifest.created_s > asked_s, "a push was waited for, and then it was cut"
    before = int(old.now()) + 5
    push_half(old, 1)
    now, after = rows(old.clients[0]), int(old.now()) + 5
    old.ahead_s += 10
    old.do("push", 8)
    assert found(url, Point(before_s=before)) == (then, 0, 0)
    assert found(url, Point(before_s=after)) == (now, 1, 0)


def test_a_push_that_was_on_one_shard_only_when_its_client_died_is_left_out_and_later_ones_count(old) -> None:
    push_half(old, 0)
    old.do("push", 8)
    old.do("push", 9)
    assert rows(old.clients[0]) != rows_after(old.done)
    assert found(old.url, Point(before_s=int(old.now()) + 1)) == (rows_after(old.done), 6, 1)


def test_a_table_and_a_rate_that_only_one_shard_has_heard_of_count_on_all(old) -> None:
    spec = TableSpec("later", 10, dim=2)
    before = old.lsns()
    old.clients[0].create_table(spec)
    old.clients[0].set_lr("t", 0.01)
    lsns = tuple(max(here.values()) for here in before)
    with (
        rolled_forward(open_snapshot(old.url), Point(lsns=(lsns[0] + 2, lsns[1]))) as there,
        local_cluster(3, restore=there.url) as cluster,
        cluster.connect() as client,
    ):
        assert client.table("later").pull([1, 2]).shape == (2, 2)
        assert client.table("t").entry.lr == 0.01
        assert rows(client) == rows_after(old.done)


def test_a_table_that_was_dropped_and_made_again_is_the_new_one(old) -> None:
    old.clients[0].drop_table("u")
    old.clients[0].create_table(SPECS[2])
    old.ahead_s += 10
    old.clients[0].table("u").push([7], np.ones((1, 2), np.float32))
    now = rows(old.clients[0])
    assert found(old.url, Point(before_s=int(old.now()) + 1)) == (now, 5, 0)


def segments_of(old, shard: int):
    return sorted(old.folder.glob(f"logs/*/epoch-*/shard-{shard}/wal-*.log"))


def test_logs_that_later_snapshots_have_made_shorter_name_the_newest_snapshot_that_serves(old) -> None:
    later = old.snapshot()
    old.do("push", 8)
    for shard in range(2):  # as `trim` does it
        (only,) = segments_of(old, shard)
        only.unlink()
        (only.parent / "newest-0000000001").unlink()  # there it is another one, which stays
    old.ahead_s += 10
    old.do("push", 9)
    said = refused(old, Point(before_s=int(old.now()) + 1), NoLog)
    assert "later snapshots have made it shorter" in said
    assert f"the newest one before it is {later}" in said


def place_of(old, shard: int, lsn: int) -> int:
    files = old.log(shard)
    try:
        reading = Reading(files)
        return next(reading._extents[0].place(r.head.offset) for r in reading.records() if r.head.lsn == lsn)
    finally:
        files.close()


def test_the_point_before_a_damage_that_was_named_left_out_a_second_of_whole_pushes(old) -> None:
    lsns = old.lsns()
    push = max(k for k in lsns[1] if k < 7)
    place = place_of(old, 1, lsns[1][push])
    with segments_of(old, 1)[0].open("r+b") as file:
        file.seek(place + HEAD_BYTES + 3)
        file.write(b"\xff\x00\xff")
    said = refused(old, Point(before_s=int(old.now()) + 1), LogCorrupt)
    assert "is damaged" in said
    named = re.search(r"--until (\S+), the last records before that, can be restored", said)
    assert named
    cut = [k for k, lsn in lsns[1].items() if lsn >= lsns[1][push]]
    whole = [done for k, done in enumerate(old.done) if k not in cut]
    assert found(old.url, point_of(named[1], old.now()))[0] == rows_after(whole)
    # The record before it was refused as a place, because the damaged one was looked at.
    before = max(lsn for k, lsn in lsns[0].items() if k < push), lsns[1][push] - 1
    assert found(old.url, Point(lsns=before))[0] == rows_after(old.done[:push])


def test_a_push_whose_record_is_torn_at_the_end_of_one_log_is_left_out_on_the_others(old) -> None:
    old.do("push", 20)
    last = max(set(old.lsns()[0]) & set(old.lsns()[1]))
    assert last == len(old.done) - 1, "the last push has rows on both shards"
    with segments_of(old, 0)[0].open("r+b") as file:
        file.seek(place_of(old, 0, old.lsns()[0][last]) + HEAD_BYTES)
        file.write(b"\xff\x00\xff")
    assert found(old.url, Point(before_s=int(old.now()) + 1)) == (rows_after(old.done[:last]), 4, 1)


def test_logs_that_end_before_a_position_or_a_position_of_other_shards_are_refused(old) -> None:
    lsns = [max(here.values()) for here in old.lsns()]
    assert f"the logs end with record {lsns[0]},{lsns[1]}, before 999,999" in refused(
        old, Point(lsns=(999, 999))
    )
    assert "the last record of each of 2 shards" in refused(old, Point(lsns=(999,)))
    assert "none before the snapshot" in refused(old, Point(lsns=(1, 1)))


def test_records_of_an_older_rowloom_are_refused_where_a_time_is_asked_for_and_serve_as_places(
    tmp_path,
) -> None:
    cluster = OldCluster(tmp_path / "old", shards=1)
    cluster.do("push", 0)
    cluster.url = cluster.snapshot()
    end = cluster.log_end(0)
    cluster.ahead_s = -cluster.now()  # time 0 is what was there before records had one
    cluster.clients[0].table("t").push([1], np.ones((1, 3), np.float32))
    now = rows(cluster.clients[0])
    cluster.ahead_s = 0
    try:
        said = refused(cluster, Point(before_s=int(time.time()) + 60))
        assert f"record {end + 1} of the log of shard 0" in said
        assert "does not say when it was made" in said
        assert found(cluster.url, Point(lsns=(end + 1,))) == (now, 1, 0)
    finally:
        cluster.close()


def test_a_log_that_was_begun_anew_or_ends_before_the_snapshot_is_another_one(old) -> None:
    owner, folder = old.owner(0), str(segments_of(old, 0)[0].parent)
    taken_s = open_snapshot(old.url).manifest.created_s
    end = old.log_end(0)
    history = ShardHistory(folder, owner, end - 1, taken_s - 3600)
    with pytest.raises(NoLog, match="the shard was lost and made anew"):
        list(history.until(Point(lsns=(end,))))
    history = ShardHistory(folder, owner, end + 3, taken_s)
    with pytest.raises(
        NoLog, match=f"ends with record {end}, before the snapshot, which is at record {end + 3}"
    ):
        list(history.until(Point(lsns=(end + 5,))))


def test_a_cluster_that_was_scaled_since_and_one_without_logs_are_refused(old, tmp_path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(old.folder, folder)
    for epoch in folder.glob("logs/*/epoch-*"):
        epoch.rename(epoch.parent / "epoch-9")
    said = refused(old, at(old, 6), NoLog, logs=str(folder / "logs"))
    assert "has epoch-9. When a cluster is scaled" in said
    shutil.rmtree(folder / "logs")
    assert "there are no logs of cluster" in refused(old, at(old, 6), NoLog, logs=str(folder / "logs"))
    shutil.copytree(old.url, tmp_path / "alone")
    old.url = str(tmp_path / "alone")
    assert "are not beside it: name their folder" in refused(old, at(old, 6))


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("10m", Point(before_s=400)),
        ("1970-01-01T00:10:00Z", Point(before_s=600)),
        ("1970-01-01T02:10:00+02:00", Point(before_s=600)),
        ("81,90", Point(lsns=(81, 90))),
        ("7", Point(lsns=(7,))),
    ],
)
def test_a_point_is_written_as_a_time_or_how_long_ago_or_as_places(text, point) -> None:
    assert point_of(text, 1000.5) == point


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("yesterday", "is no point in time"),
        ("1970-01-01T00:10:00", "in which zone"),
        ("1970-01-01T00:10:00.5Z", "whole seconds"),
        ("1970-01-01T00:20:00Z", "lies in the future: it is 1970-01-01T00:16:40Z now"),
    ],
)
def test_what_is_no_point_says_what_would_be_one(text, why) -> None:
    with pytest.raises(InvalidRequest, match=why):
        point_of(text, 1000.5)


def test_a_time_is_said_as_it_is_read() -> None:
    assert point_of(in_words(1.7e9), 2e9) == Point(before_s=1_700_000_000)
