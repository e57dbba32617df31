"""Shards with logs that end at bad moments: one thing at a time."""

import numpy as np
import pytest
from simulation.histories import History
from simulation.lab import ROWS, WIDTH, Lab
from simulation.shards import POINTS, WORST

from rowloom.client import TableSpec
from rowloom.client.calls import operations as ops
from rowloom.proto.errors import PushUnresolved, RowloomError, Unavailable
from rowloom.server.durable.log import Mode
from rowloom.server.states import Waiting

LOGGED = [Mode.PROCESS, Mode.INTERVAL, Mode.DISK]
FAULTS = {"servers die", "network", "clog", "tables", "coordinator dies"}


def start(lab: Lab, operation) -> list:
    out: list = []
    lab.world.operate(lab.session, operation, out.append)
    return out


def ends_with(lab: Lab, operation) -> object:
    return lab.outcome(lambda ended: lab.world.operate(lab.session, operation, ended))


@pytest.mark.parametrize("mode", LOGGED)
def test_no_call_fails_because_a_server_ends(mode: Mode) -> None:
    for seed in range(20):
        History(seed, mode=mode, on=FAULTS, patient=True, scalings=3).finish()


@pytest.mark.parametrize("mode", LOGGED)
@pytest.mark.parametrize("point", ["noted", "written", "covered", "answered", "recovering", "recovered"])
def test_a_push_is_applied_once_wherever_its_server_ends(point: str, mode: Mode) -> None:
    for seed in range(5):
        lab = Lab(seed, 2, mode=mode)
        lab.do(lab.push([0, 1]))
        node = lab.node.shards[1]
        if point.startswith("recover"):
            node.next_lurks = point
            node.kill(0.1)
        else:
            node.lurking = point
        lab.do(lab.push([0, 1]))
        # With `disk` one that has answered ends only while something else is not synced, which here nothing is.
        assert lab.world.injected[f"server killed: {point}"] == ((point, mode) != ("answered", Mode.DISK))
        assert lab.rows()[:3, 0].tolist() == [2, 2, 0]


@pytest.mark.parametrize("point", [p for p in POINTS if p.startswith("received")])
@pytest.mark.parametrize("mode", LOGGED)
def test_a_scaling_whose_receiver_ends_is_made_or_is_not(point: str, mode: Mode) -> None:
    for seed in range(5):
        lab = Lab(seed, 2, mode=mode)
        lab.do(lab.push(list(range(ROWS))))
        lab.node.shards[1].lurking = point
        out = lab.scale(3)
        assert out is None or isinstance(out, Exception)
        lab.do(lab.push(list(range(ROWS))))
        lab.settle()
        assert lab.rows()[:, 0].tolist() == [2] * ROWS
        assert lab.scale(4) is None


def test_a_table_is_made_although_a_shard_is_being_started_again() -> None:
    # It failed with StateLost, which said that the shard's loss should be accepted.
    lab = Lab(1, 2, mode=Mode.PROCESS)
    lab.node.shards[1].kill(None)
    out = lab.change(lab.node.coordinator.create_table(TableSpec("u", ROWS, dim=WIDTH)))
    assert isinstance(out, Unavailable)
    assert "is started again" in str(out)
    lab.settle()
    assert all(len(shard.tables) == 2 for shard in lab.shards())


@pytest.mark.parametrize("away_s", [None, 0.5])
def test_a_server_that_ends_between_the_commit_and_its_adoption_is_adopted_soon(away_s) -> None:
    # The scaling asked it for 300 s, and whoever would have started it again waited for the scaling to end.
    lab = Lab(1, 2, mode=Mode.PROCESS)
    lab.do(lab.push([1, 2, 3]))
    store = lab.node.disk.commit

    def commit(state):
        error = store(state)
        if state.layout is not None and state.layout.epoch == 2:
            lab.node.disk.commit = store
            lab.node.shards[1].kill(away_s)
        return error

    lab.node.disk.commit = commit
    assert lab.scale(3) is None
    begin = lab.world.now
    lab.do(lab.push([1, 2, 3]))
    assert lab.world.now - begin < 15
    assert lab.rows()[:4, 0].tolist() == [0, 2, 2, 2]


