"""Standbys that are made, ended or kept otherwise while a cluster runs."""

import errno
import io
import os
import signal
import socket
import threading

import numpy as np
import pytest
from rich.console import Console
from support.waiting import until

from rowloom.client import SGD, TableSpec, Zeros
from rowloom.deploy import local_cluster
from rowloom.deploy.config.changes import diff, differing
from rowloom.deploy.config.config import DeployConfig, InvalidConfig, from_json, parse, with_replicas
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch import local_room
from rowloom.deploy.launch.local_launcher import ProcessLauncher, ThreadLauncher
from rowloom.deploy.launch.local_server import server_command
from rowloom.deploy.operate import planning
from rowloom.deploy.operate.applying import apply
from rowloom.deploy.operate.planning import plan
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.operate.status import render_status, summary
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import RetryLater, Unavailable
from rowloom.server.rows.limits import Limit

SPEC = TableSpec("t", 100, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())
IDS = np.arange(100)
ONES = -np.ones((100, 4), np.float32)


def wanted(replicas: int, shards: int = 1, **standby) -> DeployConfig:
    """What runs, with these in it."""
    given = {"name": "local", "shards": shards, "replicas": replicas, "tables": [SPEC]}
    return parse(given | ({"standby": standby} if standby else {}))


def applied(cluster, config: DeployConfig) -> list[str]:
    with Remote(cluster.address) as remote:
        return [str(change) for change in apply(config, remote, remote.status())[0].changes]


def shown(cluster) -> list[str]:
    """The standby of each shard in a word."""
    with Remote(cluster.address) as remote:
        return states(remote)


def states(remote: Remote) -> list[str]:
    return [s.standby.state if s.HasField("standby") else "none" for s in remote.status().shards]


def in_force(cluster) -> DeployConfig:
    with Remote(cluster.address) as remote:
        return from_json(remote.status().config)


class Trainer:
    """Pushes all the time, until it is ended."""

    def __init__(self, cluster) -> None:
        self.table, self.pushed, self._ending = cluster.connect().table("t"), 0, threading.Event()
        self._failed: list[Exception] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                self.table.push(IDS, ONES)
                self.pushed += 1
        except Exception as e:
            self._failed.append(e)

    def goes_on(self) -> None:
        before = self.pushed
        until(lambda: self.pushed > before + 1 or self._failed)

    def end(self) -> None:
        self._ending.set()
        self._thread.join()
        assert not self._failed
        assert set(self.table.pull(IDS)[:, 0].tolist()) == {float(self.pushed)}


@pytest.mark.slow
def test_standbys_come_and_go_under_a_trainer_and_a_killed_server_loses_nothing_meanwhile() -> None:
    with local_cluster(shards=1, processes=True, tables=[SPEC]) as cluster:
        trainer, launcher = Trainer(cluster), cluster.launcher
        first = cluster._server.coordinator.state.keys[0]
        try:
            trainer.goes_on()
            assert applied(cluster, wanted(1))[0].startswith("replicas: 0 -> 1 (standbys: 1 process more, ")
            until(lambda: shown(cluster) == ["in step"])
            trainer.goes_on()
            os.kill(launcher.pid(first), signal.SIGKILL)
            until(lambda: cluster._server.coordinator.state.keys[0] != first)
            until(lambda: shown(cluster) == ["in step"])
            trainer.goes_on()
            assert applied(cluster, wanted(0))[0].startswith("replicas: 1 -> 0 (standbys: the standbys end")
            until(lambda: shown(cluster) == ["none"])
            until(lambda: len(launcher._running) == 1)
            trainer.goes_on()
            assert in_force(cluster).replicas == 0
        finally:
            trainer.end()


