"""Standbys of shards that have logs: whoever ends, nothing that was acknowledged is lost, nothing is applied twice."""

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from killing import kill_all
from oracle import OracleTable
from stopping import stop
from waiting import until

from rowloom.client import Adagrad, TableSpec, Zeros, connect
from rowloom.deploy import local_cluster, watcher
from rowloom.deploy.config.config import parse
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch.local_launcher import ProcessLauncher
from rowloom.deploy.launch.processes import started
from rowloom.deploy.operate.applying import apply
from rowloom.deploy.operate.clusters import down, up
from rowloom.deploy.operate.directory import ClusterDirectory, Record
from rowloom.deploy.operate.remote import Remote
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import RowloomError

V, DIM = 60, 4
IDS = np.arange(V)
SPEC = TableSpec("t", V, dim=DIM, optimizer=Adagrad(lr=0.1), initializer=Zeros())


def push(table, oracle: OracleTable, rng: np.random.Generator, times: int = 1) -> None:
    """The same to a table and to an oracle, one by one."""
    for _ in range(times):
        ids = rng.integers(0, V, 20)
        grads = rng.standard_normal((20, DIM)).astype(np.float32)
        table.push(ids, grads)
        oracle.push(ids, grads)


class Trainer:
    """Pushes to a cluster and to an oracle, in a thread; no push of it may fail."""

    def __init__(self, address: str, oracle: OracleTable, seed: int) -> None:
        self._client = connect(address, timeout_s=100.0)
        self._table, self._oracle = self._client.table("t"), oracle
        self._rng = np.random.default_rng(seed)
        self._ending, self._failed = threading.Event(), list[Exception]()
        self.pushed = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._ending.wait(0.002):  # others need the cores, too
                push(self._table, self._oracle, self._rng)
                self.pushed += 1
        except Exception as e:
            self._failed.append(e)

    def goes_on(self) -> None:
        before = self.pushed
        until(lambda: self.pushed > before + 2 or self._failed)

    def end(self) -> None:
        self._ending.set()
        self._thread.join()
        assert not self._failed
        np.testing.assert_array_equal(self._table.pull(IDS), self._oracle.pull(IDS))
        self._client.close()


@contextlib.contextmanager
def training(address: str, oracle: OracleTable, seed: int) -> Iterator[Trainer]:
    trainer = Trainer(address, oracle, seed)
    try:
        yield trainer
        trainer.goes_on()
    finally:
        trainer.end()


def config_of(folder: Path, **more):
    given = {"name": "ads", "shards": 2, "replicas": 1, "storage": str(folder / "kept"), "tables": [SPEC]}
    return parse(given | {"standby": {"after": 1.0}} | more)


def when(record: Record, condition: Callable[[list[pb.ShardStatus]], bool]) -> list[pb.ShardStatus]:
    """The shards, as soon as something is so of them."""
    found: list[pb.ShardStatus] = []
    with Remote(record.address) as remote:

        def holds() -> bool:
            found[:] = remote.status().shards
            return condition(found)

        until(holds)
    return found


def in_step(record: Record) -> list[pb.ShardStatus]:
    """The shards, when all have standbys that can take their places."""
    return when(record, lambda shards: all(shard.standby.state == "in step" for shard in shards))


def rows(record: Record) -> np.ndarray:
    with connect(record.address, timeout_s=100.0) as client:
        return client.table("t").pull(IDS)


@pytest.fixture
def directory(tmp_path) -> Iterator[ClusterDirectory]:
    directory = ClusterDirectory(tmp_path / "home")
    yield directory
    with contextlib.suppress(RowloomError):
        down(Record("ads", "local", "", storage=str(tmp_path / "kept")), directory)


@pytest.mark.slow
def test_a_cluster_whose_servers_end_one_by_one_and_then_all_is_bit_for_bit_the_oracle(
    directory, tmp_path
) -> None:
    oracle, config = OracleTable(SPEC), config_of(tmp_path)
    assert config.durability == "process"
    record = up(config, directory).record
    with training(record.address, oracle, 1) as trainer:
        before = in_step(record)
        trainer.goes_on()
        for index in range(2):
            os.kill(before[index].pid, signal.SIGKILL)
            trainer.goes_on()
        after = in_step(record)
        assert [s.shard.incarnation for s in after] == [s.standby.incarnation for s in before]
    kill_all(directory, "ads")
    record = up(config, directory).record
    np.testing.assert_array_equal(rows(record), oracle.pull(IDS))


