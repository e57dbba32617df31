"""A cluster that begins: what is stored at each of its steps."""

import random

import pytest

from rowloom.deploy.control.coordinator import Coordinator
from rowloom.deploy.control.effects import Calls, Commit, Launch, Program
from rowloom.deploy.control.state import ClusterState
from rowloom.deploy.launch.launcher import Launched
from rowloom.proto.errors import InvalidRequest
from rowloom.proto.spec import TableSpec

TABLES = [TableSpec("users", 10, dim=2), TableSpec("items", 20, dim=2)]


def coordinator_of() -> Coordinator:
    return Coordinator(ClusterState("ads"), lambda: 0.0, random.Random(7), "127.0.0.1:7")


def performed(program: Program) -> list[object]:
    """All effects of a program in a world in which nothing fails."""
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
            answer = [b""] * len(effect.calls)


def test_tables_of_the_config_were_forgotten_when_the_coordinator_ended_before_they_were_made() -> None:
    # The next one took over a cluster without them, and nobody was told.
    coordinator = coordinator_of()
    states = [e.state for e in performed(coordinator.up(2, TABLES)) if isinstance(e, Commit)]
    begun = [list(state.making) for state in states if state.layout is not None]
    assert begun == [["users", "items"]]
    after = Coordinator(
        ClusterState.from_json(states[-1].to_json()), lambda: 0.0, random.Random(8), "127.0.0.1:9"
    )
    performed(after.recover([None, None]))
    assert {name: entry.number for name, entry in after.state.tables.items()} == {"users": 1, "items": 2}
    assert not after.unfinished


def test_tables_that_are_too_many_are_refused_before_a_server_is_started() -> None:
    huge = [TableSpec(f"t{k}", 10, dim=2, metadata={"x": "y" * 120_000}) for k in range(200)]
    with pytest.raises(InvalidRequest, match="every client is told all of them"):
        performed(coordinator_of().up(2, huge))
