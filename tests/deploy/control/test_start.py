"""A cluster that begins: what is stored at each of its steps."""

import random

import pytest

from rowloom.deploy.control import state
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


def test_a_start_with_many_tables_committed_all_of_them_for_each_and_took_minutes() -> None:
    coordinator = coordinator_of()
    many = [TableSpec(f"t{k}", 10, dim=2) for k in range(300)]
    begun = performed(coordinator.up(2, many))
    made = performed(coordinator.make_begun(1.0))
    assert len(coordinator.state.tables) == 300
    assert not coordinator.state.making
    states = [[len(e.state.making), len(e.state.tables)] for e in begun + made if isinstance(e, Commit)]
    assert states[-2:] == [[300, 0], [0, 300]]
    told = [call for e in made if isinstance(e, Calls) for call in e.calls]
    assert len(told) == 2 * 300  # each shard of each table


def test_a_config_with_more_tables_than_clients_can_be_told_starts_nothing(monkeypatch) -> None:
    monkeypatch.setattr(state, "MAX_TABLES_BYTES", 1000)
    with pytest.raises(InvalidRequest, match=r"with table 't4' the specs of all 5 tables would be \d+ bytes"):
        performed(coordinator_of().up(2, [TableSpec(f"t{k}", 10, dim=2) for k in range(300)]))
