"""Snapshots of a running cluster: what is in them, and what becomes of old ones and of those that fail."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from waiting import until

from rowloom.client import SGD, Adagrad, Client, InvalidRequest, TableSpec, Unavailable, Zeros, connect
from rowloom.deploy.config.config import parse
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch.launcher import Launched
from rowloom.deploy.launch.local_launcher import ThreadLauncher
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.snapshots import snapshots as snapshots_module
from rowloom.proto.snapshots.snapshot import open_snapshot
from rowloom.proto.snapshots.verifying import verify
from rowloom.server import holder
from rowloom.server.durable.log import Mode
from rowloom.server.durable.shard_log import ShardLogs
from rowloom.server.serve import Server
from rowloom.server.snapshots import writing

SPEC = TableSpec("t", 2000, dim=8, optimizer=Adagrad(lr=0.1), initializer=Zeros())


class KeepingLauncher(ThreadLauncher):
    """Servers in threads that have logs and a place for snapshots."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder
        self.servers: dict[int, Server] = {}

    def start(self, key: int) -> Launched:
        """As `Launcher`."""
        logs = ShardLogs(f"{self._folder}/logs", Mode.PROCESS, segment_bytes=1 << 16)
        server = Server(logs=logs, snapshots=f"{self._folder}/snapshots")
        server.start()
        self.servers[key] = self._running[key] = server
        return Launched(server.address, server.incarnation)


@pytest.fixture
def cluster(tmp_path) -> Iterator[CoordinatorServer]:
    config = parse(
        {"name": "s", "shards": 2, "storage": str(tmp_path), "durability": "process", "tables": [SPEC]}
    )
    server = CoordinatorServer(config, KeepingLauncher(str(tmp_path)))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def client(cluster) -> Iterator[Client]:
    with connect(cluster.address, timeout_s=30.0) as client:
        yield client


@pytest.fixture
def remote(cluster) -> Iterator[Remote]:
    with Remote(cluster.address) as remote:
        yield remote


def rows_of(url: str) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}
    for block in open_snapshot(url).read("t"):
        found.update(zip(block.ids.tolist(), block.values.copy(), strict=True))
    return found


def test_a_snapshot_has_what_was_acknowledged_before_and_nothing_of_what_came_after(client, remote) -> None:
    table, ids = client.table("t"), np.arange(300)
    table.push(ids, np.ones((300, 8), np.float32))
    before = table.pull(ids)
    taken = remote.take_snapshot(b"step 17")
    table.push(np.arange(500), np.ones((500, 8), np.float32))
    assert verify(taken.url).rows == taken.rows == 300
    found = rows_of(taken.url)
    assert sorted(found) == ids.tolist()
    np.testing.assert_array_equal(np.stack([found[i] for i in range(300)]), before)
    assert open_snapshot(taken.url).extra == b"step 17"


def test_each_shard_is_written_as_it_was_at_one_moment_while_trainers_go_on(
    client, remote, monkeypatch
) -> None:
    monkeypatch.setattr(writing, "BLOCK_ROWS", 16)  # many chances to come in between
    table, ids, stop = client.table("t"), np.arange(1000), threading.Event()
    table.push(ids, np.ones((1000, 8), np.float32))

    def train() -> None:
        while not stop.is_set():  # all rows the same, always
            table.push(ids, np.ones((1000, 8), np.float32))

    training = threading.Thread(target=train)
    training.start()
    try:
        before = float(table.pull([0])[0, 0])
        for _ in range(4):
            found = rows_of(remote.take_snapshot().url)
            after = float(table.pull([0])[0, 0])
            for shard in (0, 1):  # a push that was under way may have reached one of them only
                rows = np.stack([found[i] for i in range(shard, 1000, 2)])
                assert (rows == rows[0, 0]).all()
                assert after <= rows[0, 0] <= before
            before = after
    finally:
        stop.set()
        training.join(30)


def test_logs_that_are_long_are_made_short_and_old_snapshots_go(
    cluster, client, monkeypatch, tmp_path
) -> None:
    table, ids = client.table("t"), np.arange(1000)
    taken = Remote(cluster.address).take_snapshot()
    monkeypatch.setattr(snapshots_module, "LONG_LOG_BYTES", 400_000)
    lengths = lambda: [s._host.journal.bytes for s in cluster.launcher.servers.values()]  # type: ignore[attr-defined]  # noqa: E731
    for _ in range(60):
        table.push(ids, np.ones((1000, 8), np.float32))
    until(
        lambda: (
            len(cluster.coordinator.state.snapshots) == 2 and cluster.coordinator.state.snapshots[0].automatic
        )
    )
    until(lambda: max(lengths()) < 400_000)
    kept = {one.id for one in cluster.coordinator.state.snapshots}
    until(
        lambda: {p.name for p in (tmp_path / "snapshots").iterdir()} == kept | {taken.id}
    )  # that one was asked for


def test_a_snapshot_that_cannot_be_written_leaves_pushes_going_on(cluster, client, remote, tmp_path) -> None:
    (tmp_path / "snapshots").write_text("a file, where a folder should be")
    table = client.table("t")
    table.push([1], np.ones((1, 8), np.float32))
    with pytest.raises(Unavailable, match="could not write its part"):
        remote.take_snapshot()
    table.push([1], np.ones((1, 8), np.float32))
    assert cluster.coordinator.state.snapshots == []
    assert all(server._host.taking.error for server in cluster.launcher.servers.values())


def test_pushes_wait_for_the_writer_before_copies_take_too_much_memory(
    cluster, client, remote, monkeypatch
) -> None:
    monkeypatch.setattr(holder, "MOST_SAVED_BYTES", 1000)
    monkeypatch.setattr(writing, "BLOCK_ROWS", 8)
    table, ids = client.table("t"), np.arange(1000)
    table.push(ids, np.ones((1000, 8), np.float32))
    most: list[int] = []

    def watch() -> None:
        while not done.is_set():
            for server in cluster.launcher.servers.values():
                taking = server._host.taking
                if taking is not None and taking.under_way:
                    most.append(taking.cut.saved_bytes)

    done = threading.Event()
    watching = threading.Thread(target=watch)
    watching.start()
    taking = threading.Thread(target=remote.take_snapshot)
    taking.start()
    try:
        while taking.is_alive():
            table.push(ids[:20], np.ones((20, 8), np.float32))
        assert max(most, default=0) <= 1000 + 20 * 100
    finally:
        done.set()
        watching.join(20)
        taking.join(20)


def test_a_cluster_without_storage_says_what_a_snapshot_needs() -> None:
    config = parse({"name": "n", "tables": [TableSpec("t", 10, dim=1, optimizer=SGD())]})
    server = CoordinatorServer(config, ThreadLauncher())
    server.start()
    try:
        with Remote(server.address) as remote, pytest.raises(InvalidRequest, match="needs `storage:`"):
            remote.take_snapshot()
    finally:
        server.stop()
