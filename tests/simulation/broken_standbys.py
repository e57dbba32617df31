"""Builds whose standbys are broken on purpose, and scenes in which that must be seen.

A scene fails with an AssertionError where something was lost, or a client was told what is no more.
"""

import json
from collections.abc import Callable

import numpy as np
from simulation.cluster import CoordinatorNode
from simulation.lab import ROWS, Lab

from rowloom.client.calls import operations as ops
from rowloom.deploy.standby.rules import StandbyRules
from rowloom.deploy.standby.standbys import Standbys
from rowloom.proto.errors import StateLost, Unavailable
from rowloom.server.durable.log import Mode
from rowloom.server.standby.feed import Feed
from rowloom.server.standby.following import Following

EVERY = list(range(ROWS))
COORDINATOR = CoordinatorNode.ADDRESS


# ---------------------------------------------------------------------------------------------------------- scenes


def lab_in_step(seed: int, shards: int = 2, *, waits: bool = True, mode: Mode = Mode.MEMORY) -> Lab:
    lab = Lab(seed, shards, rules=StandbyRules(waits=waits), mode=mode)
    lab.world.linger = 0.0
    in_step(lab)
    return lab


def lab_without(seed: int, shards: int = 2) -> Lab:
    """None of whose servers was started with standbys in mind."""
    lab = Lab(seed, shards, rules=StandbyRules(), wanted=False)
    lab.world.linger = 0.0
    return lab


def in_step(lab: Lab) -> None:
    coordinator = lab.node.coordinator
    lab.world.run(
        lambda: all(coordinator.state.standby_in_step(i) for i in range(coordinator.layout.n)), 100.0
    )


def primary(lab: Lab, index: int):
    return lab.node.shards[lab.node.coordinator.state.keys[index]]


def standby(lab: Lab, index: int):
    return lab.node.shards[lab.node.coordinator.state.standbys[index].key]


def both_ways(one: str, other: str) -> set[tuple[str, str]]:
    return {(one, other), (other, one)}


def a_server_ends_that_its_standby_does_not_hear() -> None:
    lab = lab_in_step(3)
    old = primary(lab, 0)
    lab.world.severed.add((old.address, standby(lab, 0).address))
    lab.world.at(0.5, old.kill, None)
    lab.do(lab.push(EVERY))
    lab.world.run(lambda: lab.node.taken_over == 1)
    assert set(lab.rows()[:, 0]) == {1}, "a push is lost that was acknowledged"


def a_server_ends_before_its_standby_is_filled() -> None:
    lab = Lab(3, 1, rules=StandbyRules())
    lab.world.linger = 0.0
    coordinator = lab.node.coordinator
    lab.world.run(lambda: 0 in coordinator.state.standbys)
    other = standby(lab, 0)
    lab.do(lab.push(EVERY))
    lab.world.run(lambda: other.host.following is not None)
    lab.world.severed |= both_ways(other.address, primary(lab, 0).address)
    primary(lab, 0).kill(None)
    pulled = lab.outcome(
        lambda ended: lab.world.operate(
            lab.session, ops.pull(lab.session, [(lab.entry, np.arange(ROWS))], lab.world.now + 20), ended
        )
    )
    assert isinstance(pulled, StateLost | Unavailable), "rows are read that were never there"


def a_server_is_reached_by(lab: Lab, ways: set[tuple[str, str]]) -> None:
    """By a client who knows no other; ways: that are severed. One who comes meanwhile finds its standby."""
    world, clients = lab.world, [lab.world.session([COORDINATOR], number) for number in (2, 3)]
    wanted = [(lab.entry, np.arange(ROWS))]

    def pull(session):
        return lab.wait(
            lambda ended: world.operate(session, ops.pull(session, wanted, world.now + 300), ended)
        )

    pull(clients[0])
    world.severed |= ways
    world.run(lambda: lab.node.taken_over == 1)
    push = ops.push(
        clients[1], [(lab.entry, np.array(EVERY), -np.ones((ROWS, 3), np.float32))], world.now + 30
    )
    lab.wait(lambda ended: world.operate(clients[1], push, ended))
    (rows,) = pull(clients[0])
    assert set(rows[:, 0]) == {1}, "a client reads what was true before a push that was acknowledged"


def a_server_is_reached_by_clients_only() -> None:
    lab = lab_in_step(3)
    old = primary(lab, 0).address
    a_server_is_reached_by(lab, both_ways(old, COORDINATOR) | both_ways(old, standby(lab, 0).address))


def a_server_is_not_reached_by_the_coordinator() -> None:
    lab = lab_in_step(3)
    a_server_is_reached_by(lab, both_ways(primary(lab, 0).address, COORDINATOR))


