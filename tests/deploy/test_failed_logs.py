"""Shards whose logs fail: pulls go on, nothing that was not kept is acknowledged, and pushes go on by themselves."""

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from logging_launcher import LoggingLauncher
from waiting import until

from rowloom.client import (
    SGD,
    Client,
    InvalidRequest,
    PushUnresolved,
    TableNotFound,
    TableSpec,
    Unavailable,
    Zeros,
    connect,
)
from rowloom.deploy import watcher
from rowloom.deploy.config.config import parse
from rowloom.deploy.control import coordinator
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.health.ways_out import ways_out
from rowloom.deploy.launch.launcher import Launched
from rowloom.deploy.launch.local_launcher import ThreadLauncher
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.operate.status import summary
from rowloom.deploy.snapshots import snapshots
from rowloom.deploy.snapshots.kept import has_kept
from rowloom.server.durable.disk import Disk
from rowloom.server.durable.log import Mode
from rowloom.server.durable.shard_log import ShardLogs
from rowloom.server.serve import Server
from rowloom.server.snapshots.target import LocalTarget

SPEC = TableSpec("t", 2000, dim=8, optimizer=SGD(lr=1.0), initializer=Zeros())
IDS = np.arange(200)
ONES = np.full((200, 8), -1.0, np.float32)


