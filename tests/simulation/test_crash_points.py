"""Every point at which a log, a snapshot or a recovery can be interrupted: what was acknowledged is there.

Each call of the disk, and each step of a snapshot, is a point; it is ended by a kill, or fails with EIO or ENOSPC;
once, or once more while what it left is recovered.
"""

import errno
import re
from collections.abc import Callable

import pytest
from simulation.cluster import Died
from simulation.lab import ROWS, Lab
from simulation.shards import ShardNode
from virtual_disk import Crash

from rowloom.client.calls.cutting import RequestSizes
from rowloom.deploy.control.state import KnownSnapshot
from rowloom.proto import methods
from rowloom.proto.errors import Rerouted, RowloomError, StateLost, Unavailable
from rowloom.server.durable.log import Mode
from rowloom.server.snapshots.target import ObjectTarget

# What the points of a log are called, and the calls of the disk that they are.
POINTS = {
    "in the middle of a record": ("pwritev", "wal-"),
    "a record is written and not synced": ("fdatasync", "wal-"),
    "a new segment is made": ("create", r"spare-\d+\.new"),
    "a new segment is filled": ("pwritev", r"spare-\d+\.new"),
    "a new segment is synced": ("fdatasync", r"spare-\d+\.new"),
    "a new segment gets its name": ("rename", r"spare-\d+\.new"),
    "the head of a segment is written": ("pwritev", r"spare-\d+\.log"),
    "the head of a segment is synced": ("fdatasync", r"spare-\d+\.log"),
    "a segment becomes the log's last": ("rename", r"spare-\d+\.log"),
    "the folder names its newest segment": ("rename", "newest-"),
    "a segment is used again": ("rename", "wal-"),
    "the folder says where the log ended": ("create", "ended-"),
    "the folder says no more where the log ended": ("unlink", "ended-"),
    "names are made durable": ("sync_folder", "shard-"),
}
FAULTS = {"kill": None, "EIO": errno.EIO, "ENOSPC": errno.ENOSPC}
each_fault = pytest.mark.parametrize("fault", FAULTS)
VICTIM = 1


class Interrupted:
    """A cluster of which one shard is interrupted at calls of its disk.

    Args:
        fault: of FAULTS.
        at: at which call of the disk it comes first; 0: never.
        again: at which call of the process that recovers it comes once more; 0: never.

    Attributes:
        hit: (method, file) of the calls that were interrupted.
    """

    def __init__(self, fault: str, at: int = 0, again: int = 0) -> None:
        self.lab = lab = Lab(3, 2, mode=Mode.DISK)
        lab.world.linger, lab.session.sizes = 0.0, RequestSizes()
        assert lab.storage.segment_bytes == 8192  # small, so that there are many
        lab.storage.slow_s = 0.001
        self.hit: list[tuple[str, str]] = []
        self.calls: list[tuple[str, str]] = []
        self._error = FAULTS[fault]
        self._left = [at, again]
        self._of: object = None
        self.acked = self.attempted = 0
        self._node = lab.node.shards[VICTIM]
        self._watch()

    @property
    def node(self) -> ShardNode:
        node = self.lab.node  # there is none while another one takes its place
        self._node = node.shards.get(node.coordinator.state.keys[VICTIM], self._node)
        return self._node

    def _watch(self) -> None:
        """The process of the moment."""
        self._of = self.node._files
        self.node._files.before = self._before

    def _before(self, method: str, name: str) -> int | None:
        self.calls.append((method, name))
        which = len(self.hit)
        if which < len(self._left) and self._left[which]:
            self._left[which] -= 1
            if not self._left[which]:
                self.hit.append((method, name))
                if self._error is not None:
                    raise OSError(self._error, "injected", name)
                if method == "pwritev":
                    return 100
                raise Crash
        return None

    def run(self) -> None:
        """A life with two snapshots, and more pushes; whatever ends is started again."""
        for part in range(3):
            for _ in range(7):
                self._push()
            if part < 2:
                outcome = self.lab.outcome(self.lab.node.snapshot)
                assert isinstance(outcome, RowloomError) or not isinstance(outcome, Exception)
                self._mend()
        self.node.kill(0.1)
        self._mend()
        self._push()
        self._close()
        self._mend()
        self._push()
        self.lab.settle()

    def _close(self) -> None:
        """The server is stopped, and another one is started."""
        node = self.node
        self.lab.world.run(lambda: not (node.alive and node.host.journal and node.host.journal.users))
        if node.alive and node.host.journal is not None:
            node.close(0.1)

    def _push(self) -> None:
        self.attempted += 1
        begin = self.lab.world.now
        outcome = self.lab.outcome(
            lambda ended: self.lab.world.operate(
                self.lab.session, self.lab.push(list(range(ROWS)), 30.0), ended
            )
        )
        self.acked += outcome is None
        assert outcome is None or isinstance(outcome, RowloomError)
        assert self.lab.world.now < begin + 60
        self._mend()

    def _mend(self) -> None:
        """Start again whoever has ended, or has a log that failed, until it serves."""
        for _ in range(4):
            journal = self.node.host.journal
            if self.node.alive and journal is not None and journal.scribe.log.error is not None:
                self.node.kill(0.1)
            self.lab.world.run(lambda: self.node.alive)
            if self._of is not self.node._files:
                self._watch()
            self.lab.world.run(lambda: not self.node.alive or self.node.host.state.word == "serving", 60)
            if self.node.alive and self._of is self.node._files:
                return

    def check(self) -> None:
        rows = self.lab.rows()
        assert (rows == rows[:, :1]).all()
        for shard in range(2):
            (count,) = set(rows[shard::2, 0].tolist())
            assert self.acked <= count <= self.attempted, f"{self.acked} acked, {count} there"


