"""How fast rows are fetched while trainers call."""

import pytest

from rowloom.server.moving.pace import CALLED_S, MOST_PAUSE_S, SHARE, Pace


def test_rows_travel_a_part_of_the_time_while_trainers_call() -> None:
    pace = Pace(cores=2, receivers=4)
    waited = took = now = 0.0
    for calls in range(1, 200):
        now += 0.002
        pause = pace.pause_s(now, 0, calls, 0.002)
        if calls > 1:  # before the second answer nobody knows whether they call
            took, waited = took + 0.002, waited + pause
        now += pause
    assert took / (took + waited) == pytest.approx(SHARE * 2 / 4)


def test_nobody_waits_for_trainers_that_do_not_call() -> None:
    pace = Pace(cores=2, receivers=4)
    assert [pace.pause_s(k, 0, 7, 0.1) for k in range(5)] == [0.0] * 5
    assert pace.pause_s(6.0, 0, 8, 0.1) > 0
    assert pace.pause_s(6.0 + CALLED_S / 2, 1, 3, 0.1) > 0, "another shard's rows share the same cores"
    assert pace.pause_s(6.1 + CALLED_S, 0, 8, 0.1) == 0.0


def test_nobody_waits_where_there_are_cores_for_all() -> None:
    pace = Pace(cores=16, receivers=3)
    assert [pace.pause_s(k / 100, 0, k, 0.1) for k in range(5)] == [0.0] * 5


def test_a_server_that_stood_still_for_8_s_held_a_move_up_for_a_minute_more() -> None:
    pace = Pace(cores=1, receivers=4)
    pace.pause_s(0.0, 0, 1, 0.1)
    assert pace.pause_s(8.0, 0, 2, 8.0) == MOST_PAUSE_S
