"""Drains and upgrades as the coordinator decides them, over real shards in threads and made-up nodes."""

import json

import numpy as np
import pytest
from made_up_nodes import A, B, C, NodesLauncher
from waiting import until

from rowloom.client import SGD, TableSpec, Zeros, connect
from rowloom.deploy.config.config import parse
from rowloom.deploy.config.runtime_env import digest_of
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.nodes.nodes import Node
from rowloom.deploy.operate.remote import Remote
from rowloom.proto.errors import InvalidRequest, Unavailable

SPEC = TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros())
IDS = np.arange(100)


@pytest.fixture
def left() -> list[list[str]]:
    """What the coordinator was told to keep off, each time when it was told to leave."""
    return []


@pytest.fixture
def server(left, tmp_path, monkeypatch):
    monkeypatch.setattr("rowloom.deploy.nodes.draining.LOOK_S", 3600.0)  # tests look themselves
    config = parse(
        {
            "name": "ads",
            "shards": 3,
            "launcher": "ray",
            "tables": [SPEC],
            "storage": str(tmp_path),
            "host": "127.0.0.1",
        }
    )
    launcher = NodesLauncher()
    server = CoordinatorServer(
        config, launcher, nodes=launcher, leave=lambda avoided: left.append(list(avoided))
    )
    server.start()
    with connect(server.address) as client:
        client.table("t").push(IDS, np.ones((100, 2), np.float32))
    yield server
    server.stop()


@pytest.fixture
def remote(server):
    with Remote(server.address) as remote:
        yield remote


def on(server) -> list[str]:
    return [server.launcher.placed[key][0] for key in server.coordinator.state.keys]


def assert_trained(server) -> None:
    with connect(server.address) as client:
        assert (client.table("t").pull(IDS) == -1).all()


def test_shards_leave_a_node_and_nothing_goes_there_until_it_is_used_again(server, remote, left):
    assert on(server) == ["a", "b", "c"]
    done = remote.drain("10.0.0.1")
    assert (done.node, list(done.shards), done.coordinator) == (B, [1], False)
    assert (on(server), left) == (["a", "a", "c"], [])
    assert_trained(server)
    again = remote.drain("10.0.0.1")
    assert not again.HasField("move")
    remote.scale(5)
    assert "b" not in on(server)
    assert remote.status().drained == [B]
    assert json.loads(server.coordinator.state.to_json())["drained"] == [B]
    with pytest.raises(InvalidRequest, match=r"there is no node '10\.0\.0\.9': 10\.0\.0\.1 \(bbbbbbbb\)"):
        remote.undrain("10.0.0.9")
    with pytest.raises(
        InvalidRequest, match=r"^10\.0\.0\.0 is not drained, .* are: 10\.0\.0\.1 \(bbbbbbbb\)"
    ):
        remote.undrain("10.0.0.0")  # it was said that there is no such node
    remote.undrain("bbbb")
    assert (remote.status().drained, server.launcher.avoided) == ([], ())
    assert_trained(server)


def test_the_coordinator_leaves_when_the_shards_of_its_node_have_left(server, remote, left):
    done = remote.drain(C[:6])
    assert (list(done.shards), done.coordinator) == ([2], True)
    until(lambda: left == [[C]])
    server.launcher.placed = dict.fromkeys(server.launcher.placed, A)  # only the coordinator is there
    assert not remote.drain("cccc").HasField("move")
    assert left == [[C], [C]]


def test_a_drain_for_which_the_others_have_no_room_changes_nothing(server, remote):
    there = server.launcher.there
    before = server.coordinator.state
    for id in (A, C):
        there[id] = Node(id, there[id].address, free={"CPU": 0.5})
    with pytest.raises(Unavailable, match=r"no other node has room for 1 shard of CPU 1 each: 0 fit"):
        remote.drain("10.0.0.1")
    del there[A], there[C]
    with pytest.raises(Unavailable, match=r"there is no other node than 10\.0\.0\.1 \(bbbbbbbb\)"):
        remote.drain("10.0.0.1")
    assert server.coordinator.state is before