def test_standbys_are_made_and_ended_under_a_trainer_and_logs_go_on(directory, tmp_path) -> None:
    oracle = OracleTable(SPEC)
    record = up(config_of(tmp_path, shards=1, replicas=0), directory).record
    with training(record.address, oracle, 1) as trainer:
        for replicas in (1, 0):
            trainer.goes_on()
            with Remote(record.address) as remote:
                wanted = config_of(tmp_path, shards=1, replicas=replicas)
                (change,) = apply(wanted, remote, remote.status())[0].changes
            assert change.path == "replicas"
            if replicas:
                in_step(record)
            else:
                when(record, lambda shards: not shards[0].HasField("standby"))
            (shard,) = when(record, lambda shards: bool(shards[0].pid))
            os.kill(shard.pid, signal.SIGKILL)
            old = shard.shard.incarnation
            when(record, lambda shards, old=old: shards[0].shard.incarnation != old)
            trainer.goes_on()


@pytest.mark.slow
def test_a_cluster_with_standbys_that_is_brought_down_and_kept_goes_on_and_ends_with_its_logs(
    directory, tmp_path
) -> None:
    oracle, config = OracleTable(SPEC), config_of(tmp_path, shards=1)
    record = up(config, directory).record
    in_step(record)
    with training(record.address, oracle, 1):
        pass
    down(directory.get("ads"), directory, keep=True)
    record = up(config, directory).record
    np.testing.assert_array_equal(rows(record), oracle.pull(IDS))
    in_step(record)
    down(record, directory)
    assert not (tmp_path / "kept" / "logs").exists()


@pytest.mark.parametrize(
    "promoted",
    [
        pytest.param(0, marks=pytest.mark.slow, id="before the standbys"),
        pytest.param(1, id="of shard 0"),
        pytest.param(2, marks=pytest.mark.slow, id="of both shards"),
    ],
)
def test_a_restore_to_a_moment_has_the_pushes_before_it_though_standbys_have_gone_on_with_the_logs(
    promoted, directory, tmp_path
) -> None:
    oracle, config = OracleTable(SPEC), config_of(tmp_path)
    record = up(config, directory).record
    before = in_step(record)
    with connect(record.address, timeout_s=100.0) as client:
        ten_pushes = partial(push, client.table("t"), oracle, np.random.default_rng(5), 10)
        ten_pushes()
        taken = client.snapshot()
        wanted, moment_s = oracle.pull(IDS), 0
        for turn in range(3):
            ten_pushes()
            if turn == promoted:
                wanted, moment_s = oracle.pull(IDS), second_after(time.time())
            if turn < len(before):
                os.kill(before[turn].pid, signal.SIGKILL)
        ten_pushes()
        np.testing.assert_array_equal(client.table("t").pull(IDS), oracle.pull(IDS))
    after = in_step(record)
    assert [s.shard.incarnation for s in after] == [s.standby.incarnation for s in before]
    moment = datetime.fromtimestamp(moment_s, timezone.utc).isoformat()
    with local_cluster(3, restore=taken.path, until=moment) as cluster, cluster.connect() as client:
        np.testing.assert_array_equal(client.table("t").pull(IDS), wanted)
    np.testing.assert_array_equal(rows(record), oracle.pull(IDS))


def second_after(moment_s: float) -> int:
    """The next whole second, when it has begun: logs tell the time of a record in seconds."""
    until(lambda: time.time() >= int(moment_s) + 1)
    return int(moment_s) + 1


