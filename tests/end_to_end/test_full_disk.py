"""A real disk that is full, and has room again, under a cluster of processes."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from old_cluster import OldCluster, rows
from rich.console import Console
from small_disk import fill, free, small_disk
from waiting import until

from rowloom.client import SGD, PushUnresolved, TableSpec, Unavailable, Zeros, connect
from rowloom.deploy import local_cluster
from rowloom.deploy.config.config import parse
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.health.ways_out import ways_out
from rowloom.deploy.launch.local_launcher import ProcessLauncher
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.operate.status import render_status, summary
from rowloom.deploy.snapshots.point_in_time import rolled_forward
from rowloom.deploy.snapshots.room import to_go_on
from rowloom.proto.snapshots.snapshot import open_snapshot
from rowloom.proto.snapshots.verifying import verify
from rowloom.server.durable.point import Point
from rowloom.server.durable.segments import SEGMENT_BYTES

MANY = 16_384
SPEC = TableSpec("t", MANY, dim=64, optimizer=SGD(lr=1.0), initializer=Zeros())


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of 256 MiB: a log and the segment after the first, and little more."""
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@contextlib.contextmanager
def on(disk: Path, out: Path) -> Iterator[CoordinatorServer]:
    """A cluster of one shard whose storage is that disk."""
    config = parse({"name": "full", "storage": str(disk), "tables": [SPEC]})
    assert config.durability == "process"
    server = CoordinatorServer(config, ProcessLauncher(config, out))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def status_of(remote: Remote) -> dict:
    return summary(remote.status())


def dead_in_words(remote: Remote) -> str:
    """All that `status` says, and what can be done, of a cluster whose shard is dead."""
    state = status_of(remote)
    console = Console(width=400)
    with console.capture() as capture:
        console.print(render_status(state))
    return capture.get() + ways_out(state)


def test_a_disk_that_was_full_and_has_room_again_costs_no_row_and_no_restart(disk, tmp_path) -> None:
    with (
        on(disk, tmp_path / "out") as server,
        connect(server.address, timeout_s=200.0) as client,
        Remote(server.address) as remote,
    ):

        def shard() -> dict:
            return summary(remote.status())["shards"][0]

        table, ids, grads = client.table("t"), np.arange(MANY), np.full((MANY, 64), -1.0, np.float32)
        table.push(ids, grads)
        other = fill(disk)
        acked, said = 1, ""
        while not said:
            try:
                table.push(ids, grads)
                acked += 1
            except PushUnresolved as e:
                said = str(e)
        assert "No space left" in said
        assert shard()["health"] == "pulls only"
        assert "No space left" in shard()["log_error"]
        shown = table.pull(ids)
        assert shown[0, 0] in (acked, acked + 1)
        pid = shard()["pid"]
        other.unlink()
        table.push(ids, grads)  # waits for the log to go on, and is applied
        assert shard()["health"] == "serving"
        assert shard()["pid"] == pid
        assert np.array_equal(table.pull(ids), shown + 1)
        os.kill(pid, 9)
        until(lambda: shard()["health"] == "serving" and shard()["pid"] != pid)
        assert np.array_equal(table.pull(ids), shown + 1)


@contextlib.contextmanager
def pushed_to(disk, out):
    """A cluster with one push to many rows: (what asks it, its table, the ids, the gradients of that push)."""
    with (
        on(disk, out) as server,
        connect(server.address, timeout_s=100.0) as client,
        Remote(server.address) as remote,
    ):
        table, ids, grads = client.table("t"), np.arange(MANY), np.full((MANY, 64), -1.0, np.float32)
        table.push(ids, grads)
        yield remote, table, ids, grads


@pytest.mark.slow
def test_a_shard_whose_process_ended_on_a_disk_without_a_free_block_was_dead_until_there_was_room(
    disk, tmp_path
) -> None:
    # The layout that says where the new one is could not be written, so that not even pulls were served.
    with pushed_to(disk, tmp_path / "out") as (remote, table, ids, grads):
        for _ in range(3):  # what was kept for it is there each time
            other = fill(disk)
            pid = status_of(remote)["shards"][0]["pid"]
            os.kill(pid, 9)
            until(lambda pid=pid: status_of(remote)["shards"][0]["pid"] not in (0, pid))
            assert (table.pull(ids) == 1.0).all()
            assert free(disk) < 1 << 18
        other.unlink()
        table.push(ids, grads)
        assert (table.pull(ids) == 2.0).all()


