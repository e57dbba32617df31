"""The coordinator's port over real shards in threads: scaling, status, and how it ends when things fail."""

import contextlib
import errno
import os
import random
import threading
import time

import numpy as np
import pytest
from free_ports import free_port
from waiting import PATIENCE_S

from rowloom.client import SGD, TableSpec, Zeros, connect
from rowloom.deploy import scaling
from rowloom.deploy.config.config import parse
from rowloom.deploy.control.coordinator import Coordinator
from rowloom.deploy.control.reshard import Reshard
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch.local_launcher import ThreadLauncher
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.storage import StateFile
from rowloom.proto import atomic_file, methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import InvalidRequest, RetryLater, StateLost, Unavailable

SPEC = TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros())
IDS = np.arange(100)


@pytest.fixture
def server(tmp_path):
    config = parse(
        {"name": "ads", "shards": 2, "tables": [SPEC], "storage": str(tmp_path), "durability": "memory"}
    )
    server = CoordinatorServer(config, ThreadLauncher())
    server.start()
    yield server
    server.stop()


@pytest.fixture
def remote(server):
    with Remote(server.address) as remote:
        yield remote


def test_calls_of_a_client_of_another_cluster_change_nothing(server, remote) -> None:
    # One that was connected to the cluster before at this address set rates, dropped tables and ended the next one.
    requests = {
        methods.CREATE_TABLE: pb.DefineTableRequest(spec=TableSpec("u", 10, dim=1).to_message()),
        methods.DROP_TABLE: pb.RemoveTableRequest(name="t"),
        methods.SET_LEARNING_RATE: pb.AdjustTableRequest(name="t", lr=7.0),
        methods.SCALE: pb.ScaleRequest(shards=1),
        methods.SCALE_PROGRESS: pb.ScaleProgressRequest(scaling=1),
        methods.CANCEL_SCALE: pb.CancelScaleRequest(),
        methods.DRAIN: pb.DrainRequest(node="10.0.0.1"),
        methods.UPGRADE: pb.UpgradeRequest(environment="0" * 64),
        methods.SET_AUTOSCALE: pb.SetAutoscaleRequest(policy="null"),
        methods.SET_QUOTAS: pb.SetQuotasRequest(quotas="{}"),
        methods.SET_REPLICAS: pb.SetReplicasRequest(replicas='{"replicas": 1}'),
        methods.ACCEPT_LOSS: pb.AcceptLossRequest(shard=0),
        methods.TAKE_SNAPSHOT: pb.TakeSnapshotRequest(),
        methods.DESCRIBE_RESTORED: pb.DescribeRestoredRequest(),
        methods.SHUT_DOWN: pb.ShutdownRequest(),
    }
    named = {type(r).DESCRIPTOR.name for r in requests.values()}
    for message in pb.DESCRIPTOR.message_types_by_name.values():
        if message.name.endswith("Request") and "cluster_id" in message.fields_by_name:
            assert message.name in named | {"FreezeRequest", "BrakeRequest", "SetStandbyRequest"}, (
                f"{message.name} is not tried here"
            )  # a shard's
    before = server.coordinator.state
    for method, request in requests.items():
        request.cluster_id = "ads-before"
        with pytest.raises(Unavailable, match=r"another cluster answers.*not 'ads-before'"):
            remote.call(method, request.SerializeToString())
    assert server.coordinator.state is before
    assert not server.wait(0.1)


def test_a_client_that_outlives_its_cluster_leaves_the_next_one_at_that_address_alone(tmp_path) -> None:
    port = free_port(random.Random(os.getpid()))

    def up(name: str) -> CoordinatorServer:
        config = parse({"name": name, "shards": 1, "tables": [SPEC]})
        server = CoordinatorServer(config, ThreadLauncher(), port=port)
        server.start()
        return server

    first = up("first")
    with connect(first.address, timeout_s=60.0) as client, Remote(first.address) as remote:
        assert remote.cluster.startswith("first-")
        first.stop()
        second = up("second")
        try:
            for change in (
                lambda: client.set_lr("t", 7.0),
                lambda: client.create_table(TableSpec("u", 10, dim=1)),
                lambda: client.drop_table("t"),
                lambda: remote.scale(2),
                remote.shutdown,
            ):
                with pytest.raises(Unavailable, match="another cluster answers"):
                    change()
            with connect(second.address, timeout_s=60.0) as other:
                assert [table.name for table in other.tables()] == ["t"]
                assert other.table("t").entry.lr is None
        finally:
            second.stop()


