"""The checker of chaos runs: what it calls wrong is wrong, and nothing that is wrong is passed over."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chaos.check import check
from chaos.history import ACKED, COUNTERS, SLOW_S, History, Plan, Push
from oracle import OracleTable

PLAN = Plan(seed=3, trainers=2, rows=400, own_rows=60)


def as_heard(trainer: int, number: int, push: Push, outcome: bytes) -> list[Push]:
    return [push] if outcome == ACKED else []


def life(
    folder: Path, *heard: bytes, applied: Callable[[int, int, Push, bytes], list[Push]] = as_heard
) -> History:
    """The history of trainers that heard that, and of tables to which `applied` was done in place of each push."""
    history = History(folder)
    history.begin(PLAN)
    counters = np.zeros((PLAN.rows, PLAN.trainers), np.float32)
    for trainer, events in enumerate(heard):
        history.heard(trainer).write_bytes(events)
        own = OracleTable(PLAN.own(trainer))
        for number, (push, outcome) in enumerate(history.outcomes(trainer)):
            for one in applied(trainer, number, push, outcome):
                np.add.at(counters[:, trainer], one.ids, one.amounts)
                own.push(one.own_ids, one.own_grads)
        history.save_table(own.spec.name, own.pull(np.arange(PLAN.own_rows)))
    history.save_table(COUNTERS, counters)
    return history


def of_one(copies: int) -> Callable[[int, int, Push, bytes], list[Push]]:
    """The 5th push of trainer 1 was applied so often; all others as they were heard."""

    def applied(trainer: int, number: int, push: Push, outcome: bytes) -> list[Push]:
        return [push] * copies if (trainer, number) == (1, 4) else as_heard(trainer, number, push, outcome)

    return applied


def test_a_run_in_which_each_push_is_there_once_is_good(tmp_path):
    verdict = check(life(tmp_path, b"ba" * 30, b"ba" * 20))
    assert verdict.good(disk_failed=False)
    assert (verdict.pushes, verdict.acked) == (50, 50)


@pytest.mark.parametrize(("copies", "word"), [(0, "lost"), (2, "doubled")])
def test_a_push_that_is_lost_or_there_twice_is_found_and_named(tmp_path, copies, word):
    verdict = check(life(tmp_path, b"ba" * 30, b"ba" * 20, applied=of_one(copies)))
    assert not verdict.good(disk_failed=True)
    assert getattr(verdict, word) > 0
    assert verdict.wrong_rows > 0
    assert all(name.startswith(f"trainer 1, push 4: {word} for ids") for name in verdict.named)


@pytest.mark.parametrize("heard", [b"ba" * 4 + b"bu" + b"ba" * 6, b"ba" * 4 + b"b"])
@pytest.mark.parametrize("copies", [0, 1])
def test_a_push_that_nobody_knows_of_may_be_there_or_not(tmp_path, heard, copies):
    verdict = check(life(tmp_path, b"ba" * 9, heard, applied=of_one(copies)))
    assert verdict.good(disk_failed=True)
    assert not verdict.good(disk_failed=False)
    assert verdict.unresolved == 1


def test_a_push_that_nobody_knows_of_may_not_be_there_twice_or_in_part(tmp_path):
    heard = b"ba" * 4 + b"bu" + b"ba" * 6
    twice = check(life(tmp_path / "twice", b"", heard, applied=of_one(2)))
    assert not twice.good(disk_failed=True)

    def a_part(trainer: int, number: int, push: Push, outcome: bytes) -> list[Push]:
        if number != 4:
            return [push]
        mine = [0, *np.flatnonzero(push.ids % 12 == push.ids[0] % 12)[2:]]
        return [Push(push.ids[mine], push.amounts[mine], push.own_ids, push.own_grads, push.pulls)]

    torn = check(life(tmp_path / "torn", b"", heard, applied=a_part))
    assert torn.torn == 1
    assert not torn.good(disk_failed=True)


def test_a_call_that_failed_is_wrong_and_changes_nothing(tmp_path):
    heard = b"ba" * 4 + b"bf" + b"ba" * 6
    verdict = check(life(tmp_path / "not", b"", heard))
    assert (verdict.failed, verdict.wrong_counters) == (1, 0)
    assert not verdict.good(disk_failed=True)
    assert check(life(tmp_path / "applied", b"", heard, applied=of_one(1))).wrong_counters > 0


def test_pushes_in_another_order_leave_other_bits(tmp_path):
    numbers = [*range(200)][::-1]

    def backwards(trainer: int, number: int, push: Push, outcome: bytes) -> list[Push]:
        return [PLAN.push(trainer, numbers[number])]

    verdict = check(life(tmp_path, b"ba" * 200, b"", applied=backwards))
    assert (verdict.lost, verdict.doubled, verdict.wrong_counters) == (0, 0, 0)
    assert verdict.wrong_rows > 0


def test_one_bit_and_one_wrong_pull_are_enough(tmp_path):
    history = life(tmp_path, b"ba" * 9, b"ba" * 9)
    rows = history.table("own-1")
    rows.view(np.uint32)[7, 1] ^= 1
    history.save_table("own-1", rows)
    assert check(history).wrong_rows == 1
    history.heard(0).write_bytes(b"ba" * 3 + b"baw" + b"ba" * 5)
    verdict = check(history)
    assert (verdict.pushes, verdict.wrong_reads) == (18, 1)
    assert not verdict.good(disk_failed=True)


def test_the_longest_call_is_found_among_those_that_were_under_way_then(tmp_path):
    history = History(tmp_path)
    history.begin(Plan(seed=1, trainers=2))
    assert history.longest_s(0.0, 99.0) == SLOW_S
    history.slow(0).write_text("10.0 5.0\n20.0 0.5\n")
    history.slow(1).write_text("14.0 2.0\n")
    assert history.longest_s(15.5, 30.0) == 2.0
    assert history.longest_s(14.5, 30.0) == 5.0
    assert history.longest_s(16.5, 30.0) == 0.5