def calls_of(interrupted: Interrupted) -> list[tuple[str, str]]:
    interrupted.run()
    interrupted.check()
    return interrupted.calls


@pytest.fixture(scope="module")
def calls() -> list[tuple[str, str]]:
    """Of a life that nothing interrupts."""
    return calls_of(Interrupted("kill"))


def points_of(calls: list[tuple[str, str]], point: str) -> list[int]:
    method, name = POINTS[point]
    return [k for k, (m, n) in enumerate(calls, 1) if m == method and re.match(name, n)]


@each_fault
@pytest.mark.parametrize("point", POINTS)
def test_what_was_acknowledged_is_there_wherever_a_log_is_interrupted(point: str, fault: str, calls) -> None:
    places = points_of(calls, point)
    assert places, f"no call of the disk is {point!r}"
    for at in places[:: max(1, len(places) // 8)]:
        life = Interrupted(fault, at)
        life.run()
        life.check()
        assert life.hit == [calls[at - 1]]


@each_fault
@pytest.mark.parametrize("point", POINTS)
def test_it_is_there_when_its_recovery_is_interrupted_in_the_same_way(point: str, fault: str, calls) -> None:
    hits = set()
    for k, at in enumerate(points_of(calls, point)[::3]):
        for again in (1 + k % 2, 3 + k % 3):
            life = Interrupted(fault, at, again)
            life.run()
            life.check()
            hits.update(life.hit[1:])
    assert hits


# What the coordinator asks of shards for a snapshot; and what a shard writes of it.
STEPS = [methods.FREEZE, methods.CUT, methods.CUT_PROGRESS, methods.TRIM_LOG, methods.ADOPT]


def the_next(lab: Lab) -> KnownSnapshot:
    """A snapshot, once there can be one."""
    for _ in range(10):
        lab.settle()
        outcome = lab.outcome(lab.node.snapshot)
        if isinstance(outcome, KnownSnapshot):
            return outcome
        assert isinstance(outcome, Unavailable | StateLost | Rerouted | Died), outcome
        moment = lab.world.now + 2
        lab.world.run(lambda moment=moment: lab.world.now > moment)
    raise AssertionError("no snapshot can be taken any more")


def snapshot_after(lab: Lab, interrupt: Callable[[], object]) -> None:
    """A snapshot that is interrupted; then pushes go on, and the next one is whole."""
    rows = list(range(ROWS))
    lab.do(lab.push(rows))
    lab.snapshot()
    lab.do(lab.push(rows))
    interrupt()
    outcome = lab.outcome(lab.node.snapshot)
    lab.do(lab.push(rows))
    if not isinstance(outcome, RowloomError | Died):
        assert set(Lab.rows_in(outcome.url).values()) == {2}
    assert set(Lab.rows_in(the_next(lab).url).values()) == {3}
    assert set(lab.rows()[:, 0].tolist()) == {3}
    for node in lab.node.shards.values():
        node.kill(0.1)
    assert set(lab.rows()[:, 0].tolist()) == {3}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("hears", ["nobody", "the coordinator"])
@pytest.mark.parametrize("mode", [Mode.PROCESS, Mode.DISK])
def test_a_shard_that_ends_at_a_step_of_a_snapshot_stops_neither_pushes_nor_the_next_one(
    step, hears, mode
) -> None:
    for shard in range(2):
        lab = Lab(7 + shard, 2, mode=mode)
        lab.world.linger = 0.0

        def interrupt(lab=lab, shard=shard) -> None:
            node, done = lab.node.shards[shard], []
            inner = lab.world.nodes[node.address]

            def watched(method, data, answer):
                if method != step or done:
                    inner(method, data, answer)
                    return
                done.append(method)
                inner(method, data, answer if hears == "the coordinator" else lambda _: None)
                node.die()

            lab.world.nodes[node.address] = watched

        snapshot_after(lab, interrupt)


def test_a_coordinator_that_ends_at_any_step_of_a_snapshot_stops_neither_pushes_nor_the_next_one() -> None:
    died = 0
    for effect in range(1, 25):
        lab = Lab(effect, 2, mode=Mode.DISK)
        lab.world.linger = 0.0
        snapshot_after(lab, lambda lab=lab, effect=effect: setattr(lab.node, "doom", effect))
        died += lab.world.injected["coordinator died"]
    assert died == 24


@each_fault
@pytest.mark.parametrize("times", [1, 2])
def test_a_snapshot_that_cannot_be_written_at_any_file_is_none_and_the_next_one_is_whole(
    fault: str, times: int, monkeypatch
) -> None:
    put, failed = ObjectTarget.put, 0
    for place in range(1, 12):
        lab = Lab(place, 2, mode=Mode.DISK)
        lab.world.linger = 0.0
        left = [0, 0]  # files until it fails, how often it does then

        def failing(self, name, buffers, left=left) -> None:
            nonlocal failed
            left[0] -= 1
            if left[0] <= 0 < left[1]:
                left[1] -= 1
                failed += 1
                shard = name.startswith("shard-")  # the others are the coordinator's, which ends otherwise
                raise (
                    OSError(FAULTS[fault] or errno.EIO, "injected", name)
                    if FAULTS[fault] or not shard
                    else Crash
                )
            put(self, name, buffers)

        monkeypatch.setattr(ObjectTarget, "put", failing)
        snapshot_after(lab, lambda left=left, place=place: left.__setitem__(slice(None), [place, times]))
    assert failed > 5
