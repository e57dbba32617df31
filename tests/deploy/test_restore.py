"""Clusters that begin with a snapshot: whole or not at all, and what they remember."""

import contextlib
import dataclasses
import errno
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from free_ports import free_port
from logging_launcher import LoggingLauncher

from rowloom.client import (
    Adagrad,
    Adam,
    InvalidRequest,
    Normal,
    Snapshot,
    SnapshotCorrupt,
    TableSpec,
    Unavailable,
    connect,
)
from rowloom.deploy import local_cluster
from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.control import receiving, restoring
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.snapshots import restorable
from rowloom.proto.errors import PushUnresolved
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry
from rowloom.server.durable.disk import Disk
from rowloom.server.rows.limits import Limit
from rowloom.server.snapshots.commit import commit_snapshot
from rowloom.server.snapshots.shard_writer import ShardWriter
from rowloom.server.snapshots.target import target_of

SPEC = TableSpec("t", 1000, dim=4, optimizer=Adagrad(lr=0.1), initializer=Normal(std=0.1, seed=3))
DENSE = TableSpec("d", 1000, dim=2, optimizer=Adam(lr=0.1, mode="dense"), initializer=Normal(seed=4))
ALL, IDS = np.arange(1000), np.arange(0, 1000, 3)


def push(client, seed: int) -> None:
    """The same for everyone who names the same seed."""
    rng = np.random.default_rng(seed)
    for spec in (SPEC, DENSE):
        client.table(spec.name).push(IDS, rng.standard_normal((len(IDS), spec.width), np.float32))


def rows(client) -> list[bytes]:
    return [client.table(spec.name).pull(ALL).tobytes() for spec in (SPEC, DENSE)]


@pytest.fixture
def taken(tmp_path) -> tuple[Snapshot, list[bytes], list[bytes]]:
    """A snapshot, the rows in it, and what they are one push later."""
    with (
        local_cluster(2, storage=tmp_path / "old", tables=[SPEC, DENSE]) as cluster,
        cluster.connect() as client,
    ):
        for seed in range(3):
            push(client, seed)
        client.set_lr("t", 0.03)
        push(client, 3)
        made, before = client.snapshot(extra={"step": 4, "net": np.arange(3.0)}), rows(client)
        push(client, 4)
        return made, before, rows(client)


def config_of(folder: Path, **more) -> DeployConfig:
    return parse({"name": "new", "shards": 3, "storage": str(folder), "durability": "process"} | more)


@contextlib.contextmanager
def restored(url: str, folder: Path, **more) -> Iterator[CoordinatorServer]:
    server = CoordinatorServer(config_of(folder, **more), LoggingLauncher(str(folder)))
    server.restore(url)
    try:
        yield server
    finally:
        server.stop()


def check_nothing_is_left(server: CoordinatorServer, folder: Path) -> None:
    assert not server.launcher._running  # type: ignore[attr-defined]
    assert [*(folder / "logs").glob("*"), *folder.glob("*.json")] == []


@pytest.mark.parametrize("shards", [1, 3])
def test_a_cluster_goes_on_from_a_snapshot_to_the_bit(taken, shards) -> None:
    made, before, after = taken
    asked = [dataclasses.replace(SPEC, partition="div"), TableSpec("new", 10, dim=1)]
    with local_cluster(shards, restore=made.path, tables=asked) as cluster, cluster.connect() as client:
        assert rows(client) == before
        assert client.table("new").pull([1]).shape == (1, 1)
        push(client, 4)
        assert rows(client) == after
        found = client.restored
        assert found is not None
        assert (found.id, found.path, found.rows, found.bytes) == (made.id, made.path, made.rows, made.bytes)
        assert found.extra["step"] == 4
        assert found.extra["net"].tolist() == [0.0, 1.0, 2.0]


def test_a_cluster_that_began_with_nothing_says_so() -> None:
    with local_cluster(1) as cluster, cluster.connect() as client:
        assert client.restored is None