def test_what_was_applied_outlives_the_coordinator_and_rows_that_move(tmp_path) -> None:
    config = wanted(0, shards=2)
    server = CoordinatorServer(config, ThreadLauncher(), storage=str(tmp_path / "state"))
    server.start()
    with Remote(server.address) as remote:
        assert not server._parts.standbys.kept
        apply(wanted(1, shards=2, mode="async", after=9.0), remote, remote.status())
        until(lambda: states(remote) == ["in step"] * 2)
        assert server.launcher.replicated
    server.leave()
    again = CoordinatorServer(config, server.launcher, storage=str(tmp_path / "state"))
    again.take_up()
    try:
        assert (again.config.replicas, again.config.standby.mode, again.config.standby.after) == (
            1,
            "async",
            9.0,
        )
        assert (again._parts.standbys.rules.waits, again._parts.standbys.rules.after_s) == (False, 9.0)
        with Remote(again.address) as remote:
            until(lambda: states(remote) == ["in step"] * 2)
            apply(wanted(1, shards=3), remote, remote.status())
            until(lambda: states(remote) == ["in step"] * 3)
            until(lambda: not remote.status().unfinished)
            assert again._parts.standbys.rules.waits
            done, _ = apply(wanted(0, shards=2), remote, remote.status())
            assert [c.path for c in done.changes] == ["shards", "replicas"]
            assert states(remote) == ["none"] * 2
            until(lambda: len(again.launcher._running) == 2)
            assert not again.launcher.replicated
            assert not plan(wanted(0, shards=2), remote.status()).changes
    finally:
        again.stop()


def test_a_cluster_with_standbys_taken_up_with_a_file_without_them_left_its_shards_waiting_for_ever(
    tmp_path,
) -> None:
    server = CoordinatorServer(wanted(1), ThreadLauncher(), storage=str(tmp_path / "state"))
    server.start()
    with Remote(server.address) as remote:
        until(lambda: states(remote) == ["in step"])
    server.leave()
    again = CoordinatorServer(wanted(0), server.launcher, storage=str(tmp_path / "state"))
    again.take_up()
    try:
        with Remote(again.address) as remote:
            assert [str(c) for c in differing(remote.status(), wanted(0))] == [
                "replicas: 1 -> 0 (standbys: the standbys end: from then on the rows of a shard end with its process)"
            ]
            apply(wanted(0), remote, remote.status())
            until(lambda: states(remote) == ["none"])
            assert again.coordinator.state.replicas is not None
    finally:
        again.stop()


def test_standbys_that_there_cannot_be_are_refused_live_with_the_words_of_the_config() -> None:
    for text in ("[", "7", '{"replicas": 2}', '{"standby": {"mode": "later"}}'):
        with pytest.raises(InvalidConfig, match="replicas"):
            with_replicas(wanted(0), text)


def test_standbys_wait_while_rows_move(tmp_path) -> None:
    server = CoordinatorServer(wanted(0), ThreadLauncher())
    server.start()
    try:
        with (
            server._performer.alone("scaling to 3 shards"),
            pytest.raises(RetryLater, match="scaling to 3 shards"),
        ):
            server._parts.replicate('{"replicas": 1}')
        assert not server.config.replicas
        assert not server.launcher.replicated
    finally:
        server.stop()


def test_a_change_that_is_not_stored_changes_nothing(monkeypatch, tmp_path) -> None:
    server = CoordinatorServer(wanted(0), ThreadLauncher(), storage=str(tmp_path / "state"))
    server.start()

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    try:
        with monkeypatch.context() as patch:
            patch.setattr("rowloom.deploy.storage.write_atomic", broken)
            with pytest.raises(Unavailable, match="Input/output error"):
                server._parts.replicate('{"replicas": 1}')
        assert not server.config.replicas
        assert not server._parts.standbys.kept
    finally:
        server.stop()


# -------------------------------------------------------------------------------------------------------------- planned


