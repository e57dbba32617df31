"""What is said while shards are started again."""

import random

from rowloom.deploy.control.coordinator import Coordinator
from rowloom.deploy.control.effects import Commit, Launch, Look, Stop
from rowloom.deploy.control.reshard import Reshard
from rowloom.deploy.control.revival import revive
from rowloom.deploy.control.state import ClusterState
from rowloom.deploy.launch.launcher import ServerProcess
from rowloom.deploy.standby.standbys import Sighting, StandbyRules, Standbys
from rowloom.proto.layout import Layout, ShardAddress


def _two() -> Coordinator:
    """Of a cluster of two shards."""
    layout = Layout("ads-1", 1, (ShardAddress(0, "h:0", 7), ShardAddress(1, "h:1", 8)), "h:9")
    state = ClusterState("ads", layout=layout, keys=[0, 1], next_key=2)
    return Coordinator(state, lambda: 0.0, random.Random(0), "h:9", revives=True)


def test_the_server_of_a_shard_that_is_started_again_is_not_called_one_too_many():
    coordinator = _two()
    program = revive(coordinator)
    assert isinstance(next(program), Look)
    assert isinstance(program.send([ServerProcess("running"), ServerProcess("ended")]), Stop)
    assert isinstance(program.send(None), Commit)
    assert isinstance(program.send(None), Launch)
    assert coordinator.state.surplus == [2]
    assert coordinator.waiting() == []
    program.close()  # it failed: what is left is one too many
    assert "there are more servers than shards" in coordinator.waiting()[0]


def test_servers_that_rows_move_to_or_that_become_standbys_are_not_called_too_many():
    for begun in (
        lambda coordinator: Reshard(coordinator, 4).run(),
        lambda coordinator: Standbys(coordinator, StandbyRules()).keep(Sighting()),
    ):
        coordinator = _two()
        program = begun(coordinator)
        assert isinstance(next(program), Commit)
        assert isinstance(program.send(None), Launch)
        assert coordinator.state.surplus == [2, 3]
        assert coordinator.waiting() == []
        program.close()
        assert "there are more servers than shards" in coordinator.waiting()[0]