def test_a_restored_cluster_can_be_taken_up_and_still_knows_what_it_began_with(taken, tmp_path) -> None:
    made, _, after = taken
    folder = tmp_path / "new"
    with restored(made.path, folder) as server, connect(server.address) as client:
        push(client, 4)
        server.stop(keep=True)
    shutil.rmtree(tmp_path / "old")  # the snapshot is needed no more
    server = CoordinatorServer(config_of(folder), LoggingLauncher(str(folder)))
    server.take_up()
    try:
        with connect(server.address) as client:
            assert rows(client) == after
            assert client.restored is not None
            assert client.restored.extra["step"] == 4
    finally:
        server.stop()


def test_a_restored_cluster_takes_snapshots_that_are_restored_again(taken, tmp_path) -> None:
    made, _, after = taken
    with restored(made.path, tmp_path / "new") as server, connect(server.address) as client:
        push(client, 4)
        again = client.snapshot()
    with local_cluster(2, restore=again.path) as cluster, cluster.connect() as client:
        assert rows(client) == after
        assert client.restored is not None
        assert client.restored.extra == {}


def test_a_client_of_the_old_cluster_changes_nothing_in_the_new_one(taken, tmp_path) -> None:
    config = config_of(tmp_path / "first", durability="memory", tables=[SPEC, DENSE])
    port = free_port(random.Random(os.getpid()))
    old = CoordinatorServer(config, LoggingLauncher(str(tmp_path / "first")), port=port)
    old.start()
    with connect(old.address) as client:
        push(client, 0)
        made = client.snapshot()
        push(client, 1)
        old.stop()
        new = CoordinatorServer(config, LoggingLauncher(str(tmp_path / "second")), port=port)
        new.restore(made.path)
        try:
            with connect(new.address) as other:
                before = rows(other)
                client.timeout_s = 2.0
                with pytest.raises((Unavailable, PushUnresolved)):
                    client.table("t").push(IDS, np.ones((len(IDS), 4), np.float32))
                assert rows(other) == before
                assert {s["pushes"] for s in other.statistics()} == {0}
        finally:
            new.stop()