def test_a_shard_that_cannot_be_started_again_was_said_to_need_nothing_but_seconds(disk, tmp_path) -> None:
    with pushed_to(disk, tmp_path / "out") as (remote, table, ids, _grads):
        (disk / "layout.json.reserve").unlink()
        other = fill(disk)
        pid = status_of(remote)["shards"][0]["pid"]
        os.kill(pid, 9)
        until(lambda: status_of(remote)["shards"][0]["stays_dead"])
        said = dead_in_words(remote)
        why = f"storage {disk}/layout.json cannot be written: No space left on device"
        assert f"shard 0 is dead: it cannot be started again yet: {why}" in said
        assert "not finished yet: shard 0 cannot be started again yet, since" in said
        assert "make room on the disk that is named" in said
        assert "Nothing is to be done" not in said
        assert "being started anew" not in said
        other.unlink()
        until(lambda: status_of(remote)["healthy"])
        assert "cannot be started" not in dead_in_words(remote)
        assert (table.pull(ids) == 1.0).all()


@pytest.mark.slow
def test_a_log_went_on_for_two_seconds_with_the_room_that_status_asked_for(tmp_path) -> None:
    # A second snapshot, by which old logs go, found no room: pushes had filled what was left.
    with small_disk(tmp_path / "disk", "500m") as disk, on(disk, tmp_path / "out") as server:
        go_on_with_little_room(server.address, disk)


def push_until_it_fails(push: Callable[[], object]) -> None:
    for _ in range(1000):
        try:
            push()
        except PushUnresolved:
            return
    raise AssertionError("the disk was never full")


def go_on_with_little_room(address: str, disk: Path) -> None:
    with connect(address, timeout_s=60.0) as client, Remote(address) as remote:

        def shard() -> dict:
            return status_of(remote)["shards"][0]

        table, ids, grads = client.table("t"), np.arange(MANY), np.full((MANY, 64), -1.0, np.float32)
        table.push(ids, grads)
        other = fill(disk)
        push_until_it_fails(lambda: table.push(ids, grads))
        shown, room = table.pull(ids), shard()["bytes"] * 3 // 2
        os.truncate(other, other.stat().st_size - room)  # for one snapshot

        def waits() -> list[str]:
            return [one for one in status_of(remote)["unfinished"] if "a second snapshot beside" in one]

        until(waits)
        assert "has all rows, as its disk has little room" in waits()[0]
        assert shard()["health"] == "pulls only"
        os.truncate(other, other.stat().st_size - to_go_on(shard()["bytes"], 1, snapshots=2) + room)
        for done in range(1, 121):  # 500 MB of log
            table.push(ids, grads)
            if done % 8 == 0:  # logs are made short beside it
                until(lambda: shard()["log_bytes"] <= 2 * SEGMENT_BYTES)
        assert np.array_equal(table.pull(ids), shown + done)
        assert status_of(remote)["healthy"]


def test_a_restore_to_a_point_in_time_wrote_to_the_full_disk_of_the_old_cluster(disk, tmp_path) -> None:
    old = OldCluster(disk / "old", shards=2)
    try:
        old.do("push", 1)
        url = old.snapshot()
        old.do("push", 2)
        wanted = rows(old.clients[0])
        ends = Point(lsns=tuple(old.log_end(shard) for shard in range(2)))
        fill(disk)
        with pytest.raises(Unavailable) as told, rolled_forward(open_snapshot(url), ends):
            pass
        assert "No space left on device. Nothing was changed. Make room there, or give" in str(told.value)
        assert f"with `--logs {disk}/old/logs`" in str(told.value)
        target = tmp_path / "new"
        with rolled_forward(open_snapshot(url), ends, storage=str(target)) as there:
            assert there.url.startswith(f"{target}/until-")
            with local_cluster(3, restore=there.url) as cluster, cluster.connect() as client:
                assert rows(client) == wanted
        assert not target.exists()
        verify(url)  # the links went, and not what they stood for
    finally:
        old.close()
