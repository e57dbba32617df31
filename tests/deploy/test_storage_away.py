"""A storage that is moved away, or unmounted, under a cluster that runs, and what then is not made anew at its path."""

import re

import numpy as np
import pytest
from waiting import until

from rowloom.client import SGD, TableSpec, Zeros, connect
from rowloom.deploy import local_cluster
from rowloom.deploy.config.config import parse
from rowloom.deploy.control.effects import NotStored
from rowloom.deploy.control.state import ClusterState
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.health.ways_out import ways_out
from rowloom.deploy.launch.local_launcher import ProcessLauncher
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.operate.status import summary
from rowloom.deploy.storage import StateFile
from rowloom.proto.errors import Unavailable
from rowloom.proto.layout import Layout

SPEC = TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros())
IDS = np.arange(100)
WAITS = (
    r"^calls to shard 0 wait: its standby is none any more \(its process has ended\), and that cannot be stored: the "
    r"storage is not where it was: .* is it not mounted\?"
)
AWAY = (
    r"the storage is not where it was: .* is it not mounted\? Nothing was changed, and the cluster serves on"
)


def state(cluster_id: str, **changes) -> ClusterState:
    return ClusterState("ads", layout=Layout(cluster_id, 1, ()), **changes)


def test_pushes_after_a_scale_while_the_storage_was_away_were_lost_when_it_came_back(tmp_path):
    kept, moved = tmp_path / "kept", tmp_path / "moved"
    with (
        local_cluster(2, storage=kept, tables=[SPEC], processes=True, durability="process") as cluster,
        Remote(cluster.address) as remote,
        connect(cluster.address) as client,
    ):
        table = client.table("t")
        table.push(IDS, -np.ones((100, 2)))
        kept.rename(moved)
        for change in (
            lambda: cluster.scale(3),
            lambda: cluster.scale(1),
            remote.take_snapshot,
            lambda: remote.accept_loss(0),
        ):
            with pytest.raises(Unavailable, match=AWAY):
                change()
        table.push(IDS, -np.ones((100, 2)))  # it serves on
        assert remote.status().layout.epoch == 1
        assert not kept.exists()
        moved.rename(kept)
        cluster.scale(3)
        client.snapshot()
        assert (table.pull(IDS) == 2.0).all()


def test_status_had_nothing_of_a_shard_that_waited_because_its_standby_was_gone_and_the_storage_too(tmp_path):
    kept, moved = tmp_path / "kept", tmp_path / "moved"
    said = {"name": "ads", "shards": 1, "replicas": 1, "storage": str(kept), "durability": "process"}
    config = parse({**said, "tables": [SPEC]})
    server = CoordinatorServer(config, ProcessLauncher(config, tmp_path))
    server.start()
    try:
        with Remote(server.address) as remote, connect(server.address) as client:
            table = client.table("t")
            table.push(IDS, -np.ones((100, 2)))
            until(lambda: server.coordinator.state.standby_in_step(0) is not None)
            kept.rename(moved)
            server.launcher.stop(server.coordinator.state.standbys[0].key, 0.0)
            until(lambda: any(re.search(WAITS, said) for said in remote.status().unfinished))
            moved.rename(kept)
            table.push(IDS, -np.ones((100, 2)))
            assert (table.pull(IDS) == 2.0).all()
            until(lambda: not remote.status().unfinished)
    finally:
        server.stop()


@pytest.mark.parametrize(("durability", "place"), [("process", "log"), ("memory", "standby")])
def test_a_dead_shard_whose_standby_had_no_storage_was_said_to_need_nothing_but_time(
    tmp_path, durability, place
):
    kept, moved = tmp_path / "kept", tmp_path / "moved"
    said = {"name": "ads", "shards": 1, "replicas": 1, "storage": str(kept), "durability": durability}
    config = parse({**said, "tables": [SPEC]})
    server = CoordinatorServer(config, ProcessLauncher(config, tmp_path))
    server.start()
    try:
        with Remote(server.address) as remote, connect(server.address) as client:
            client.table("t").push(IDS, -np.ones((100, 2)))
            until(lambda: server.coordinator.state.standby_in_step(0) is not None)
            kept.rename(moved)
            server.launcher.stop(server.coordinator.state.keys[0], 0.0)
            until(lambda: remote.status().shards[0].stays_dead)
            state = summary(remote.status())
            assert re.match(f"its standby cannot take its place: {AWAY}", state["shards"][0]["stays_dead"])
            assert any(re.match("calls to shard 0 wait: its standby", one) for one in state["unfinished"])
            told = ways_out(state)
            assert f"has its rows in its {place}, and nothing of it is known to be lost; mend what" in told
            for wrong in ("Nothing is to be done", "look again in some seconds", "accept-loss"):
                assert wrong not in told
            moved.rename(kept)
            assert (client.table("t").pull(IDS) == 1.0).all()
            until(lambda: remote.status().shards[0].health == "serving")
            assert not remote.status().shards[0].stays_dead
    finally:
        server.stop()


def test_a_layout_was_written_into_a_folder_made_anew_where_the_storage_had_been(tmp_path):
    kept = tmp_path / "kept"
    file = StateFile(str(kept))
    file.commit(state("ads-1"))
    kept.rename(tmp_path / "moved")
    with pytest.raises(NotStored, match=f"the cluster's layout is not in {kept}. Was it moved"):
        file.commit(state("ads-1", next_key=2))
    assert not kept.exists()
    kept.mkdir()  # an empty mount point
    with pytest.raises(NotStored):
        file.check_there()
    StateFile(str(kept)).commit(state("ads-2"))  # somebody began another cluster below the mount point
    with pytest.raises(NotStored, match=f"{kept} has the layout of another cluster, ads-2"):
        file.commit(state("ads-1", next_key=2))


def test_a_layout_that_only_was_removed_or_damaged_is_written_anew(tmp_path):
    (tmp_path / "logs" / "ads-1").mkdir(parents=True)
    file = StateFile(str(tmp_path))
    file.commit(state("ads-1"))
    (tmp_path / "layout.json").unlink()  # the logs beside it say that it is the same storage
    file.commit(state("ads-1", next_key=2))
    (tmp_path / "layout.json").write_text("{")
    file.commit(state("ads-1", next_key=3))
    loaded = file.load()
    assert loaded is not None
    assert loaded.next_key == 3


def test_who_cleared_a_storage_begins_anew_there(tmp_path):
    file = StateFile(str(tmp_path / "kept"))
    file.commit(state("ads-1"))
    file.clear()
    (tmp_path / "kept").rmdir()
    file.commit(state("ads-2"))


def test_an_object_store_cannot_be_unmounted():
    file = StateFile("memory://storage-away")
    file.commit(state("ads-1"))
    StateFile("memory://storage-away").clear()
    file.commit(state("ads-1", next_key=2))
    file.clear()
