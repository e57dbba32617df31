"""A standby takes the log of its shard: nothing is lost, also where everybody ends afterwards."""

import pytest
from simulation.broken_standbys import in_step, lab_in_step, primary
from simulation.broken_successions import BUILDS, EVERY, SCENES, all_end

from rowloom.server.durable.log import Mode

LOGGED = [Mode.PROCESS, Mode.INTERVAL, Mode.DISK]


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("mode", LOGGED, ids=lambda mode: mode.value)
def test_standbys_and_logs_take_turns_and_nothing_is_lost(mode: Mode, waits: bool) -> None:
    lab = lab_in_step(4, 2, waits=waits, mode=mode)
    for count in range(1, 4):
        lab.do(lab.push(EVERY))
        primary(lab, 0).kill(None)
        assert set(lab.rows()[:, 0]) == {count}
        in_step(lab)
        all_end(lab)
        assert set(lab.rows()[:, 0]) == {count}
        in_step(lab)
    assert lab.node.taken_over == 3
    assert lab.world.injected["shard read from its log"] == 6


def test_standbys_that_come_and_go_leave_the_log_as_it_is() -> None:
    lab = lab_in_step(5, 1, mode=Mode.PROCESS)
    lab.do(lab.push(EVERY))
    assert lab.replicate(0) is None
    lab.settle()
    primary(lab, 0).kill(None)
    lab.do(lab.push(EVERY))
    assert lab.replicate(1) is None
    in_step(lab)
    primary(lab, 0).kill(None)
    lab.do(lab.push(EVERY))
    assert set(lab.rows()[:, 0]) == {3}
    assert lab.node.taken_over == 1


def test_rows_that_moved_have_logs_that_the_new_standbys_take() -> None:
    lab = lab_in_step(8, 2, mode=Mode.DISK)
    lab.do(lab.push(EVERY))
    assert lab.scale(3) is None
    in_step(lab)
    for index in range(3):
        primary(lab, index).kill(None)
    lab.do(lab.push(EVERY))
    in_step(lab)
    all_end(lab)
    assert set(lab.rows()[:, 0]) == {2}
    assert lab.node.taken_over == 3


def test_a_snapshot_of_before_and_the_log_that_a_standby_went_on_with_are_read_together() -> None:
    lab = lab_in_step(6, 1, mode=Mode.PROCESS)
    lab.do(lab.push(EVERY))
    assert set(lab.snapshot().values()) == {1.0}
    lab.do(lab.push(EVERY))
    primary(lab, 0).kill(None)
    lab.do(lab.push(EVERY))
    in_step(lab)
    all_end(lab)
    assert set(lab.rows()[:, 0]) == {3}
    in_step(lab)
    assert set(lab.snapshot().values()) == {3.0}


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_nothing_is_lost_and_nobody_is_told_what_is_no_more_where(scene) -> None:
    scene()


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
def test_a_broken_succession_is_noticed_that(build, monkeypatch) -> None:
    build(monkeypatch)
    with pytest.raises(AssertionError):
        BUILDS[build]()