def a_standby_hears_little_of_what_came_before_it_followed() -> None:
    lab = Lab(3, 1, rules=StandbyRules())
    world, coordinator = lab.world, lab.node.coordinator
    world.linger = 0.0
    world.run(lambda: 0 in coordinator.state.standbys)
    ways = standby(lab, 0).address, primary(lab, 0).address
    feed = None
    while feed is None:  # until it is filled
        world.run(lambda seen=world.now: world.now > seen)
        feed = primary(lab, 0).host.feed
    world.severed.add(ways)
    for _ in range(10):
        lab.do(lab.push(EVERY))
    following = standby(lab, 0).host.following
    world.severed.clear()
    world.run(lambda: following.position > 0)
    world.severed.add(ways[::-1])
    world.run(lambda until=world.now + 1.0: world.now > until)
    if following.position < 10:
        assert coordinator.state.standby_in_step(0) is None, "who lacks what was acknowledged is in step"


def standbys_are_to_go_of_which_a_server_has_just_ended() -> None:
    lab = lab_in_step(3)
    lab.do(lab.push(EVERY))
    primary(lab, 0).kill(None)
    lab.replicate(0)
    assert set(lab.rows()[:, 0]) == {1}, "the rows went with the standby that had them"
    lab.world.run(lambda: not lab.node.coordinator.state.standbys)


def a_coordinator_ends_before_servers_hear_that_they_have_no_standby() -> None:
    lab = lab_in_step(3, 1)
    world, node = lab.world, lab.node
    ways, commit = both_ways(primary(lab, 0).address, COORDINATOR), node.disk.commit

    def watched(state):
        if state.replicas is not None and not state.standbys:
            world.severed |= ways
            node.doom = 2
        return commit(state)

    node.disk.commit = watched
    node.replicate(json.dumps({"replicas": 0}), lambda _: None)
    world.run(lambda: not node.alive)
    del node.disk.commit
    world.severed -= ways
    lab.settle()  # the standby is ended
    pushed = lab.outcome(lambda ended: world.operate(lab.session, lab.push(EVERY, 30.0), ended))
    assert not isinstance(pushed, Exception), "a push waits for a standby that is no more"


# ---------------------------------------------------------------------------------------------------------- builds


def acknowledges_before_the_standby_has_it(patch) -> None:
    """A push is answered at once."""
    patch.setattr(Feed, "covers", lambda self, position: True)


def puts_a_standby_in_place_that_is_not_in_step(patch) -> None:
    """Whoever stands by will do, and says that it does."""
    patch.setattr(
        Standbys,
        "_can_take_over",
        lambda self, index, seen: index in self._coordinator.state.standbys and index in seen.healths,
    )
    patch.setattr(Following, "in_step", property(lambda self: self.shard is not None))


def serves_without_its_standby(patch) -> None:
    """A server that has not heard of its standby goes on."""
    patch.setattr(Feed, "holds", lambda self, now: True)


def takes_the_place_at_once(patch) -> None:
    """A standby does not wait until the server before serves no more."""
    serve = Following.shard_to_serve
    patch.setattr(Following, "shard_to_serve", lambda self, *, ended: serve(self, ended=True))


def goes_on_to_follow(patch) -> None:
    """The server before hears of a standby that is to take its place, and so goes on for ever."""
    patch.setattr(Following, "stop", lambda self: None)


def forgets_what_came_before_the_first_question(patch) -> None:
    """A standby is in step as soon as it is answered."""
    patch.setattr(Following, "in_step", property(lambda self: not self.failed and self._begun_at is not None))


def ends_standbys_whatever_becomes_of_their_servers(patch) -> None:
    """Where there are to be no standbys, all go at once."""
    patch.setattr(
        Standbys,
        "_over",
        lambda self, seen: seen.unfit if self.wanted else list(self._coordinator.state.standbys),
    )


def forgets_that_there_were_standbys(patch) -> None:
    """A coordinator that starts anew, and whose shards are to have no standbys, tells them nothing."""
    patch.setattr(Standbys, "kept", property(lambda self: self.wanted))


SCENES: list[Callable[[], None]] = [
    a_server_ends_that_its_standby_does_not_hear,
    a_server_ends_before_its_standby_is_filled,
    a_server_is_reached_by_clients_only,
    a_server_is_not_reached_by_the_coordinator,
    a_standby_hears_little_of_what_came_before_it_followed,
    standbys_are_to_go_of_which_a_server_has_just_ended,
    a_coordinator_ends_before_servers_hear_that_they_have_no_standby,
]
BUILDS: dict[Callable[..., None], Callable[[], None]] = {
    acknowledges_before_the_standby_has_it: a_server_ends_that_its_standby_does_not_hear,
    puts_a_standby_in_place_that_is_not_in_step: a_server_ends_before_its_standby_is_filled,
    serves_without_its_standby: a_server_is_reached_by_clients_only,
    takes_the_place_at_once: a_server_is_not_reached_by_the_coordinator,
    goes_on_to_follow: a_server_is_not_reached_by_the_coordinator,
    forgets_what_came_before_the_first_question: a_standby_hears_little_of_what_came_before_it_followed,
    ends_standbys_whatever_becomes_of_their_servers: standbys_are_to_go_of_which_a_server_has_just_ended,
    forgets_that_there_were_standbys: a_coordinator_ends_before_servers_hear_that_they_have_no_standby,
}