def test_a_log_that_cannot_be_read_at_the_moment_is_read_when_it_can() -> None:
    # An error of the system was taken for the loss of the shard, until somebody started its server again.
    lab = Lab(1, 1, mode=Mode.DISK)
    lab.do(lab.push([1]))
    lab.storage.failing[0] = "sync"
    lab.node.shards[0].kill(0.1)
    out = start(lab, lab.push([2]))
    lab.world.run(lambda: lab.world.injected["shard not read from its log"] >= 3)
    assert isinstance(lab.states()[0], Waiting)
    assert not out
    lab.storage.failing.clear()
    lab.world.run(lambda: bool(out))
    assert lab.rows()[:3, 0].tolist() == [0, 1, 1]


def test_a_table_whose_making_is_not_safe_on_a_shard_is_not_taken_for_refused() -> None:
    # The shard said PushUnresolved, the coordinator took that for "will not have it" and dropped the table.
    lab = Lab(1, 1, mode=Mode.DISK)
    lab.storage.failing[0] = "sync"
    assert isinstance(
        lab.change(lab.node.coordinator.create_table(TableSpec("u", ROWS, dim=WIDTH))), Unavailable
    )
    assert list(lab.node.coordinator.state.making) == ["u"]


@pytest.mark.parametrize("failing", ["full", "write", "sync"])
def test_a_log_that_fails_refuses_pushes_and_lets_pulls_go_on(failing: str) -> None:
    lab = Lab(2, 1, mode=Mode.DISK)
    lab.do(lab.push([1]))
    lab.storage.failing[0] = failing
    acked, out = 1, None
    for _ in range(200):
        out = ends_with(lab, lab.push([1], 2.0))
        if out is not None:
            break
        acked += 1
    assert isinstance(out, PushUnresolved)
    assert isinstance(ends_with(lab, lab.push([2], 2.0)), Unavailable)
    assert lab.rows()[1, 0] == acked + 1  # what was applied is shown, and may be gone after a restart
    lab.storage.failing.clear()
    lab.node.shards[0].kill(0.1)
    lab.do(lab.push([2]))
    assert lab.rows()[2, 0] == 1
    assert acked <= lab.rows()[1, 0] <= acked + 1


def test_a_push_that_waits_for_its_log_is_acked_when_the_next_layout_has_it(monkeypatch) -> None:
    # It was told that its outcome is not known, because the log was dropped under it.
    lab = Lab(1, 1, mode=Mode.DISK)
    lab.do(lab.push([1]))
    scribe = lab.node.shards[0].host.journal.scribe
    monkeypatch.setattr(scribe, "_sync", lambda: None)  # the disk stands still
    out = start(lab, lab.push([1]))
    lab.world.run(lambda: bool(scribe._waiting))
    assert lab.scale(2) is None
    lab.world.run(lambda: bool(out))
    assert out == [None]
    assert lab.rows()[1, 0] == 2


def test_a_step_shows_its_push_after_its_server_ended() -> None:
    lab = Lab(3, 2, mode=Mode.DISK)
    lab.node.shards[0].lurking = "noted"
    given = [(lab.entry, np.array([0, 1]), -np.ones((2, WIDTH), np.float32))]
    rows = lab.do(ops.step(lab.session, given, [(lab.entry, np.array([0, 1]))], lab.world.now + 600))
    assert rows[0][:, 0].tolist() == [1, 1]


def test_a_snapshot_is_not_ahead_of_the_log_that_goes_on_from_it(monkeypatch) -> None:
    # The power failed when it was there and a push in it not yet synced: the log ended before it, and was refused.
    lab = Lab(1, 1, mode=Mode.DISK)
    lab.world.linger = 0.0
    lab.do(lab.push([1]))
    scribe = lab.node.shards[0].host.journal.scribe
    monkeypatch.setattr(scribe, "_sync", lambda: None)  # the disk stands still
    start(lab, lab.push([1]))
    lab.world.run(lambda: bool(scribe._waiting))
    taken: list = []
    lab.node.snapshot(taken.append)
    moment = lab.world.now + 5
    lab.world.run(lambda: lab.world.now > moment)
    assert not taken
    lab.node.shards[0].kill(0.1, power=WORST)
    lab.world.run(lambda: bool(taken))
    assert isinstance(taken[0], RowloomError)
    lab.do(lab.push([2]))
    assert lab.rows()[:3, 0].tolist() == [0, 2, 1]