def test_a_damaged_block_is_named_nothing_is_left_and_a_whole_copy_is_restored(taken, tmp_path) -> None:
    made, before, _ = taken
    copy, folder = tmp_path / "copy", tmp_path / "new"
    shutil.copytree(made.path, copy)
    file = next(copy.glob("shard-00001/t.rows*"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    server = CoordinatorServer(config_of(folder), LoggingLauncher(str(folder)))
    with pytest.raises(SnapshotCorrupt, match=rf"shard-00001/{file.name} is damaged: block 0"):
        server.restore(copy)
    check_nothing_is_left(server, folder)
    with restored(made.path, folder) as server, connect(server.address) as client:
        assert rows(client) == before


def test_a_snapshot_with_an_id_in_two_files_arrived_with_too_few_rows(tmp_path) -> None:
    target, layout = target_of(tmp_path / "s"), Layout("a-cluster", 3, (ShardAddress(0, "127.0.0.1:1"),))
    entry = TableEntry(1, TableSpec("t", num_embeddings=10, dim=4))
    writer = ShardWriter(target, 0, 4096 + 2 * 28)
    table = writer.table(entry)
    block = np.zeros((3, 4), np.float32)
    table.write(np.array([1, 2, 1]), np.zeros(3, np.uint32), block, [])
    table.finish(rows=3, step=0)
    commit_snapshot(
        target,
        id="s",
        cluster_name="",
        created_s=0,
        layout=layout,
        shards=[writer.finish(lsn=0, generation=1)],
        tables=[entry],
    )
    server = CoordinatorServer(config_of(tmp_path / "new"), LoggingLauncher(str(tmp_path / "new")))
    with pytest.raises(SnapshotCorrupt, match=r"has 3 rows, 2 arrived: .*`rowloom verify .*/s` names one"):
        server.restore(tmp_path / "s")
    check_nothing_is_left(server, tmp_path / "new")


def test_a_server_that_ends_while_it_reads_ends_the_restore(taken, tmp_path, monkeypatch) -> None:
    for room in (receiving, restoring):
        monkeypatch.setattr(room, "STEP_LIMIT_S", 2.0)
    made, before, _ = taken
    folder = tmp_path / "new"
    launcher = LoggingLauncher(str(folder))
    server = CoordinatorServer(config_of(folder), launcher)
    with pytest.raises(Unavailable, match="the process of shard 1 ended while the snapshot was read"):
        server.restore(made.path, lambda rows, total: launcher.stop(1, 0.0))
    monkeypatch.undo()
    check_nothing_is_left(server, folder)
    with restored(made.path, folder) as server, connect(server.address) as client:
        assert rows(client) == before


def test_a_disk_that_is_full_ends_the_restore_with_the_reason(taken, tmp_path, monkeypatch) -> None:
    made, before, _ = taken
    folder = tmp_path / "new"

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    server = CoordinatorServer(config_of(folder), LoggingLauncher(str(folder)))
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "write", full)
        with pytest.raises(Unavailable, match="No space left on device"):
            server.restore(made.path)
    check_nothing_is_left(server, folder)
    with restored(made.path, folder) as server, connect(server.address) as client:
        assert rows(client) == before


def test_what_a_killed_coordinator_has_left_in_logs_is_removed_by_the_next_restore(
    taken, tmp_path, monkeypatch
) -> None:
    made, before, _ = taken
    folder = tmp_path / "new"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CoordinatorServer, "_forget", lambda self: None)
        server = CoordinatorServer(config_of(folder), LoggingLauncher(str(folder)))
        with pytest.raises(KeyboardInterrupt):
            server.restore(made.path, killed)
    (left,) = (folder / "logs").iterdir()
    with restored(made.path, folder) as server, connect(server.address) as client:
        assert rows(client) == before
        (there,) = (folder / "logs").iterdir()
        assert there.name == server.coordinator.layout.cluster_id != left.name


def test_kept_rows_are_not_passed_over(taken, tmp_path) -> None:
    made, _, after = taken
    folder = tmp_path / "new"
    with restored(made.path, folder) as server, connect(server.address) as client:
        push(client, 4)
        server.stop(keep=True)
    server = CoordinatorServer(config_of(folder), LoggingLauncher(str(folder)))
    with pytest.raises(InvalidRequest, match=r"holds the logs of cluster .* which can go on"):
        server.restore(made.path)
    server.take_up()
    try:
        with connect(server.address) as client:
            assert rows(client) == after
    finally:
        server.stop()


def test_what_contradicts_the_snapshot_or_has_no_room_is_refused_before_anything_is_started(
    taken, tmp_path, monkeypatch
) -> None:
    made, _, _ = taken
    monkeypatch.setattr(LoggingLauncher, "start", None)
    folder = tmp_path / "new"
    other = dataclasses.replace(SPEC, dim=8)
    server = CoordinatorServer(config_of(folder, tables=[other]), LoggingLauncher(str(folder)))
    with pytest.raises(InvalidRequest, match="table 't': dim: 4 here, 8 there"):
        server.restore(made.path)
    monkeypatch.setattr(restorable, "available", lambda: Limit(1000, "what the machine's memory has left"))
    server = CoordinatorServer(config_of(folder), LoggingLauncher(str(folder)))
    with pytest.raises(
        Unavailable, match=r"nothing was started: the rows of the snapshot take .* KiB of memory"
    ):
        server.restore(made.path)
    check_nothing_is_left(server, folder)


def test_threads_have_no_logs(tmp_path) -> None:
    with pytest.raises(InvalidRequest, match="needs processes=True"):
        local_cluster(1, storage=tmp_path, durability="process")
