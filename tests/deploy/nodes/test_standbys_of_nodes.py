"""Standbys of nodes that are left, as the coordinator decides it, over real shards in threads and made-up nodes."""

import numpy as np
import pytest
from made_up_nodes import A, B, C, NodesLauncher
from waiting import until

from rowloom.client import SGD, TableSpec, Zeros, connect
from rowloom.deploy.config.config import parse
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.nodes.nodes import Node
from rowloom.deploy.operate.remote import Remote
from rowloom.proto.errors import RetryLater

SPEC = TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros())
IDS = np.arange(100)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("rowloom.deploy.nodes.draining.LOOK_S", 3600.0)  # tests look themselves
    monkeypatch.setattr("rowloom.deploy.standby.standbys.AGAIN_S", 0.1)
    given = {
        "name": "ads",
        "shards": 2,
        "replicas": 1,
        "launcher": "ray",
        "tables": [SPEC],
        "host": "127.0.0.1",
    }
    launcher = NodesLauncher()
    launcher.replicated = True
    server = CoordinatorServer(parse(given), launcher, nodes=launcher)
    server.start()
    with connect(server.address) as client:
        client.table("t").push(IDS, np.ones((100, 2), np.float32))
    yield server
    server.stop()


def places(server) -> list[str]:
    """Of each shard, the first letters of its node and of its standby's, once that is in step."""
    state, placed = server.coordinator.state, server.launcher.placed
    if any(state.standby_in_step(index) is None for index in range(len(state.keys))):
        return []
    return [placed[key][0] + placed[state.standbys[i].key][0] for i, key in enumerate(state.keys)]


def assert_trained(server) -> None:
    with connect(server.address) as client:
        assert (client.table("t").pull(IDS) == -1).all()


def test_standbys_leave_a_node_that_is_drained_and_the_shards_of_another_node_stay(server):
    until(lambda: places(server) == ["ac", "ba"])
    with Remote(server.address) as remote:
        done = remote.drain(C)
        assert (list(done.shards), list(done.standbys)) == ([], [0])
        until(lambda: places(server) == ["ab", "ba"])
        done = remote.drain(B)  # A is left, where the shards are then
        assert (list(done.shards), list(done.standbys)) == ([1], [0])
        until(lambda: all(server.launcher.placed[key] == A for key in server.coordinator.state.keys))
        until(lambda: "shard 0 has no standby yet: no other node" in remote.status().unfinished)
        assert sorted(remote.status().drained) == sorted([B, C])
        remote.undrain(C)
        until(lambda: places(server) == ["ac", "ac"])
    assert_trained(server)


def test_a_node_that_is_taken_away_is_left_by_standbys_without_being_asked(server):
    until(lambda: places(server) == ["ac", "ba"])
    server.launcher.there[C] = Node(C, "10.0.0.2", draining=True)
    server._parts.draining.look()
    until(lambda: places(server) == ["ab", "ba"])
    assert not server.coordinator.state.drained
    assert_trained(server)


def test_standbys_beside_their_shard_go_to_the_first_other_node_and_not_while_something_else_changes(server):
    until(lambda: places(server) == ["ac", "ba"])
    launcher = server.launcher
    launcher.there = {A: launcher.there[A]}
    launcher.placed = dict.fromkeys(launcher.placed, A)
    server._parts.draining.look()
    until(lambda: places(server) == ["aa", "aa"])
    before = dict(server.coordinator.state.standbys)
    launcher.there[B] = Node(B, "10.0.0.1", free={"CPU": 8.0})
    with server._performer.alone("something else"), pytest.raises(RetryLater, match="something else"):
        server._parts.draining.look()
    assert server.coordinator.state.standbys == before
    server._parts.draining.look()
    until(lambda: places(server) == ["ab", "ab"])
    assert_trained(server)


def test_the_command_says_which_standbys_left_a_node(server, cli):
    until(lambda: places(server) == ["ac", "ba"])
    told, _ = cli.run("drain", "10.0.0.2", "--address", server.address)
    assert (
        "no shard was there; the standby of shard 0 ended there, and others are made where there is room"
        in told
    )
    assert cli.json("drain", "10.0.0.2", "--address", server.address)["standbys"] == []
