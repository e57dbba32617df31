"""Builds whose standbys answer what they must not, and scenes in which that must be seen.

A scene fails with an AssertionError where somebody was told what is too old.
"""

from collections.abc import Callable

from simulation.broken_standbys import COORDINATOR, EVERY, both_ways, lab_in_step, primary, standby
from simulation.nearest_histories import pulled, reader_of

from rowloom.client.nearest.nearest import Nearest
from rowloom.server.standby.feed import Feed
from rowloom.server.standby.reading import Freshness

PULLS = 40  # half of them go to each server


def waiting(lab, seconds: float) -> None:
    until = lab.world.now + seconds
    lab.world.at(seconds, lambda: None)
    lab.world.run(lambda: lab.world.now >= until)


def a_standby_does_not_hear_of_what_was_pushed() -> None:
    """By another client, longer ago than the reader's bound."""
    lab = lab_in_step(3, 1, waits=False)
    reader = reader_of(lab, 2, 1.0)
    lab.world.severed.add((primary(lab, 0).address, standby(lab, 0).address))
    lab.do(lab.push(EVERY))
    waiting(lab, 1.2)
    for _ in range(PULLS):
        assert pulled(lab, reader).min() == 1, "rows lack what was acknowledged longer ago than the bound"


def a_client_reads_what_it_has_pushed_itself() -> None:
    lab = lab_in_step(3, 1, waits=False)
    reader = lab.session = reader_of(lab, 2, 5.0)
    lab.world.severed.add((primary(lab, 0).address, standby(lab, 0).address))
    lab.do(lab.push(EVERY))
    for _ in range(PULLS):
        assert pulled(lab, reader).min() == 1, "a client does not see its own push"


def a_standby_is_given_up_that_goes_on() -> None:
    """Its shard and clients reach it, the coordinator does not, and so cannot end it."""
    lab = lab_in_step(3, 1)
    world, reader = lab.world, reader_of(lab, 2, 5.0)
    for _ in range(PULLS):
        pulled(lab, reader)  # the standby is let answer
        waiting(lab, 0.05)
    other = standby(lab, 0)
    answered = other.host.process.reads.pulls
    assert answered > 0
    other.stop = lambda: None
    ways = both_ways(COORDINATOR, other.address)
    world.severed |= ways
    pushes, until = 0, world.now + 20.0
    while world.now < until:
        pushes += 1
        lab.do(lab.push(EVERY))
        for _ in range(5):
            assert pulled(lab, reader).min() == pushes, "a push was acknowledged that a standby lacks"
    assert other.host.process.reads.pulls > answered


def answers_however_old_its_rows_are(patch) -> None:
    """A standby asks nobody, and looks at no clock."""
    patch.setattr(Freshness, "check", lambda self, max_staleness_s: None)


def takes_its_own_clients_for_others(patch) -> None:
    """Whoever has just pushed is told what others are told."""
    patch.setattr(Nearest, "_is_recent", lambda self, at, now: False)


def goes_on_while_its_standby_may_answer(patch) -> None:
    """A server acknowledges pushes alone as soon as it is told that it has no standby."""
    patch.setattr(Feed, "end_reads", lambda self, now, *, for_good: 0.0)


BUILDS: dict[Callable[..., None], Callable[[], None]] = {
    answers_however_old_its_rows_are: a_standby_does_not_hear_of_what_was_pushed,
    takes_its_own_clients_for_others: a_client_reads_what_it_has_pushed_itself,
    goes_on_while_its_standby_may_answer: a_standby_is_given_up_that_goes_on,
}