def test_a_table_is_there_after_a_drop_that_could_not_be_stored(
    server, remote, tmp_path, monkeypatch
) -> None:
    # The client was told that it was dropped.
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with connect(server.address, timeout_s=5.0) as client:
        with monkeypatch.context() as patch:
            patch.setattr("rowloom.deploy.storage.write_atomic", full)
            patch.setattr("rowloom.deploy.storage._Reserve.write", full)
            with pytest.raises(Unavailable, match="No space left on device"):
                client.drop_table("t")
        assert [table.name for table in client.tables()] == ["t"]
    assert_pushes_go_on(server)
    assert_storage_agrees(server, tmp_path)
    assert list(StateFile(str(tmp_path)).load().tables) == ["t"]
    assert list(remote.status().unfinished) == []


def scale(remote, shards) -> pb.ScaleReply:
    request = pb.ScaleRequest(shards=shards)
    return pb.ScaleReply.FromString(remote.call(methods.SCALE, request.SerializeToString()))


def progress(remote, number) -> pb.ScaleReply:
    request = pb.ScaleProgressRequest(scaling=number)
    return pb.ScaleReply.FromString(remote.call(methods.SCALE_PROGRESS, request.SerializeToString()))


def assert_pushes_go_on(server) -> None:
    with connect(server.address, timeout_s=60.0) as client:
        table = client.table("t")
        before = table.pull(IDS)
        table.push(IDS, np.ones((100, 2), np.float32))
        np.testing.assert_array_equal(table.pull(IDS), before - 1)


def assert_storage_agrees(server, tmp_path) -> None:
    stored = StateFile(str(tmp_path)).load()
    assert stored is not None
    assert stored.layout == server.coordinator.layout


class Held:
    """A door in front of the move: a scaling waits there."""

    def __init__(self, patch):
        self.arrived, self.open = threading.Event(), threading.Event()
        original = Reshard.run

        def run(reshard):
            self.arrived.set()
            assert self.open.wait(PATIENCE_S)
            return (yield from original(reshard))

        patch.setattr(Reshard, "run", run)


def test_a_scaling_that_is_cancelled_leaves_everything_as_it_was(server, remote, monkeypatch, tmp_path):
    door = Held(monkeypatch)
    before = server.coordinator.layout
    started = scale(remote, 3)
    assert door.arrived.wait(30)
    assert remote.status().scaling.shards == 3
    cancelled = pb.ScaleReply.FromString(
        remote.call(methods.CANCEL_SCALE, pb.CancelScaleRequest().SerializeToString())
    )
    assert cancelled.scaling == started.scaling
    door.open.set()
    with contextlib.suppress(InvalidRequest):  # it may have ended just now
        remote.cancel_scaling()
    ended = progress(remote, started.scaling)
    while ended.state not in ("done", "failed"):
        ended = progress(remote, started.scaling)
    assert (ended.state, ended.error) == ("failed", "it was cancelled; nothing was changed")
    assert server.coordinator.layout == before
    assert_pushes_go_on(server)
    assert_storage_agrees(server, tmp_path)
    with pytest.raises(InvalidRequest, match="none to cancel"):
        remote.cancel_scaling()


def test_scaling_is_started_by_one_call_and_followed_by_another(server, remote, monkeypatch):
    door = Held(monkeypatch)
    started = scale(remote, 3)
    assert door.arrived.wait(PATIENCE_S)
    assert (started.state, started.scaling > 0) == ("starting", True)
    assert scale(remote, 3).scaling == started.scaling
    with pytest.raises(RetryLater, match="scaling to 3 shards is in progress"):
        scale(remote, 4)
    assert progress(remote, started.scaling).state == "starting"
    door.open.set()
    assert remote.scale(3).state == "done"
    assert progress(remote, started.scaling).state == "done"
    assert_pushes_go_on(server)


def test_a_late_caller_hears_the_end_of_its_own_scaling_and_not_of_the_next(server, remote, monkeypatch):
    first = scale(remote, 3)
    remote.scale(3)
    with monkeypatch.context() as patch:
        patch.setattr(Reshard, "run", failing(Unavailable("no room")))
        with pytest.raises(Unavailable, match="no room"):
            remote.scale(1)
    assert progress(remote, first.scaling).state == "done"
    unknown = progress(remote, 12345)
    assert (unknown.state, unknown.scaling) == ("unknown", 12345)


def failing(error):
    def program(*arguments, **options):
        raise error
        yield

    return program


def silent(error):
    """`Coordinator.adopt` where no shard adopts anything."""

    def adopt(coordinator, limit_s, *, looks=False):
        del limit_s, looks
        coordinator.doubt()
        return [error] * coordinator.layout.n
        yield

    return adopt


