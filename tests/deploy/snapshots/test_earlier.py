"""Snapshots of clusters before: who starts one with initial values hears that they are there, and how to have them."""

import json

import pytest
from logging_launcher import LoggingLauncher
from rich.console import Console
from snapshot_life import SnapshotLife
from waiting import until

from rowloom.deploy.config.config import parse
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.health.ways_out import ways_out
from rowloom.deploy.launch.local_launcher import ThreadLauncher
from rowloom.deploy.operate.planning import plan
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.operate.status import render_status, summary
from rowloom.deploy.snapshots.earlier import EarlierSnapshots, earlier_in, passed_over
from rowloom.proto.errors import Unavailable
from rowloom.server.snapshots.target import target_of


@pytest.fixture
def storage(tmp_path) -> str:
    """A storage with two snapshots of a cluster that is gone, and one that was never finished."""
    life = SnapshotLife(seed=2)
    life.create(0)
    for name in ("s1", "s2"):
        life.push(10)
        life.snapshot(target_of(tmp_path / "snapshots" / name), name)
    (tmp_path / "snapshots/s3").mkdir()
    return str(tmp_path)


def found(storage: str) -> EarlierSnapshots:
    earlier = earlier_in(storage)
    assert earlier is not None
    return earlier


def test_those_that_can_be_restored_count_and_the_newest_is_named(storage):
    earlier = found(storage)
    assert (earlier.count, earlier.url) == (2, f"{storage}/snapshots/s2")
    assert str(earlier).startswith(f"{storage} has 2 snapshots, the newest s2 of ")
    assert str(earlier).endswith(f"Z, {earlier.newest.rows:,} rows")
    assert earlier_in(storage, earlier.newest.cluster_id) is None  # its own
    assert earlier_in(None) is None
    assert earlier_in(f"{storage}/other") is None


def test_what_is_to_be_done_is_a_command_that_can_be_pasted(storage):
    earlier = EarlierSnapshots("/a b", 1, "/a b/snapshots/s2", found(storage).newest)
    assert earlier.after_start(" --name ads", "my deploy.yaml").endswith(
        "`rowloom down --name ads`, then `rowloom restore '/a b/snapshots/s2' 'my deploy.yaml'`"
    )


def test_a_cluster_that_goes_on_from_its_logs_passes_nothing_over(storage):
    config = parse({"name": "ads", "storage": storage})
    assert passed_over(storage) == found(storage)
    (problem,) = plan(config, None, file="ads.yaml").problems
    assert (problem.name, problem.state) == ("snapshots", "warning")
    assert problem.fix == f"`rowloom restore {storage}/snapshots/s2 ads.yaml` begins with those rows"
    server = CoordinatorServer(config, LoggingLauncher(storage))
    server.start()
    server.stop(keep=True)
    assert passed_over(storage) is None
    assert plan(config, None).problems == []


def text(state: dict) -> str:
    console = Console(width=300)
    with console.capture() as capture:
        console.print(render_status(state))
    return capture.get()


def test_status_shows_the_newest_of_the_storage_until_the_cluster_has_one_of_its_own(storage):
    config = parse({"name": "ads", "storage": storage})
    server = CoordinatorServer(config, LoggingLauncher(storage))
    server.start()
    try:
        with Remote(server.address) as remote:
            until(lambda: remote.status().HasField("earlier_snapshot"))
            state = summary(remote.status())
            assert (state["snapshot"], state["earlier_snapshot"]["url"]) == (None, f"{storage}/snapshots/s2")
            assert "newest snapshot taken: none of this cluster; its storage has s2, " in text(state)
            state["shards"][0]["health"] = "lost"
            assert (
                f"`rowloom restore {storage}/snapshots/s2 CONFIG`, with another `name` and `storage` in CONFIG"
                in ways_out(state)
            )
            own = remote.take_snapshot()
            state = summary(remote.status())
            assert (state["snapshot"]["id"], state["earlier_snapshot"]) == (own.id, None)
    finally:
        server.stop()


def test_a_store_that_cannot_be_listed_keeps_no_cluster_from_starting(monkeypatch, caplog):
    def silent(*_):
        raise Unavailable("the store does not answer")

    monkeypatch.setattr("rowloom.deploy.snapshots.snapshots.earlier_in", silent)
    config = parse({"name": "ads", "storage": "memory://earlier-ads", "durability": "memory"})
    server = CoordinatorServer(config, ThreadLauncher())
    server.start()
    server.stop()
    assert "not known which snapshots memory://earlier-ads has of clusters before: the store" in caplog.text


def test_up_began_an_empty_cluster_beside_its_snapshots_without_a_word(cli, storage):
    cli.write(f"name: ads\nstorage: {storage}\n")
    _, err = cli.run("up", "deploy.yaml")
    assert f"IT BEGINS AT INITIAL VALUES, and {storage} has 2 snapshots, the newest s2 of " in err
    assert err.endswith(f"`rowloom down`, then `rowloom restore {storage}/snapshots/s2 deploy.yaml`\n")
    again, err = cli.run("up", "deploy.yaml", "--json")
    assert (json.loads(again)["earlier_snapshots"], err) == (None, "")  # it was found, and not started