def test_a_coordinator_that_starts_anew_puts_a_standby_in_the_place_of_a_server_that_ended_meanwhile(
    directory, tmp_path
) -> None:
    oracle = OracleTable(SPEC)
    record = up(config_of(tmp_path, shards=1), directory).record
    (shard,) = in_step(record)
    with training(record.address, oracle, 1):
        pass
    stop(record.pid)  # so that it sees nothing
    os.kill(shard.pid, signal.SIGKILL)
    until(lambda: started(shard.pid) == 0)
    os.kill(record.pid, signal.SIGKILL)
    record = up(config_of(tmp_path, shards=1), directory).record
    np.testing.assert_array_equal(rows(record), oracle.pull(IDS))
    (now,) = in_step(record)
    assert now.shard.incarnation == shard.standby.incarnation


# ------------------------------------------------------------------------------------------ with a coordinator of ours


@contextlib.contextmanager
def running(folder: Path, **more) -> Iterator[CoordinatorServer]:
    config = config_of(folder, shards=1, **more)
    server = CoordinatorServer(config, ProcessLauncher(config, folder / "out"))
    server.start()
    try:
        until(lambda: of(server).standby_in_step(0))
        yield server
        until(lambda: of(server).standby_in_step(0))  # nothing is being started any more
    finally:
        server.stop()


def of(server: CoordinatorServer):
    return server.coordinator.state


def pids(server: CoordinatorServer) -> tuple[int, int]:
    """Of the shard's server, and of its standby."""
    state = of(server)
    return server.launcher.pid(state.keys[0]), server.launcher.pid(state.standbys[0].key)


@pytest.mark.slow
def test_a_server_that_stood_still_is_ended_before_its_standby_writes_its_log(tmp_path) -> None:
    oracle = OracleTable(SPEC)
    with running(tmp_path) as server, training(server.address, oracle, 1) as trainer:
        trainer.goes_on()
        (old, _), key = pids(server), of(server).keys[0]
        stop(old)
        until(lambda: of(server).keys[0] != key)
        trainer.goes_on()
        assert server.launcher.look(key).state == "ended"
        until(lambda: of(server).standby_in_step(0))
        for pid in pids(server):
            os.kill(pid, signal.SIGKILL)
        trainer.goes_on()


def test_without_waiting_for_the_standby_what_it_lacks_is_in_the_log(tmp_path) -> None:
    oracle = OracleTable(SPEC)
    with running(tmp_path, standby={"mode": "async", "after": 30.0}) as server:
        first, second = pids(server)
        stop(second)
        with training(server.address, oracle, 1) as trainer:
            trainer.goes_on()
        os.kill(first, signal.SIGKILL)
        os.kill(second, signal.SIGCONT)
        with connect(server.address, timeout_s=100.0) as client:
            np.testing.assert_array_equal(client.table("t").pull(IDS), oracle.pull(IDS))
        assert pids_of_shard(server) == second


def pids_of_shard(server: CoordinatorServer) -> int:
    return server.launcher.pid(of(server).keys[0])


@pytest.mark.parametrize(
    "damage", ["damaged", *(pytest.param(one, marks=pytest.mark.slow) for one in ("removed", "emptied"))]
)
def test_a_standby_goes_on_without_a_log_that_cannot_be_read_until_a_snapshot_has_its_rows(
    damage, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(watcher, "WATCH_S", 0.2)
    oracle = OracleTable(SPEC)
    with running(tmp_path) as server:
        with training(server.address, oracle, 1) as trainer:
            trainer.goes_on()
        first, second = pids(server)
        stop(first)
        (folder,) = (tmp_path / "kept" / "logs").glob("*/epoch-1/shard-0")
        if damage == "removed":
            shutil.rmtree(folder)
        for file in folder.glob("wal-*" if damage == "damaged" else "*"):
            if damage == "emptied":
                file.unlink()
            else:
                with file.open("r+b") as opened:
                    opened.seek(5000)
                    opened.write(b"\xff" * 100)
        os.kill(first, signal.SIGKILL)
        with training(server.address, oracle, 2) as trainer:
            until(lambda: of(server).keys[0] and pids_of_shard(server) == second)
            trainer.goes_on()  # a snapshot has been taken: the log takes pushes again
            until(lambda: of(server).standby_in_step(0))
        assert any(snapshot.automatic for snapshot in of(server).snapshots)
        for pid in pids(server):
            os.kill(pid, signal.SIGKILL)
        with training(server.address, oracle, 3) as trainer:
            trainer.goes_on()
