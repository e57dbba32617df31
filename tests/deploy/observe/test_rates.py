"""Rates, times and skew from two looks at the counters."""

import pytest
from busy_shards import counts, status

from rowloom.deploy.observe.rates import activity, quantile_s
from rowloom.proto import rowloom_pb2 as pb
from rowloom.server.metrics.traffic import BOUNDS_S


def test_a_quantile_lies_between_the_bounds_of_its_calls():
    assert quantile_s(counts(), 0.5) is None
    assert quantile_s(counts(_0=100), 0.5) == pytest.approx(BOUNDS_S[0] / 2)
    assert quantile_s(counts(_0=50, _3=50), 0.5) == pytest.approx(BOUNDS_S[0])
    assert BOUNDS_S[2] < quantile_s(counts(_0=50, _3=50), 0.99) <= BOUNDS_S[3]
    assert quantile_s([*counts()[:-1], 5], 0.5) == BOUNDS_S[-1]


def test_rates_are_over_the_time_between_two_looks():
    state = activity(status(12.0, (300, 100), 4), status(10.0, (100, 100), 2))
    assert [s["pulled_rows_per_s"] for s in state["shards"]] == [100.0, 0.0]
    assert state["shards"][0]["sent_bytes_per_s"] == 800
    assert state["shards"][0]["calls_per_s"] == 1.0
    (users,) = state["tables"]
    assert (users["pulled_rows_per_s"], users["pushed_rows_per_s"], users["rows"]) == (100.0, 0.0, 14)
    assert 1e3 * BOUNDS_S[1] < users["pull"]["p50_ms"] <= 1e3 * BOUNDS_S[2]
    assert users["push"]["p50_ms"] is None


def test_skew_is_how_much_busier_than_the_mean_the_busiest_shard_is():
    assert activity(status(1.0, (300, 100)))["tables"][0]["skew"] == 1.5
    assert activity(status(1.0, (100, 100)))["tables"][0]["skew"] == 1.0
    assert activity(status(1.0, (0, 0)))["tables"][0]["skew"] is None


def test_a_shard_that_started_anew_or_does_not_answer_spoils_no_rate():
    earlier, now = status(100.0, (10**6, 10**6)), status(2.0, (100, 100))
    for shard in now.shards:
        shard.shard.incarnation += 10
    now.shards.add(health="dead").shard.index = 2
    state = activity(now, earlier)
    assert [s["pulled_rows_per_s"] for s in state["shards"]] == [50.0, 50.0, 0.0]
    assert state["tables"][0]["pulled_rows_per_s"] == 100.0


def test_a_move_says_how_many_rows_are_left():
    now = status(1.0, (0, 0))
    assert activity(now)["move"] is None
    now.scaling.CopyFrom(pb.ScaleReply(state="moving", rows=30, rows_total=100, seconds=1.5))
    assert (
        activity(now)["move"].items()
        >= {"state": "moving", "rows": 30, "rows_left": 70, "seconds": 1.5, "eta_s": None}.items()
    )
    now.scaling.rows_per_s, now.scaling.left = 35.0, 70
    now.scaling.arrivals.add(shard=2, rows=30)
    move = activity(now)["move"]
    assert (move["eta_s"], move["pass_left"], move["arrivals"]) == (2.0, 70, [{"shard": 2, "rows": 30}])
    now.scaling.state = "finishing"  # pushes wait: what the last pass was like says nothing of this one
    assert activity(now)["move"]["eta_s"] is None
