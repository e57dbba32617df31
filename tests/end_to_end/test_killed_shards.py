"""Shards that are killed while trainers go on: nothing that was acknowledged is lost, nothing is applied twice."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from waiting import until

from rowloom.client import SGD, Adagrad, Adam, Normal, TableSpec, Zeros, connect
from rowloom.deploy import local_cluster, watcher
from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch.local_launcher import ProcessLauncher
from rowloom.deploy.operate.remote import Remote

IDS = np.arange(40)


@pytest.fixture(autouse=True)
def what_has_ended_is_seen_soon(monkeypatch) -> None:
    monkeypatch.setattr(watcher, "WATCH_S", 0.05)


def logs(storage: Path) -> list[str]:
    """Names of the shards that have logs, in all layouts."""
    return sorted(path.name for path in (storage / "logs").glob("*/*/shard-*"))


def scale(server: CoordinatorServer, shards: int) -> None:
    """To so many shards, and back when all serve."""
    remote = Remote(server.address)
    try:
        remote.scale(shards)
    finally:
        remote.close()


@contextlib.contextmanager
def running(storage: Path, durability: str, specs: list[TableSpec]) -> Iterator[CoordinatorServer]:
    """A cluster of two shards, each a process, with logs."""
    config = config_of(storage, durability, specs)
    server = CoordinatorServer(config, ProcessLauncher(config, storage / "out"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def config_of(storage: Path, durability: str, specs: list[TableSpec]) -> DeployConfig:
    return parse(
        {"name": "k", "shards": 2, "storage": str(storage), "durability": durability, "tables": specs}
    )


def kill(server: CoordinatorServer, *shards: int) -> None:
    """End the processes of shards; of all, if none is named."""
    assert isinstance(server.launcher, ProcessLauncher)
    keys = list(server.coordinator.state.keys)
    for key in [keys[shard] for shard in shards] if shards else keys:
        os.kill(server.launcher.pid(key), signal.SIGKILL)


def told(server: CoordinatorServer) -> str:
    """What status says is not finished yet; nothing of it may be a surplus server, or a shard that is lost."""
    with Remote(server.address) as remote:
        status = remote.status()
    said = "; ".join(status.unfinished)
    assert "more servers than shards" not in said
    assert "lost" not in [shard.health for shard in status.shards]
    return said


@pytest.mark.parametrize(
    "durability", ["process", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("interval", "disk"))]
)
def test_a_killed_shard_comes_back_with_every_push_that_was_acknowledged(durability, tmp_path) -> None:
    spec = TableSpec("t", 1000, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())
    with (
        running(tmp_path, durability, [spec]) as server,
        connect(server.address, timeout_s=200.0) as client,
    ):
        table = client.table("t")
        done = 0
        for life in range(2):
            for _ in range(30):
                table.push(IDS, np.full((len(IDS), 4), -1.0, np.float32))
                done += 1
            kill(server, life % 2)
            # It was called "more servers than shards", and once that its rows are gone.
            until(lambda life=life: f"shard {life} is being started anew, since" in told(server))
        table.push(IDS, np.full((len(IDS), 4), -1.0, np.float32))
        assert (table.pull(IDS) == done + 1).all()


@pytest.mark.slow
def test_rows_that_have_moved_come_back_too(tmp_path) -> None:
    spec = TableSpec("t", 1000, dim=4, optimizer=Adagrad(lr=1.0), initializer=Zeros())
    rng = np.random.default_rng(3)
    with (
        running(tmp_path, "process", [spec]) as server,
        connect(server.address, timeout_s=200.0) as client,
        local_cluster(shards=1, tables=[spec]) as oracle,
        oracle.connect() as other,
    ):
        tables = client.table("t"), other.table("t")

        def push() -> None:
            grads = rng.standard_normal((len(IDS), 4), np.float32)
            for table in tables:
                table.push(IDS, grads)

        for shards in (3, 1, 2):
            for _ in range(5):
                push()
            scale(server, shards)
            for _ in range(5):
                push()
            kill(server)
            push()
            assert np.array_equal(tables[0].pull(IDS), tables[1].pull(IDS))
        until(lambda: logs(tmp_path) == ["shard-0", "shard-1"])  # those of earlier layouts are gone
    assert logs(tmp_path) == []


@pytest.mark.slow
def test_a_shard_goes_on_from_a_snapshot_and_the_rest_of_its_log(tmp_path) -> None:
    specs = [
        TableSpec("a", 1000, dim=4, optimizer=Adagrad(lr=1.0), initializer=Zeros()),
        TableSpec("d", 1000, dim=2, optimizer=Adam(lr=0.1, mode="dense"), initializer=Normal()),
    ]
    rng = np.random.default_rng(3)
    with (
        running(tmp_path, "process", specs) as server,
        connect(server.address, timeout_s=200.0) as client,
        local_cluster(shards=1, tables=specs) as oracle,
        oracle.connect() as other,
        Remote(server.address) as remote,
    ):

        def push() -> None:
            ids = rng.choice(1000, 200, replace=False)
            for spec in specs:
                grads = rng.standard_normal((len(ids), spec.width), np.float32)
                for one in (client, other):
                    one.table(spec.name).push(ids, grads)

        for _ in range(2):
            for _ in range(5):
                push()
            taken = remote.take_snapshot()
            assert taken.rows > 0
            for _ in range(3):
                push()
            kill(server)
            push()
            for spec in specs:
                np.testing.assert_array_equal(
                    client.table(spec.name).pull(np.arange(1000)),
                    other.table(spec.name).pull(np.arange(1000)),
                )


def test_a_cluster_that_was_ended_with_its_logs_goes_on_where_it_was(tmp_path) -> None:
    spec = TableSpec("t", 1000, dim=4, optimizer=Adam(lr=0.1), initializer=Normal())
    config = config_of(tmp_path, "disk", [spec])
    rng = np.random.default_rng(5)
    with local_cluster(shards=1, tables=[spec]) as oracle, oracle.connect() as other:
        for day in range(3):
            server = CoordinatorServer(config, ProcessLauncher(config, tmp_path / "out"))
            if day == 0:
                server.start()
            else:
                server.take_up()
            try:
                with connect(server.address, timeout_s=200.0) as client:
                    for _ in range(10):
                        grads = rng.standard_normal((len(IDS), 4), np.float32)
                        client.table("t").push(IDS, grads)
                        other.table("t").push(IDS, grads)
                    np.testing.assert_array_equal(client.table("t").pull(IDS), other.table("t").pull(IDS))
                    client.table("t").set_lr(0.1 / (day + 2))
                    other.table("t").set_lr(0.1 / (day + 2))
            finally:
                server.stop(keep=True)