def stuck(error, *, shards):
    """`Coordinator.converge` that gets nowhere in a layout of so many shards."""
    original = Coordinator.converge

    def converge(coordinator, limit_s=10.0):
        if coordinator.layout.n == shards:
            raise error
        return (yield from original(coordinator, limit_s))

    return converge


def test_old_scalings_are_forgotten_in_the_end(server, remote, monkeypatch):
    monkeypatch.setattr(scaling, "REMEMBERED", 1)
    first = scale(remote, 3).scaling
    remote.scale(3)
    remote.scale(2)
    assert progress(remote, first).state == "unknown"


def test_a_scaling_was_said_to_begin_with_the_shards_that_there_were_when_it_was_asked_for(server, remote):
    done = remote.scale(3)
    assert (done.state, done.shards_before, done.shards) == ("done", 2, 3)
    assert remote.scale(3).shards_before == 3


def test_a_caller_whose_coordinator_forgot_its_scaling_starts_it_again(server, remote, monkeypatch):
    monkeypatch.setattr(scaling, "REMEMBERED", 0)
    assert remote.scale(3).state == "done"
    assert server.coordinator.layout.n == 3


def test_a_scaling_that_failed_after_its_commit_is_not_done_but_finished_by_the_next(
    server, remote, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(Coordinator, "adopt", silent(Unavailable("shard 1 did not answer")))
        patch.setattr(Coordinator, "converge", stuck(Unavailable("shard 1 did not answer"), shards=1))
        for _ in range(2):  # the second is no more "done" than the first
            with pytest.raises(Unavailable, match="shard 1 did not answer"):
                remote.scale(1)
    assert server.coordinator.layout.n == 1
    assert len(server.launcher._running) == 2  # the one that is no shard any more waits for its end
    assert remote.scale(1).state == "done"
    wait_for_thread("rowloom-scale")
    assert len(server.launcher._running) == 1
    assert_pushes_go_on(server)
    assert scale(remote, 1).scaling == 0


def test_the_next_scaling_finishes_the_one_that_failed_after_its_commit_and_then_goes_on(
    server, remote, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(Coordinator, "adopt", silent(StateLost("shard 0 lost its rows")))
        with pytest.raises(Unavailable, match="after the commit: shard 0 lost its rows"):
            remote.scale(3)
    assert remote.scale(1).state == "done"
    wait_for_thread("rowloom-scale")  # servers that are no shard any more end a moment later
    assert len(server.launcher._running) == 1
    assert_pushes_go_on(server)


def test_a_folder_that_does_not_sync_leaves_memory_and_storage_in_the_same_epoch(
    server, remote, tmp_path, monkeypatch
):
    def broken(folder):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(atomic_file, "_sync_folder", broken)
    assert remote.scale(3).state == "done"
    assert_storage_agrees(server, tmp_path)
    assert_pushes_go_on(server)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_storage_error_of_any_kind_fails_the_scaling_and_freezes_nobody(
    server, remote, tmp_path, monkeypatch, shards
):
    class StoreError(Exception):
        pass

    def broken(self, text):
        raise StoreError("no such bucket")

    with monkeypatch.context() as patch:
        patch.setattr(StateFile, "_write", broken)
        with pytest.raises(Unavailable, match="no such bucket"):
            remote.scale(shards)
    assert server.coordinator.layout.n == 2
    assert_storage_agrees(server, tmp_path)
    assert_pushes_go_on(server)
    assert remote.scale(shards).state == "done"


def test_a_shard_that_does_not_answer_is_never_called_serving(server, remote):
    assert [s.health for s in remote.status().shards] == ["serving", "serving"]
    server.launcher._running[1].stop(0.0)
    shards = remote.status().shards  # at once, not after the next look
    assert [(s.health, s.HasField("statistics")) for s in shards] == [
        ("serving", True),
        ("unreachable", False),
    ]


def test_clients_hear_of_a_shard_whose_process_has_ended_for_good_until_it_is_made_anew(server, remote):
    # Only a server that came back empty ever said StateLost, and one whose process is gone says nothing.
    with connect(server.address) as client:
        table = client.table("t")
        server.launcher.stop(1, 0.0)
        server._parts.watcher.look()
        with pytest.raises(StateLost, match=r"shard 1 at .* is dead: its process has ended"):
            table.pull(IDS)
        with pytest.raises(StateLost, match=r"shard 1 at .* is dead"):
            client.statistics()
        table.pull(IDS[::2])  # shard 0 has its rows
        remote.accept_loss(1)
        assert (table.pull(IDS) == 0).all()


def test_status_says_since_when_a_shard_is_being_started_anew(server, remote):
    server._parts.watcher._away = {1: time.monotonic() - 3.0}
    assert list(remote.status().unfinished) == [
        "shard 1 is being started anew, since 3 s: its process had ended, and it reads its rows from its log"
    ]
    server._parts.watcher.look()  # it serves
    assert list(remote.status().unfinished) == []


def test_a_shard_that_came_back_empty_is_lost(server, remote):
    server.launcher.stop(0, 0.0)
    launched = server.launcher.start(0)
    server._parts.watcher.look()
    assert server.coordinator.layout.shards[0].address == launched.address
    assert [s.health for s in remote.status().shards] == ["lost", "serving"]


def test_a_shard_that_moved_is_told_to_clients_only_when_storage_knows(server, tmp_path, monkeypatch):
    server.launcher.stop(0, 0.0)
    launched = server.launcher.start(0)

    def broken(self, text):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(StateFile, "_write", broken)
        server._parts.watcher.look()
        assert server.coordinator.layout.shards[0].address != launched.address
        assert_storage_agrees(server, tmp_path)
    server._parts.watcher.look()
    assert server.coordinator.layout.shards[0].address == launched.address
    assert_storage_agrees(server, tmp_path)


def test_a_coordinator_that_starts_anew_takes_up_the_cluster(server, tmp_path):
    again = CoordinatorServer(server.config, server.launcher)
    again.take_up()
    try:
        assert again.coordinator.layout.epoch == server.coordinator.layout.epoch
        assert_pushes_go_on(again)
        assert scale_through(again, 3).state == "done"
    finally:
        again._parts.watcher.stop()
        again._grpc.stop(0.0)
        again._performer.close()


def scale_through(server, shards):
    with Remote(server.address) as remote:
        return remote.scale(shards)


def test_status_asks_for_all_shards_at_once(server, remote, monkeypatch):
    together = threading.Barrier(2)
    original = server.launcher.find

    def find(key):
        together.wait(60)  # breaks if the second is only asked when the first has answered
        return original(key)

    monkeypatch.setattr(server.launcher, "find", find)
    assert all(s.node for s in remote.status().shards)


def test_a_stop_that_fails_tells_the_first_and_keeps_nobody_waiting(tmp_path, monkeypatch):
    config = parse({"name": "ads", "storage": str(tmp_path), "durability": "memory"})
    launcher = ThreadLauncher()
    server = CoordinatorServer(config, launcher)
    server.start()

    def broken():
        raise RuntimeError("the launcher is broken")

    with monkeypatch.context() as patch:
        patch.setattr(launcher, "close", broken)
        with pytest.raises(RuntimeError, match="the launcher is broken"):
            server.stop()
    server.stop()
    assert server.wait(0.0)
    assert StateFile(str(tmp_path)).load() is None  # the rest has ended all the same
    launcher.close()


def test_the_cluster_can_be_ended_while_it_scales(tmp_path, monkeypatch):
    door = Held(monkeypatch)
    launcher = ThreadLauncher()
    server = CoordinatorServer(parse({"name": "ads", "shards": 2}), launcher)
    server.start()
    with Remote(server.address) as remote:
        scale(remote, 3)
        assert door.arrived.wait(PATIENCE_S)
        server.stop()
        door.open.set()
    wait_for_thread("rowloom-scale")
    assert launcher._running == {}


def wait_for_thread(name):
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def test_a_scaling_that_is_done_is_not_said_to_have_failed_when_the_cluster_ends_at_once(caplog) -> None:
    # Servers that are no shard any more stay for a moment, and the end of the cluster ends that moment.
    server = CoordinatorServer(parse({"name": "ads", "shards": 2}), ThreadLauncher())
    server.start()
    with Remote(server.address) as remote:
        assert remote.scale(1).state == "done"
        server.stop()
    wait_for_thread("rowloom-scale")
    assert "failed" not in caplog.text


def test_a_full_disk_says_which_file_and_that_nothing_was_changed(
    server, remote, tmp_path, monkeypatch
) -> None:
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rowloom.deploy.storage.write_atomic", full)
    monkeypatch.setattr("rowloom.deploy.storage._Reserve.write", full)  # that is gone, too
    for change in (lambda: remote.set_lr("t", 0.5), lambda: remote.scale(3), lambda: remote.drop_table("t")):
        with pytest.raises(Unavailable) as told:
            change()
        assert f"storage {tmp_path}/layout.json cannot be written: No space left on device" in str(told.value)
        assert str(told.value).count("nothing was changed") == 1
    monkeypatch.undo()
    assert remote.status().tables[0].lr != 0.5
    assert len(remote.status().shards) == 2
