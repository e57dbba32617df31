"""Keys of lanes: whose a lane is, how often a key opens one, and for how long."""

from rowloom.server.access.rights import Grant, Principal
from rowloom.server.call import GRPC, LANE, Caller
from rowloom.server.carriers import lane_keys
from rowloom.server.carriers.lane_keys import LaneKeys

ANN = Caller(GRPC, "ann", Principal("ann", (Grant("pull", "*"),)))


def test_where_nobody_is_asked_all_have_one_key_that_opens_any_number_of_lanes():
    keys = LaneKeys(once=False)
    key = keys.give(None)
    assert key == keys.give(Caller(GRPC))
    assert keys.take(key) == keys.take(key) == Caller(LANE)
    assert keys.take(bytes(16)) is None
    assert LaneKeys(once=False).take(key) is None


def test_where_callers_are_asked_a_key_opens_one_lane_of_who_got_it():
    keys = LaneKeys(once=True)
    first, second = keys.give(ANN), keys.give(ANN)
    assert first != second
    assert keys.take(second) == Caller(LANE, "ann", ANN.rights)
    assert keys.take(second) is None
    assert keys.take(first) == Caller(LANE, "ann", ANN.rights)
    # What all would have had otherwise opens none.
    assert keys.take(keys._shared) is None


def test_a_key_that_is_not_used_soon_is_of_no_use_and_is_forgotten():
    now = [0.0]
    keys = LaneKeys(once=True, clock=lambda: now[0])
    late = keys.give(ANN)
    now[0] = lane_keys.KEY_S + 1
    keys.give(ANN)
    assert len(keys._given) == 1
    assert keys.take(late) is None


def test_who_asks_for_keys_without_end_takes_no_memory_without_end(monkeypatch):
    monkeypatch.setattr(lane_keys, "MOST_KEYS", 3)
    keys = LaneKeys(once=True, clock=lambda: 0.0)
    given = [keys.give(ANN) for _ in range(10)]
    assert len(keys._given) == 3
    assert [keys.take(key) is not None for key in given] == [False] * 7 + [True] * 3