class FailingDisk(Disk):
    """A real disk of which a part fails, as long as `failing` says what.

    Attributes:
        failing: "full", "write" or "sync"; empty: nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failing = ""

    def _fails(self, how: str, number: int, handle: int) -> None:
        if self.failing == how:
            raise OSError(number, os.strerror(number), self._paths[handle])

    def open(self, path: str, *, create: bool = False, write: bool = True) -> int:
        """As `Disk.open`."""
        if create and self.failing == "full" and path.endswith(".new"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return super().open(path, create=create, write=write)

    def pwritev(self, handle: int, buffers, place: int) -> int:
        """As `Disk.pwritev`."""
        self._fails("write", errno.EIO, handle)
        return super().pwritev(handle, buffers, place)

    def fdatasync(self, handle: int) -> None:
        """As `Disk.fdatasync`."""
        self._fails("sync", errno.EIO, handle)
        super().fdatasync(handle)


class FailingLauncher(ThreadLauncher):
    """Servers in threads, whose logs are on disks that may fail; a new one waits for the old one's lock.

    Attributes:
        mode: of their logs.
        disks: of the servers, by key.
        stays: servers that are started from now on have the disk of the first shard.
    """

    def __init__(self, folder: str, mode: Mode) -> None:
        super().__init__()
        self.mode = mode
        self._folder = folder
        self.disks: dict[int, FailingDisk] = {}
        self.stays = False

    def start(self, key: int) -> Launched:
        """As `Launcher`."""
        self.disks[key] = self.disks[0] if self.stays else FailingDisk()
        logs = ShardLogs(f"{self._folder}/logs", self.mode, segment_bytes=1 << 16, disk=self.disks[key])
        server = Server(logs=logs, snapshots=f"{self._folder}/snapshots")
        server.start()
        self._running[key] = server
        return Launched(server.address, server.incarnation)

    def fail(self, how: str) -> None:
        """The disk of the first shard fails, or does no more."""
        self.disks[0].failing = how


@pytest.fixture(params=[Mode.DISK, pytest.param(Mode.PROCESS, marks=pytest.mark.slow)])
def cluster(request, tmp_path, monkeypatch) -> Iterator[CoordinatorServer]:
    monkeypatch.setattr(watcher, "WATCH_S", 0.05)  # what has ended is seen soon
    durability = {"storage": str(tmp_path), "durability": request.param.value}
    config = parse({"name": "s", "shards": 2, "tables": [SPEC], **durability})
    server = CoordinatorServer(config, FailingLauncher(str(tmp_path), request.param))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def client(cluster) -> Iterator[Client]:
    with connect(cluster.address, timeout_s=120.0) as client:
        client.table("t").push(IDS, 0 * ONES)  # what has to be compiled is
        yield client


@contextlib.contextmanager
def impatient(client: Client) -> Iterator[None]:
    """What waits for a log that has failed need not wait for long."""
    before, client.timeout_s = client.timeout_s, 2.0
    try:
        yield
    finally:
        client.timeout_s = before


def launcher_of(cluster: CoordinatorServer) -> FailingLauncher:
    assert isinstance(cluster.launcher, FailingLauncher)
    return cluster.launcher


def push_until_it_fails(client: Client) -> int:
    """Returns how many pushes were acknowledged."""
    with impatient(client):
        for done in range(200):
            try:
                client.table("t").push(IDS, ONES)
            except PushUnresolved:
                return done
    raise AssertionError("the log did not fail")


def takes_pushes(client: Client) -> bool:
    """Whether the shard whose log fails does."""
    with impatient(client):
        while True:
            try:
                client.table("t").push(IDS[::2], ONES[::2])
            except PushUnresolved:
                continue  # on a busy machine its answer had not come yet: it is asked once more
            except Unavailable:
                return False
            return True


def refused(change: Callable[[], object]) -> str:
    """What a client hears of a change; on a busy machine perhaps only that it is in progress."""
    with pytest.raises(Unavailable) as told:
        change()
    return str(told.value)


def healths(cluster: CoordinatorServer) -> list[str]:
    with Remote(cluster.address) as remote:
        return [shard["health"] for shard in summary(remote.status())["shards"]]


def end_abruptly(cluster: CoordinatorServer, shard: int) -> None:
    """As a process that is killed: the coordinator is told nothing."""
    key = cluster.coordinator.state.keys[shard]
    launcher_of(cluster).stop(key, 0.0)


@pytest.mark.parametrize("how", ["full", "write", "sync"])
def test_pushes_go_on_by_themselves_when_the_disk_takes_writes_again(cluster, client, how) -> None:
    # Somebody had to see it, and end the shard's process: that took back rows that trainers had read.
    if how == "sync" and launcher_of(cluster).mode is Mode.PROCESS:
        how = "full"
    table = client.table("t")
    table.push(IDS, ONES)
    launcher_of(cluster).fail(how)
    acked = 1 + push_until_it_fails(client)
    assert not takes_pushes(client)
    assert healths(cluster)[0] == "pulls only"
    shown = table.pull(IDS)
    assert acked <= shown.min()
    assert shown.max() <= acked + 1
    incarnation = cluster.coordinator.layout.shards[0].incarnation
    launcher_of(cluster).fail("")
    until(lambda: healths(cluster) == ["serving", "serving"])
    assert np.array_equal(table.pull(IDS), shown)  # nothing that was read is taken back
    assert cluster.coordinator.layout.shards[0].incarnation == incarnation
    for _ in range(3):
        table.push(IDS, ONES)
    for shard in (0, 1):
        end_abruptly(cluster, shard)
    with connect(cluster.address, timeout_s=120.0) as patient:
        assert np.array_equal(patient.table("t").pull(IDS), shown + 3)
        patient.table("t").push(IDS, ONES)


def test_what_was_changed_of_tables_while_a_log_had_failed_is_kept(cluster, client, monkeypatch) -> None:
    # Each kept a snapshot from being taken, by which alone the log could go on, and waited for the log itself.
    client.create_table(TableSpec("old", 100, dim=2))
    monkeypatch.setattr(coordinator, "CHANGE_LIMIT_S", 0.2)
    launcher_of(cluster).fail("write")
    push_until_it_fails(client)
    with connect(cluster.address) as trainer:
        trainer.timeout_s = 4.0  # as long as each of these waits for the log
        new = TableSpec("new", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros())
        until(lambda: "is recorded" in refused(lambda: trainer.create_table(new)))
        until(lambda: "is recorded" in refused(lambda: trainer.table("t").set_lr(0.5)))

        def dropped() -> bool:
            with contextlib.suppress(Unavailable, TableNotFound):  # asked a second time, it is gone
                trainer.drop_table("old")
            return bool(cluster.coordinator.state.dropping)

        until(dropped)
    launcher_of(cluster).fail("")
    until(lambda: healths(cluster) == ["serving", "serving"])
    until(lambda: not cluster.coordinator.unfinished)
    before = client.table("t").pull(IDS)
    with connect(cluster.address, timeout_s=120.0) as patient:
        for _ in range(2):
            patient.table("new").push([1, 2], np.full((2, 2), -1.0, np.float32))
            patient.table("t").push(IDS, ONES)
            for shard in (0, 1):
                end_abruptly(cluster, shard)
        assert (patient.table("new").pull([1, 2]) == 2.0).all()
        assert np.array_equal(patient.table("t").pull(IDS), before + 1.0)
        assert [table.name for table in patient.tables()] == ["new", "t"]


def test_a_snapshot_that_cannot_be_written_either_is_tried_again_and_leaves_nothing(
    cluster, client, tmp_path, monkeypatch
) -> None:
    # Each attempt left what it had written on a disk that was full already.
    snapshots = tmp_path / "snapshots"
    put, tried = LocalTarget.put, []

    def fails(target, name, buffers) -> None:
        put(target, name, buffers)
        tried.append(name)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    with monkeypatch.context() as patch:
        patch.setattr(LocalTarget, "put", fails)
        launcher_of(cluster).fail("write")
        push_until_it_fails(client)
        launcher_of(cluster).fail("")
        until(lambda: len(tried) > 2)
        assert healths(cluster)[0] == "pulls only"
        with Remote(cluster.address) as remote:  # how old the reason is was not said
            (one,) = [said for said in remote.status().unfinished if "none can be taken" in said]
        assert re.search(r"No space left on device.* \(tried \d s ago, and again in \d s\)$", one), one
    until(lambda: healths(cluster) == ["serving", "serving"])
    kept = {one.id for one in cluster.coordinator.state.snapshots}
    until(lambda: {path.name for path in snapshots.iterdir()} == kept)


def test_a_log_that_a_snapshot_cannot_help_yet_kept_saying_only_why_it_had_failed_at_first(
    cluster, client
) -> None:
    # There was room for the snapshot, and then none for the log's next file.
    def said() -> str:
        with Remote(cluster.address) as remote:
            return summary(remote.status())["shards"][0]["log_error"] or ""

    launcher_of(cluster).fail("full")
    push_until_it_fails(client)
    until(lambda: "it cannot go on yet: " in said() and said().endswith("No space left on device"))
    launcher_of(cluster).fail("")
    until(lambda: healths(cluster) == ["serving", "serving"])
    assert said() == ""


def said_of(cluster: CoordinatorServer) -> str:
    """Why the log of the first shard takes no more."""
    with Remote(cluster.address) as remote:
        return summary(remote.status())["shards"][0]["log_error"] or ""


def test_a_shard_that_had_read_its_whole_log_did_not_serve_without_room_and_its_log_was_thrown_away(
    cluster, client, tmp_path
) -> None:
    # It was "starting", again and again, and `recover --accept-loss` made it anew, with no rows.
    table = client.table("t")
    launcher_of(cluster).fail("full")
    push_until_it_fails(client)
    until(lambda: "it cannot go on yet: " in said_of(cluster))  # a snapshot has more than the log
    shown = table.pull(IDS)
    launcher_of(cluster).stays = True
    before = cluster.coordinator.layout.shards[0].incarnation
    end_abruptly(cluster, 0)
    until(lambda: cluster.coordinator.layout.shards[0].incarnation != before)
    until(lambda: healths(cluster) == ["pulls only", "serving"])
    assert re.search(r"spare-\d+\.new: No space left on device", said_of(cluster)), said_of(cluster)
    with connect(cluster.address, timeout_s=120.0) as patient:
        assert np.array_equal(patient.table("t").pull(IDS), shown)
        assert not takes_pushes(patient)
    with Remote(cluster.address) as remote:
        with pytest.raises(InvalidRequest, match="it serves pulls only, because its log failed"):
            remote.accept_loss(0)
        assert "make room on its disk" in ways_out(summary(remote.status()))
    assert not list(tmp_path.rglob("*.lost-*"))
    launcher_of(cluster).fail("")
    until(lambda: healths(cluster) == ["serving", "serving"])
    with connect(cluster.address, timeout_s=120.0) as patient:
        patient.table("t").push(IDS, ONES)
        for shard in (0, 1):
            end_abruptly(cluster, shard)
        assert np.array_equal(patient.table("t").pull(IDS), shown + 1)


def test_logs_that_had_filled_a_disk_stayed_as_long_as_they_were_when_snapshots_had_all_of_them(
    cluster, client, monkeypatch
) -> None:
    monkeypatch.setattr(snapshots, "SEGMENT_BYTES", 1 << 16)
    for _ in range(40):
        client.table("t").push(IDS, ONES)

    def bytes_of_logs() -> list[int]:
        with Remote(cluster.address) as remote:
            return [shard["log_bytes"] for shard in summary(remote.status())["shards"]]

    assert min(bytes_of_logs()) > 2 << 16
    launcher_of(cluster).fail("full")
    push_until_it_fails(client)
    launcher_of(cluster).fail("")
    until(lambda: healths(cluster) == ["serving", "serving"])
    client.table("t").push(IDS, ONES)
    until(lambda: max(bytes_of_logs()) <= 2 << 16)


def test_where_a_disk_has_little_room_a_second_snapshot_found_none_as_pushes_had_filled_it(
    cluster, client, monkeypatch
) -> None:
    # Pushes went on behind the first one, and logs are cut when there is a second one.
    little: list[int] = []  # of how many shards it was asked
    room_for = [0]  # snapshots
    put = LocalTarget.put

    def put_or_not(target, name, buffers) -> None:
        if len(cluster.coordinator.state.snapshots) >= room_for[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        put(target, name, buffers)

    monkeypatch.setattr(LocalTarget, "put", put_or_not)
    launcher_of(cluster).fail("full")
    push_until_it_fails(client)
    monkeypatch.setattr(snapshots, "little_room", lambda storage, size, shards: little.append(shards) or True)
    launcher_of(cluster).fail("")
    room_for[0] = 1
    with Remote(cluster.address) as remote:

        def waits() -> list[str]:
            return [one for one in remote.status().unfinished if "a second snapshot beside" in one]

        until(lambda: any("none can be taken" in one for one in waits()))
        (first,) = [one.id for one in cluster.coordinator.state.snapshots]
        assert f"goes on when a second snapshot beside {first} has all rows" in waits()[0]
        assert healths(cluster) == ["pulls only", "serving"]
        room_for[0] = 9
        until(lambda: healths(cluster) == ["serving", "serving"])
        until(lambda: waits() == [])
    one, two = cluster.coordinator.state.snapshots[:2]
    assert one.id == first
    assert one.lsns[0] == two.lsns[0]  # both have all of the log that failed
    assert set(little) == {2}
    shown = client.table("t").pull(IDS)
    client.table("t").push(IDS, ONES)
    for shard in (0, 1):
        end_abruptly(cluster, shard)
    with connect(cluster.address, timeout_s=120.0) as patient:
        assert np.array_equal(patient.table("t").pull(IDS), shown + 1)


@pytest.mark.slow
def test_a_shard_that_was_made_anew_does_not_go_back_to_a_snapshot_of_before(
    cluster, client, tmp_path
) -> None:
    # Its new log has the numbers of the old one again: with that snapshot it gave rows that were never so.
    table = client.table("t")
    for _ in range(5):
        table.push(IDS, ONES)
    with Remote(cluster.address) as remote:
        for _ in range(2):
            remote.take_snapshot()
        (log,) = (tmp_path / "logs").glob("*/*/shard-1")
        log.rename(tmp_path / "taken away")
        end_abruptly(cluster, 1)
        until(lambda: healths(cluster) == ["serving", "lost"])
        remote.accept_loss(1)
    with connect(cluster.address, timeout_s=120.0) as patient:
        for done in (1, 2, 3):
            patient.table("t").push(IDS, ONES)
            end_abruptly(cluster, 0)
            end_abruptly(cluster, 1)
            rows = patient.table("t").pull(IDS)
            assert (rows[1::2] == done).all()
            assert (rows[::2] == 5 + done).all()
            if done > 1:
                with Remote(cluster.address) as remote:
                    remote.take_snapshot()


def test_a_lost_shard_kept_the_log_of_another_one_from_going_on_and_status_promised_that_it_would(
    cluster, client, tmp_path, monkeypatch
) -> None:
    # One attempt, until there is a reason for another.
    monkeypatch.setattr(snapshots, "MEND_AGAIN_S", (1000.0, 1000.0))
    client.table("t").push(IDS, ONES)
    (log,) = (tmp_path / "logs").glob("*/*/shard-1")
    log.rename(tmp_path / "taken away")
    end_abruptly(cluster, 1)
    until(lambda: healths(cluster) == ["serving", "lost"])
    freeze, frozen = coordinator.Coordinator.freeze, []
    monkeypatch.setattr(
        coordinator.Coordinator, "freeze", lambda *a, **more: frozen.append(a) or freeze(*a, **more)
    )
    launcher_of(cluster).fail("write")
    with pytest.raises(PushUnresolved), impatient(client):
        client.table("t").push(IDS[::2], ONES[::2])
    launcher_of(cluster).fail("")
    with Remote(cluster.address) as remote:
        until(lambda: any("none can be taken: " in one for one in remote.status().unfinished))
        assert not frozen  # which pushes to all shards waited for, again and again
        state = summary(remote.status())
        assert [shard["health"] for shard in state["shards"]] == ["pulls only", "lost"]
        assert "not while shard 1 is lost, because every shard has its part in a snapshot" in ways_out(state)
        assert "`rowloom recover --accept-loss 1` makes it anew" in ways_out(state)
        shown = client.table("t").pull(IDS[::2])
        remote.accept_loss(1)
        until(lambda: healths(cluster) == ["serving", "serving"])
        until(lambda: not remote.status().unfinished)
    with connect(cluster.address, timeout_s=120.0) as patient:
        patient.table("t").push(IDS, ONES)
        rows = patient.table("t").pull(IDS)
        np.testing.assert_array_equal(rows[::2], shown + 1)
        assert (rows[1::2] == 1.0).all()
        end_abruptly(cluster, 0)
        np.testing.assert_array_equal(patient.table("t").pull(IDS), rows)


def test_a_start_that_failed_was_said_to_have_left_rows_and_to_be_repeated(tmp_path, monkeypatch) -> None:
    # Its disk was full. `plan` said afterwards that its rows were kept, and `up` went on without a table.
    def refused(self, entry, limit_s):
        yield from ()
        raise Unavailable("No space left on device")

    monkeypatch.setattr(coordinator.Coordinator, "_make_on_shards", refused)
    config = parse({"name": "ads", "tables": [SPEC], "storage": str(tmp_path), "durability": "process"})
    with pytest.raises(Unavailable) as caught:
        CoordinatorServer(config, LoggingLauncher(str(tmp_path))).start()
    assert str(caught.value) == "No space left on device"
    assert not has_kept(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
