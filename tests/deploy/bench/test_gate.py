"""The speed gate: whose turn it is, what the ratios say, and one small run of the whole."""

import sys

import gate
import numpy as np
import pytest
from ratios import AFTER, BEFORE, EXCEEDED, NOISE, OK, Round, bound_of, compare, interval, turns, verdict


def rounds(times: list[float]) -> list[Round]:
    return [Round(time, time / 2) for time in times]


def test_each_version_has_two_turns_in_a_round_and_a_steady_drift_cancels_out():
    for number in range(4):
        when = np.array(turns(number))
        assert np.flatnonzero(when == BEFORE).sum() == np.flatnonzero(when == AFTER).sum() == 3


def test_rounds_begin_with_each_version_in_turn():
    assert [turns(number)[0] for number in range(4)] == [BEFORE, AFTER, BEFORE, AFTER]


def test_only_an_interval_that_is_all_above_the_bound_exceeds_it():
    assert verdict(1.031, 1.2, 1.03) == EXCEEDED
    assert verdict(1.03, 1.2, 1.03) == NOISE
    assert verdict(0.9, 1.031, 1.03) == NOISE
    assert verdict(0.9, 1.03, 1.03) == OK


def test_small_batches_may_become_slower_by_more():
    assert [bound_of(batch) for batch in (1, 16, 17, 65_536)] == [1.08, 1.08, 1.03, 1.03]


def test_the_interval_holds_the_median_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        low, high = interval(rng.lognormal(0.0, 0.1, 15).tolist())
        held += low <= 1.0 <= high
    assert 170 <= held <= 198  # 180 of 200, and the bootstrap of a median is a little wide


def test_the_same_ratios_give_the_same_interval():
    ratios = [1.0, 1.1, 0.9, 1.3, 1.05]
    assert interval(ratios) == interval(ratios)


def test_weather_that_both_versions_saw_does_not_count():
    weather = [1.0, 9.0, 2.0, 5.0, 1.5, 30.0]
    found = compare(rounds([100 * w for w in weather]), rounds([101 * w for w in weather]), 1024)
    assert found.ratio == pytest.approx(1.01)
    assert found.verdict == OK
    assert found.low == pytest.approx(found.high)


def test_a_version_that_is_slower_in_every_round_is_found_under_any_weather():
    rng = np.random.default_rng(1)
    weather = rng.lognormal(0.0, 1.0, 15)
    slower = 1.2 * weather * rng.lognormal(0.0, 0.03, 15)
    found = compare(rounds((100 * weather).tolist()), rounds((100 * slower).tolist()), 16)
    assert found.verdict == EXCEEDED
    assert found.ratio == pytest.approx(1.2, rel=0.03)
    assert found.after_cpu_us > found.before_cpu_us


def test_a_round_is_the_median_of_its_calls_and_the_mean_of_their_cpu():
    found = Round.of([{"call_ns": [1000, 2000], "cpu_ns": 4000}, {"call_ns": [90_000], "cpu_ns": 2000}])
    assert found == Round(call_us=2.0, cpu_us=2.0)


def test_fewer_rounds_than_an_interval_needs_are_refused():
    with pytest.raises(ValueError, match="rounds must be at least 5 for a 90 % interval, got 4"):
        gate.Gate(sys.executable, rounds=4)


def test_both_versions_get_the_same_ids():
    first, second = (gate.make_inputs((16, 1024), 5000) for _ in range(2))
    assert set(first) == {"16", "1024", "bags", "tables", "grads", "tables_grads"}
    for name, array in first.items():
        assert np.array_equal(array, second[name]), name
    assert first["1024"].shape == (8, 1024)
    assert 0 <= first["bags"].min() <= first["bags"].max() < 5000


@pytest.mark.parametrize(("again", "word"), [(1.0, OK), (1.4, EXCEEDED)])
def test_what_seems_slower_is_measured_once_more_and_that_counts(monkeypatch, again, word):
    looks = []

    def look(_gate, cases, _stages):
        looks.append(cases)
        slow = 1.5 if len(looks) == 1 else again
        times = {case: 100 * (slow if case.batch == 16 else 1) for case in cases}
        found = {case: compare(rounds([100] * 5), rounds([time] * 5), 16) for case, time in times.items()}
        return {"before": "a", "after": "b"}, found

    monkeypatch.setattr(gate.Gate, "_look", look)
    found = gate.Gate("python", carriers=("tcp",), batches=(16, 1024)).run(quiet=True)
    assert [case.batch for case in looks[1]] == [16, 16, 16]
    assert {case["verdict"] for case in found["cases"] if case["batch"] == 16} == {word}
    assert {case["looks"] for case in found["cases"] if case["batch"] == 16} == {2}
    assert {case["looks"] for case in found["cases"] if case["batch"] != 16} == {1}
    assert "exceeded" in gate.table_of(found)


@pytest.mark.slow
def test_a_version_beside_itself_is_measured_in_every_case(monkeypatch):
    monkeypatch.setattr(gate, "BLOCK_S", 0.001)
    found = gate.Gate(sys.executable, rounds=5, carriers=("auto",), batches=(16,), rows=1000).run(quiet=True)
    assert found["before"] == found["after"]
    assert [case["op"] for case in found["cases"]] == [
        *("pull", "push", "step", "pull_bags", "push_bags"),
        *("pull_tables", "push_tables", "step_tables"),
    ]
    assert all(case["before_us"] > 0 and case["after_cpu_us"] > 0 for case in found["cases"])


def test_a_worker_that_fails_says_why():
    with (
        gate.Worker(sys.executable, ".") as worker,
        pytest.raises(RuntimeError, match="'warm_up' came before"),
    ):
        worker.ask("warm_up", case=0)