def test_a_node_that_is_taken_away_is_left_without_being_asked_and_is_not_remembered(server, left):
    launcher = server.launcher
    server._parts.draining.look()
    assert on(server) == ["a", "b", "c"]
    launcher.there[C] = Node(C, "10.0.0.2", draining=True)
    server._parts.draining.look()
    until(lambda: left == [[C]])
    assert "c" not in on(server)
    assert not server.coordinator.state.drained
    assert_trained(server)


def test_all_servers_get_another_environment_one_after_the_other(server, remote, left):
    before = set(server.coordinator.state.keys)
    env = {"env_vars": {"A": "b"}}
    with pytest.raises(InvalidRequest, match=r"is not known here\. It comes by way of Ray"):
        remote.upgrade(digest_of(env))
    server.offer(json.dumps(env))
    done = remote.upgrade(digest_of(env))
    assert (done.state, list(done.handed_over)) == ("done", [0, 1, 2])
    keys = set(server.coordinator.state.keys)
    assert not keys & before
    assert [server.launcher.envs[key] for key in keys] == [env] * 3
    until(lambda: left == [[]])
    assert json.loads(remote.status().config)["ray"]["runtime_env"] == env
    assert server.coordinator.state.runtime_env == json.dumps(env)
    assert_trained(server)


def test_an_environment_in_which_no_server_starts_leaves_the_old_one(server, remote, monkeypatch):
    def fails(key: int):
        raise Unavailable("pip: no such package")

    env = {"pip": ["nothing"]}
    server.offer(json.dumps(env))
    monkeypatch.setattr(server.launcher, "start", fails)
    with pytest.raises(Unavailable, match=r"did not come to its end: pip: no such package"):
        remote.upgrade(digest_of(env))
    assert server.launcher.env == {}
    assert server.coordinator.state.runtime_env is None
    assert_trained(server)


def test_the_commands_say_what_left_a_node_and_how_it_is_used_again(server, cli):
    address = ("--address", server.address)
    told, _ = cli.run("drain", "10.0.0.2", *address)
    assert told.startswith("10.0.0.2 (cccccccc) is drained: 1 shard went over to other servers, 33 rows in ")
    assert "; the coordinator goes elsewhere now. `rowloom undrain cccccccc" in told
    shown, _ = cli.run("status", *address)
    assert "drained nodes, on which nothing is started: cccccccc" in shown
    assert cli.json("status", *address)["drained"] == [C]
    again = cli.json("drain", "10.0.0.2", *address)
    assert (again["node"], again["shards"], again["rows"]) == (C, [], 0)
    assert cli.json("undrain", "cccc", *address) == {"node": C, "address": "10.0.0.2"}
    _, said = cli.run("drain", "10.0.0.9", *address, code=1)
    assert "there is no node '10.0.0.9': 10.0.0.0 (aaaaaaaa); 10.0.0.1 (bbbbbbbb)" in said


def test_processes_of_one_machine_are_started_anew_too_and_have_no_nodes_to_drain(cli, ads):
    with connect(ads) as client:
        before = client.table("users").pull(np.arange(1000))
        with Remote(ads) as remote:
            pids = {shard.pid for shard in remote.status().shards}
        told, _ = cli.run("apply", "--restart")
        assert "every server was started anew\n2 shards went over to other servers, 1,000 rows in " in told
        with Remote(ads) as remote:
            assert not pids & {shard.pid for shard in remote.status().shards}
        np.testing.assert_array_equal(client.table("users").pull(np.arange(1000)), before)
    _, said = cli.run("drain", "127.0.0.1", code=1)
    assert "nothing was changed: shards of this cluster are processes of one machine" in said
    assert "`apply --restart`" in said.replace("rowloom ", "")
