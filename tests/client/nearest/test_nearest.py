"""Which server answers a pull, and what callers may say of it."""

import random
import threading
from collections import Counter

import pytest

from rowloom.client import InvalidRequest
from rowloom.client.nearest.here import is_here
from rowloom.client.nearest.nearest import LOOK_S, SOON_S, Choice, Nearest
from rowloom.client.nearest.reading import ReadFrom
from rowloom.client.nearest.servers import OUT_S, USUAL_BYTES

OWN, OTHER = "a:1", "b:2"


def nearest(max_staleness_s: float = 5.0, here: str = "") -> Nearest:
    made = Nearest(max_staleness_s, random.Random(3), threading.Lock(), lambda host: host == here)
    made.heard({0: OTHER})
    return made


def places(one: Nearest, count: int = 200, now: float = 0.0, avoid: str = "") -> Counter[str]:
    """Of so many pulls; each is answered in no time."""
    found: Counter[str] = Counter()
    for _ in range(count):
        place = one.place(0, OWN, [1], avoid, now)
        found[place.address] += 1
        one.given_up(place)
    return found


def teach(one: Nearest, address: str, seconds: float, now: float = 0.0) -> None:
    place = Choice(address, None if address == OWN else one.max_staleness_s)
    one._servers.asked(place.key, now)
    one.answered(place, seconds, USUAL_BYTES, now)


def test_servers_that_are_equally_quick_take_turns() -> None:
    one = nearest()
    assert 60 < places(one)[OTHER] < 140
    teach(one, OWN, 0.010)
    teach(one, OTHER, 0.015)
    assert 60 < places(one)[OTHER] < 140


@pytest.mark.parametrize("quick", [OWN, OTHER])
def test_the_quicker_one_is_asked_until_the_other_one_is_worth_a_try(quick: str) -> None:
    one, slow = nearest(), OTHER if quick == OWN else OWN
    teach(one, quick, 0.001)
    teach(one, slow, 0.100)
    assert places(one) == {quick: 200}
    teach(one, quick, 0.001, now=20.0)
    assert places(one, now=20.0)[slow] > 0


def test_one_that_has_much_to_do_is_left_for_the_other() -> None:
    one = nearest()
    for address in (OWN, OTHER):
        teach(one, address, 0.01)
    for _ in range(5):
        one._servers.asked((OTHER, False), 0.0)
    assert places(one) == {OWN: 200}


@pytest.mark.parametrize("here", [OWN, OTHER])
def test_the_one_on_this_machine_is_asked_however_quick_the_other_is(here: str) -> None:
    one = nearest(here=here[0])
    teach(one, here, 1.0)
    teach(one, OTHER if here == OWN else OWN, 0.001)
    assert places(one) == {here: 200}


def test_the_size_of_a_pull_makes_no_server_slow() -> None:
    one = nearest()
    teach(one, OWN, 0.001)
    place = Choice(OTHER, 5.0)
    one._servers.asked(place.key, 0.0)
    one.answered(place, 0.05, 100 * USUAL_BYTES, 0.0)
    assert 60 < places(one)[OTHER] < 140


def test_a_shard_without_another_server_is_asked_itself() -> None:
    one = nearest()
    one.heard({1: OTHER})
    assert places(one) == {OWN: 200}
    one.heard({0: OWN})  # it has taken the place
    assert places(one) == {OWN: 200}
    assert one.place(0, OWN, [1], "", 0.0) == Choice(OWN)


def test_who_has_failed_is_left_alone_ever_longer_and_then_tried_by_one() -> None:
    one, now = nearest(here="b"), 0.0
    for failures in range(8):
        place = one.place(0, OWN, [1], "", now)
        assert place == Choice(OTHER, 5.0, has_other=True)
        assert places(one, 1, now) == {OWN if failures else OTHER: 1}  # the others wait for what comes of it
        one.failed(place, now)
        away_s = min(OUT_S[1], OUT_S[0] * 2**failures)
        assert places(one, 20, now + 0.99 * away_s) == {OWN: 20}
        now += 1.01 * away_s
    one.answered(one.place(0, OWN, [1], "", now), 0.001, 1, now)
    assert places(one, 20, now) == {OTHER: 20}


def test_a_pull_that_one_has_failed_goes_to_the_other() -> None:
    assert places(nearest(), avoid=OWN) == {OTHER: 200}
    assert places(nearest(), avoid=OTHER) == {OWN: 200}


def test_after_a_push_of_ones_own_rows_may_lack_nothing_until_it_is_old() -> None:
    one = nearest(here="b")
    one.wrote([7, 1], 10.0)
    assert one.place(0, OWN, [2, 1], "", 14.9).max_staleness_s == 0.0
    assert one.place(0, OWN, [2, 3], "", 14.9).max_staleness_s == 5.0
    assert one.place(0, OWN, [2, 1], "", 15.2).max_staleness_s == 5.0


def test_who_refuses_what_must_lack_nothing_is_asked_for_the_rest() -> None:
    one = nearest(here="b")
    one.wrote([1], 10.0)
    one.failed(one.place(0, OWN, [1], "", 10.0), 10.0)
    assert one.place(0, OWN, [1], "", 10.1).address == OWN
    assert one.place(0, OWN, [2], "", 10.1).address == OTHER


def test_which_standbys_there_are_is_asked_now_and_then_and_soon_when_one_has_failed() -> None:
    one = nearest(here="b")
    assert one.is_due(100.0)
    assert not one.is_due(100.0 + 0.7 * LOOK_S)
    assert one.is_due(100.0 + 1.3 * LOOK_S)
    one.failed(one.place(0, OWN, [1], "", 107.0), 107.0)
    assert one.is_due(107.0 + 1.1 * SOON_S)


def test_this_machine_is_known_by_what_it_may_listen_at() -> None:
    assert is_here("127.0.0.1")
    assert is_here("localhost")
    assert is_here("[::1]") in (True, False)  # where there is IPv6
    assert not is_here("192.0.2.1")
    assert not is_here("no-such-host.invalid")


def test_what_callers_say_wrong_is_refused_with_the_value() -> None:
    assert ReadFrom.of("primary", None).max_staleness_s is None
    assert ReadFrom.of("nearest", None).max_staleness_s == 5.0
    assert ReadFrom.of("nearest", 0).max_staleness_s == 0.0
    with pytest.raises(InvalidRequest, match=r"read_from must be 'primary' or 'nearest', got 'secondary'"):
        ReadFrom.of("secondary", None)
    with pytest.raises(InvalidRequest, match=r"max_staleness_s=3.0 needs read_from='nearest'"):
        ReadFrom.of("primary", 3.0)
    for wrong in (-1, float("nan"), float("inf"), "soon", True):
        with pytest.raises(InvalidRequest, match=r"max_staleness_s must be in \[0, 1e\+09\] seconds, got"):
            ReadFrom.of("nearest", wrong)