def test_a_plan_says_what_other_standbys_take_and_that_they_end() -> None:
    (begun,) = diff(wanted(0, 2), wanted(1, 2))
    assert str(begun) == (
        "replicas: 0 -> 1 (standbys: 2 processes more, and the memory of each shard once more; filled while trainers "
        "go on: `rowloom status` shows when they are in step)"
    )
    on_ray = parse({"name": "ads", "launcher": "ray"})
    (begun,) = diff(on_ray, on_ray.model_copy(update={"replicas": 1}))
    assert "; each on another node than its shard, or beside it where Ray has one node only)" in str(begun)
    both = diff(wanted(1), wanted(1, mode="async", after=7.5))
    assert list(map(str, both)) == [
        "standby.mode: 'sync' -> 'async' (standbys)",
        "standby.after: 5.0 -> 7.5 (standbys)",
    ]
    assert {c.action for c in diff(wanted(0), wanted(1, 2))} == {"scale", "standbys"}


def test_a_file_without_durability_meant_logs_and_was_refused_without_a_way_out(
    tmp_path,
) -> None:
    given = {"name": "ads", "storage": str(tmp_path)}
    in_memory = parse(given | {"replicas": 1, "durability": "memory"})
    found = {c.path: c for c in diff(in_memory, parse(given))}
    assert found["durability"].reason.startswith(
        "`durability: memory` in the file leaves it as it is; else it is fixed"
    )
    assert [c.path for c in diff(in_memory, parse(given | {"durability": "memory"}))] == ["replicas"]
    (ended,) = diff(parse(given | {"replicas": 1}), parse(given))
    assert "read from its log" in ended.reason


def test_rows_were_said_to_end_with_a_standby_that_was_only_being_filled() -> None:
    status = running(wanted(1), rows=1)
    status.durability = "memory"
    status.shards[0].standby.state = "filling"
    assert "(rows end with their shard's process)" in on_screen(status)
    status.shards[0].standby.state = "in step"
    assert "(rows end with their shard's process and its standby)" in on_screen(status)


def on_screen(status: pb.StatusReply) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(render_status(summary(status)))
    return console.file.getvalue()


def test_servers_are_started_for_standbys_by_what_holds_at_that_moment() -> None:
    assert "--replicated" not in server_command(wanted(1))
    assert "--replicated" in server_command(wanted(0), replicated=True)
    assert ProcessLauncher(wanted(1)).replicated


def running(config: DeployConfig, rows: int = 0, row: int = 1) -> pb.StatusReply:
    """As the coordinator of a cluster on this machine has it."""
    shards = [
        pb.ShardStatus(
            node=socket.gethostname(),
            health="serving",
            statistics=pb.StatisticsReply(tables=[pb.TableStatistics(name="t", rows=rows, bytes=rows * row)]),
        )
        for _ in range(config.shards)
    ]
    addresses = [
        pb.ShardAddress(index=i, address=f"host:{i}", incarnation=i + 1) for i in range(config.shards)
    ]
    layout = pb.Layout(cluster_id="ads-1", epoch=1, shards=addresses)
    return pb.StatusReply(config=config.to_json(), layout=layout, shards=shards, name=config.name)


def test_room_is_asked_for_the_processes_of_standbys_too(monkeypatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(planning, "check_room", lambda servers, copied=0: asked.append((servers, copied)))
    plan(wanted(1, 2), None)
    plan(wanted(1, 2), running(wanted(0, 2), rows=10, row=100))
    plan(wanted(1, 3), running(wanted(1, 2), rows=10, row=100))
    plan(wanted(0, 2), running(wanted(1, 2), rows=10, row=100))
    plan(wanted(0, 3), running(wanted(1, 2), rows=10, row=100))
    assert asked == [(4, 0), (2, 2000), (2, 0)]


def test_standbys_for_whose_rows_there_is_no_room_are_refused_before_anything_begins(monkeypatch) -> None:
    monkeypatch.setattr(local_room, "available", lambda: Limit(1 << 30, "what is left"))
    refused = plan(wanted(1), running(wanted(0), rows=1, row=1 << 30))
    assert refused.refused
    with pytest.raises(
        Unavailable, match=r"no room for standbys: .* rows of all shards once more, 1.0 GiB.*changed"
    ):
        refused.check()
    assert not plan(wanted(1), running(wanted(0), rows=1, row=1 << 20)).refused
