"""What the coordinator makes of what it sees of shards and standbys, and where it has standbys started."""

import random

import pytest

from rowloom.deploy.control.coordinator import Coordinator
from rowloom.deploy.control.effects import Calls, Commit, Launch, Look
from rowloom.deploy.control.state import ClusterState, Standby
from rowloom.deploy.launch.launcher import Launched, ServerProcess
from rowloom.deploy.operate.status import render_status, summary
from rowloom.deploy.standby.rules import StandbyRules
from rowloom.deploy.standby.shown import beside_in_words
from rowloom.deploy.standby.sighting import Sighting
from rowloom.deploy.standby.standbys import AGAIN_S, Standbys
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import RowloomError, Unavailable
from rowloom.proto.layout import Layout, ShardAddress

GONE = Unavailable("connection refused")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def of_two(*, standbys: bool) -> tuple[Standbys, Coordinator, Clock]:
    layout = Layout("ads-1", 1, (ShardAddress(0, "h:0", 7), ShardAddress(1, "h:1", 8)), "h:9")
    there = {0: Standby(5, "h:5", 70, 7, 1, True), 1: Standby(6, "h:6", 80, 8, 1, True)} if standbys else {}
    clock = Clock()
    state = ClusterState("ads", layout=layout, keys=[3, 4], next_key=7, standbys=there)
    coordinator = Coordinator(state, clock, random.Random(0), "h:9")
    return Standbys(coordinator, StandbyRules()), coordinator, clock


def healthy(incarnation: int, standby: str = "") -> bytes:
    return pb.HealthReply(incarnation=incarnation, standby=standby, state="serving").SerializeToString()


def seen(answers: list[bytes | RowloomError], looked: list[int], processes: list[ServerProcess]) -> Sighting:
    """One look at two shards with standbys. looked: keys that the launcher is asked about."""
    standbys, _, _ = of_two(standbys=True)
    program = standbys.look()
    assert isinstance(next(program), Calls)
    assert program.send(answers) == Look(looked)
    with pytest.raises(StopIteration) as end:
        program.send(processes)
    return end.value.value


def test_the_launcher_is_asked_only_about_servers_that_did_not_answer():
    every = [healthy(7), healthy(8), healthy(70, "in step"), healthy(80, "in step")]
    assert not seen(every, [], []).gone
    one = seen([GONE, *every[1:]], [3], [ServerProcess("running")])
    assert (one.gone, list(one.alone)) == ({}, [0])  # it may answer soon
    one = seen([*every[:3], GONE], [6], [ServerProcess("ended")])
    assert (one.unfit, list(one.over)) == ({1: "its process has ended"}, [1])


@pytest.mark.parametrize(
    ("process", "gone"),
    [
        (ServerProcess("ended"), {0: True}),
        (
            ServerProcess("ended", sure=False),
            {0: False},
        ),  # its node was given up: it may live on there, cut off
        (ServerProcess("running", incarnation=9), {0: False}),  # Ray has started it again, without its rows
        (ServerProcess("running", incarnation=7), {}),
        (ServerProcess("unknown"), {}),
    ],
)
def test_a_server_has_ended_for_certain_only_where_somebody_saw_it_end(process, gone):
    answers = [GONE, healthy(8), healthy(70, "in step"), healthy(80, "in step")]
    assert seen(answers, [3], [process]).gone == gone


def test_a_standby_whose_node_was_given_up_is_out_and_is_not_said_to_have_ended():
    answers = [healthy(7), healthy(8), GONE, healthy(80, "in step")]
    one = seen(answers, [5], [ServerProcess("ended", sure=False)])
    assert (one.unfit, list(one.over)) == ({0: "its process has ended"}, [])


def test_standbys_are_started_apart_from_their_shards_and_each_by_itself_where_not_all_have_room():
    standbys, coordinator, clock = of_two(standbys=False)

    def kept(room: dict[int, bool]) -> list[Launch]:
        """One `keep`. room: by key of a shard, whether its standby finds some. Returns what is started."""
        program, launches, outcome = standbys.keep(Sighting()), [], None
        try:
            effect = next(program)
            while True:
                if isinstance(effect, Commit):
                    outcome = None
                elif isinstance(effect, Calls):
                    outcome = [GONE for _ in effect.calls]
                elif isinstance(effect, Launch):
                    launches.append(effect)
                    if not all(room[key] for key in effect.apart):
                        effect = program.throw(Unavailable(f"no node for {list(effect.apart)}"))
                        continue
                    outcome = [Launched(f"h:{key}", 10 * key) for key in effect.keys]
                effect = program.send(outcome)
        except (StopIteration, Unavailable):
            return launches

    (both,) = kept({3: False, 4: True})
    assert both.apart == [3, 4]
    assert [one.apart for one in kept({3: False, 4: True})] == [[3], [4]]
    assert sorted(coordinator.state.standbys) == [1]
    assert standbys.said()[0] == "shard 0 has no standby yet: no node for [3]"
    assert kept({3: True, 4: True}) == []  # not at each look
    clock.now += AGAIN_S
    assert [one.apart for one in kept({3: True, 4: True})] == [[3]]
    assert sorted(coordinator.state.standbys) == [0, 1]
    assert not any("no standby yet" in one for one in standbys.said())


def test_status_says_which_standbys_end_with_the_node_of_their_shard():
    def status(launcher: str, *nodes: tuple[str, str]) -> pb.StatusReply:
        reply = pb.StatusReply(name="ads", launcher=launcher, config='{"name": "ads"}')
        for index, (node, other) in enumerate(nodes):
            one = reply.shards.add(shard=pb.ShardAddress(index=index), node=node, health="serving")
            one.standby.CopyFrom(pb.StandbyStatus(node=other, state="in step"))
        return reply

    assert beside_in_words(summary(status("local", ("a", "a")))) == ""
    assert beside_in_words(summary(status("ray", ("a", "b"), ("", "")))) == ""
    said = beside_in_words(summary(status("ray", ("a", "a"), ("a", "b"), ("c", "c"))))
    assert said.startswith(
        "the standbys of shards 0 and 2 are on the nodes of their shards, as Ray has no other"
    )
    assert render_status(summary(status("ray", ("a", "a"))))
