"""A cluster that begins: what is stored at each of its steps."""

import random

import pytest

from rowloom.deploy.control.coordinator import Coordinator
from rowloom.deploy.control.effects import Calls, Commit, Launch, Look, Program, Sleep
from rowloom.deploy.control.revival import take_up
from rowloom.deploy.control.state import ClusterState
from rowloom.deploy.launch.launcher import Launched, ServerProcess
from rowloom.proto.errors import InvalidRequest, Unavailable
from rowloom.proto.spec import TableSpec

TABLES = [TableSpec("users", 10, dim=2), TableSpec("items", 20, dim=2)]


def coordinator_of() -> Coordinator:
    return Coordinator(ClusterState("ads"), lambda: 0.0, random.Random(7), "127.0.0.1:7")


def performed(program: Program, *, ended: bool = False) -> list[object]:
    """All effects of a program in a world in which nothing fails, or in which all servers have ended."""
    effects: list[object] = []
    answer: object = None
    while True:
        try:
            effect = program.send(answer)
        except StopIteration:
            return effects
        effects.append(effect)
        answer = None
        if isinstance(effect, Launch):
            answer = [Launched(f"127.0.0.1:{key + 8}", key + 1) for key in effect.keys]
        elif isinstance(effect, Calls):
            answer = [Unavailable("nothing listens there") if ended else b""] * len(effect.calls)
        elif isinstance(effect, Look):
            answer = [ServerProcess("ended" if ended else "runs")] * len(effect.keys)
        assert len(effects) < 1000


def test_tables_of_the_config_were_forgotten_when_the_coordinator_ended_before_they_were_made() -> None:
    # The next one took over a cluster without them, and nobody was told.
    coordinator = coordinator_of()
    states = [e.state for e in performed(coordinator.up(2, TABLES)) if isinstance(e, Commit)]
    begun = [list(state.making) for state in states if state.layout is not None]
    assert begun == [["users", "items"]]
    after = Coordinator(
        ClusterState.from_json(states[-1].to_json()), lambda: 0.0, random.Random(8), "127.0.0.1:9"
    )
    performed(take_up(after, [None, None]))
    assert {name: entry.number for name, entry in after.state.tables.items()} == {"users": 1, "items": 2}
    assert not after.unfinished


def test_the_start_of_a_kept_cluster_waited_two_seconds_for_servers_that_had_ended() -> None:
    first = coordinator_of()
    performed(first.up(2, TABLES))
    after = Coordinator(first.state, lambda: 0.0, random.Random(8), "127.0.0.1:9")
    assert not any(isinstance(e, Sleep) for e in performed(take_up(after, [None, None]), ended=True))
    assert after.unfinished  # and those that are started next are asked


def test_tables_that_are_too_many_are_refused_before_a_server_is_started() -> None:
    huge = [TableSpec(f"t{k}", 10, dim=2, metadata={"x": "y" * 120_000}) for k in range(200)]
    with pytest.raises(InvalidRequest, match="every client is told all of them"):
        performed(coordinator_of().up(2, huge))
