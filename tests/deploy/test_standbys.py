"""Clusters whose shards have standbys, with real servers."""

import io
import os
import signal

import numpy as np
import pytest
from rich.console import Console
from support.waiting import until

from rowloom.client import SGD, TableSpec, Zeros
from rowloom.deploy import local_cluster
from rowloom.deploy.config.config import InvalidConfig, parse
from rowloom.deploy.observe.families import cluster_families
from rowloom.deploy.operate.status import render_status, summary
from rowloom.deploy.standby.shown import standby_in_words
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import InvalidRequest
from rowloom.server.metrics.families import shard_families

IDS = np.arange(100)
ONES = -np.ones((100, 4), np.float32)
SPEC = TableSpec("t", 100, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())


def shown(cluster) -> dict:
    return summary(cluster._server._handlers.status(pb.StatusRequest()))


def in_step(cluster) -> bool:
    coordinator = cluster._server.coordinator
    return all(coordinator.state.standby_in_step(index) for index in range(coordinator.layout.n))


def test_a_standby_takes_the_place_of_a_server_that_ended_and_gets_a_standby_itself() -> None:
    with local_cluster(shards=2, replicas=1, tables=[SPEC]) as cluster:
        until(lambda: in_step(cluster))
        table = cluster.connect().table("t")
        for count in range(1, 4):
            table.push(IDS, ONES)
            coordinator = cluster._server.coordinator
            cluster.launcher.stop(coordinator.state.keys[count % 2], 0.0)
            assert set(table.pull(IDS)[:, 0].tolist()) == {float(count)}
            until(lambda: in_step(cluster))
        cluster.scale(3)
        until(lambda: in_step(cluster))
        assert set(table.pull(IDS)[:, 0].tolist()) == {3.0}


def test_the_standby_of_each_shard_is_shown_with_how_far_it_is_behind() -> None:
    with local_cluster(shards=2, replicas=1, tables=[SPEC], standby={"mode": "async"}) as cluster:
        until(lambda: in_step(cluster))
        until(lambda: all(s["standby"]["state"] == "in step" for s in shown(cluster)["shards"]))
        cluster.connect().table("t").push(IDS, ONES)
        until(lambda: all(s["standby"]["rows"] == 50 for s in shown(cluster)["shards"]))
        one = shown(cluster)["shards"][0]["standby"]
        address = cluster._server.coordinator.state.standbys[0].address
        assert (one["address"], one["behind_changes"], one["behind_bytes"]) == (address, 0, 0)
        console = Console(width=200, file=io.StringIO())
        console.print(render_status(shown(cluster)))
        assert "in step" in console.file.getvalue()
        families = {f.name: f for f in cluster_families(cluster._server._handlers.status(pb.StatusRequest()))}
        assert [s.value for s in families["rowloom_shard_standby"].samples] == [1, 1]
        status = cluster._server._handlers.status(pb.StatusRequest())
        families = {f.name: f for f in shard_families(status.shards[0].statistics)}
        assert [s.value for s in families["rowloom_standby_follows"].samples] == [1]


def test_a_standby_that_is_behind_or_not_filled_is_told_in_words() -> None:
    known = {"state": "filling", "rows": 1234, "behind_changes": 0, "behind_bytes": 0, "behind_s": 0.0}
    assert standby_in_words(None) == "none"
    assert standby_in_words(known) == "filling, 1,234 rows"
    behind = {"state": "in step", "behind_changes": 2, "behind_bytes": 2048, "behind_s": 0.25}
    assert standby_in_words(known | behind) == "in step, 2.0 KiB and 0.2 s behind"
    assert standby_in_words(known | {"state": "unreachable"}) == "unreachable"


def test_a_server_process_that_is_killed_costs_no_call() -> None:
    with local_cluster(shards=1, processes=True, replicas=1, tables=[SPEC]) as cluster:
        until(lambda: in_step(cluster))
        table = cluster.connect().table("t")
        table.push(IDS, ONES)
        os.kill(cluster.launcher.pid(cluster._server.coordinator.state.keys[0]), signal.SIGKILL)
        table.push(IDS, ONES)
        assert set(table.pull(IDS)[:, 0].tolist()) == {2.0}


def test_standbys_go_with_logs_and_with_ray_and_one_of_each_shard_is_the_most() -> None:
    assert parse({"replicas": 1, "launcher": "ray"}).replicas == 1
    with pytest.raises(InvalidConfig, match=r"replicas.*at most 1"):
        parse({"replicas": 2})
    assert parse({"replicas": 1, "storage": "/tmp/x"}).durability == "process"
    assert parse({"replicas": 1}).durability == "memory"


def test_a_shard_whose_standby_has_its_rows_is_no_loss() -> None:
    with local_cluster(shards=1, replicas=1, tables=[SPEC]) as cluster:
        until(lambda: in_step(cluster))
        with pytest.raises(InvalidRequest, match=r"its standby has its rows"):
            accept(cluster)


def accept(cluster) -> None:
    from rowloom.deploy.control.loss import accept_loss

    server = cluster._server
    with server._performer.alone("a test"):
        server._performer.run(accept_loss(server.coordinator, 0))
