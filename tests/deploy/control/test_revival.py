"""What is said while shards are started again."""

import random

import pytest

from rowloom.deploy.control.coordinator import Coordinator
from rowloom.deploy.control.effects import Calls, Commit, Launch, Look, Sleep, Stop
from rowloom.deploy.control.reshard import Reshard
from rowloom.deploy.control.revival import revive
from rowloom.deploy.control.state import ClusterState
from rowloom.deploy.launch.launcher import ServerProcess
from rowloom.deploy.standby.rules import StandbyRules
from rowloom.deploy.standby.sighting import Sighting
from rowloom.deploy.standby.standbys import Standbys
from rowloom.proto.errors import Unavailable
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


def _rolled_back(move: Reshard):
    move._begun = True
    return move._roll_back(Unavailable("a shard has ended"))


@pytest.mark.parametrize("ends", [_rolled_back, Reshard._finish])
def test_a_server_that_had_ended_was_waited_for_at_the_end_of_a_move_before_another_took_its_place(ends):
    # Its shard was away for 5 s more: the standby takes over, or the log is read, when the program has ended.
    program = ends(Reshard(_two(), 2))
    assert isinstance(next(program), Calls)
    assert program.send([b"", Unavailable("connection refused")]) == Look([1])
    with pytest.raises(StopIteration):
        program.send([ServerProcess("ended")])


@pytest.mark.parametrize("known", [[ServerProcess("stopped")], Unavailable("the launcher does not answer")])
def test_a_server_that_may_answer_yet_is_asked_again_when_a_move_rolls_back(known):
    program = _rolled_back(Reshard(_two(), 2))
    next(program)
    program.send([b"", Unavailable("no answer in time")])
    after = program.throw(known) if isinstance(known, Unavailable) else program.send(known)
    assert isinstance(after, Sleep)
    again = program.send(None)
    assert isinstance(again, Calls)
    assert [call.address for call in again.calls] == ["h:1"]
    with pytest.raises(StopIteration):
        program.send([b""])
