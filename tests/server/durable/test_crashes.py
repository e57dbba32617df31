"""Whatever was acknowledged is read back, after a crash at any moment, and nothing that was never appended."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_life import LogLife, fails_at
from virtual_disk import Crash

from rowloom.proto.errors import Unavailable
from rowloom.server.durable.log import Mode

MODES = st.sampled_from([Mode.PROCESS, Mode.INTERVAL, Mode.DISK])
SIZES = st.one_of(st.integers(0, 1500), st.sampled_from([0, 8, 3000, 4040, 6000]))
OPS = st.one_of(
    st.tuples(st.just("append"), SIZES),
    st.tuples(st.just("append"), st.just(800)),
    st.tuples(st.sampled_from(["write", "write", "write", "wait", "recycle", "sync"]), st.integers(0, 9)),
)
# (steps, call of the system at which it crashes, bytes of a write that are then done, whether power is lost)
LIVES = st.lists(
    st.tuples(st.lists(OPS, max_size=40), st.integers(1, 60), st.integers(0, 2000), st.booleans()),
    min_size=1,
    max_size=4,
)


@given(MODES, LIVES, st.integers(0, 2**32), st.booleans())
def test_a_crash_at_any_moment_loses_nothing_acknowledged_and_invents_nothing(mode, lives, seed, salted):
    life = LogLife(mode, seed, salted)
    for steps, crash_at, torn, power in lives:
        life.disk.before = fails_at(crash_at, torn)
        for op, n in steps:
            if not life.do(op, n):
                break
        life.crash(power and mode is not Mode.PROCESS)
        life.open()
    life.crash(False)
    life.open()


@given(MODES, LIVES, st.integers(0, 2**32), st.integers(1, 12), st.integers(0, 2000))
def test_a_crash_while_a_log_is_repaired_is_like_any_other(mode, lives, seed, crash_at, torn):
    life = LogLife(mode, seed)
    for steps, _, _, power in lives:
        for op, n in steps:
            life.do(op, n)
        life.crash(power and mode is not Mode.PROCESS)
        for again in range(3):
            life.disk.before = fails_at(crash_at + again, torn)
            try:
                life.open()
                break
            except Crash:
                lost = power and mode is not Mode.PROCESS
                life.disk = life.disk.without_power(life.rng) if lost else life.disk.killed()
        else:
            life.disk.before = lambda method, name: None
            life.open()


@given(
    MODES,
    # (steps, call of the system at which closing it crashes, or that of opening it, whether power is lost then)
    st.lists(
        st.tuples(st.lists(OPS, max_size=30), st.integers(1, 12), st.integers(1, 20), st.booleans()),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 2**32),
    st.integers(0, 2000),
)
def test_a_log_that_was_closed_is_there_to_its_end_and_is_never_refused(mode, lives, seed, torn):
    life = LogLife(mode, seed)
    for steps, close_at, open_at, power in lives:
        for op, n in steps:
            life.do(op, n)
        life.disk.before = fails_at(close_at, torn)
        try:
            closed = life.close()
        except Crash:
            closed = False
        # All is on disk once it is closed: no mode loses anything with the power.
        life.crash(power and (closed or mode is not Mode.PROCESS), closed=closed)
        life.disk.before = fails_at(open_at, torn)
        try:
            life.open()
        except Crash:
            life.disk = life.disk.without_power(life.rng) if power and closed else life.disk.killed()
            life.disk.before = lambda method, name: None
            life.open()
        life.disk.before = lambda method, name: None


@given(
    MODES,
    st.lists(OPS, max_size=60),
    st.integers(1, 60),
    st.sampled_from([errno.EIO, errno.ENOSPC]),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_a_call_of_the_system_that_fails_never_leads_to_an_acknowledgement(
    mode, steps, at, error, seed, power
):
    life = LogLife(mode, seed)
    life.disk.before = fails_at(at, OSError(error, "injected"))
    failed_at = None
    for op, n in steps:
        life.do(op, n)
        if life.log.error is not None:
            failed_at = life.log.lsn if failed_at is None else failed_at
            assert life.log.lsn == failed_at, "a log that failed takes no more"
    life.crash(power and mode is not Mode.PROCESS)
    life.open()


@given(
    MODES,
    st.lists(OPS, max_size=40),
    st.integers(1, 40),
    st.sampled_from([errno.EIO, errno.ENOSPC]),
    st.lists(OPS, max_size=40),
    st.tuples(st.integers(1, 60), st.integers(0, 2000), st.booleans()),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_a_log_that_failed_goes_on_behind_a_snapshot_and_crashes_like_any_other(
    mode, steps, at, error, more, crash, seed, salted
):
    life = LogLife(mode, seed, salted)
    life.disk.before = fails_at(at, OSError(error, "injected"))
    for op, n in steps:
        life.do(op, n)
    if life.log.error is None or not life.writer._opened:  # a log without a file has been taken away: refused
        return
    crash_at, torn, power = crash
    life.disk.before = fails_at(crash_at, torn)
    try:
        assert life.renew()
        for op, n in more:
            if not life.do(op, n):
                break
    except Crash:
        pass
    life.crash(power and mode is not Mode.PROCESS)
    if not power or mode is not Mode.INTERVAL:  # else it may lack what was acknowledged a moment before
        life.check_without_the_last_snapshot()
    life.disk = life.disk.killed()
    life.open()
    for op, n in more:
        life.do(op, n)
    life.crash(False)
    life.open()


def test_a_log_whose_next_segments_could_not_be_made_goes_on_behind_the_one_that_is_there():
    life = LogLife(Mode.DISK)
    for _ in range(4):
        life.append(3000)  # a segment for each
    life.write(0)

    def full(method: str, name: str) -> None:
        if method == "create":
            raise OSError(errno.ENOSPC, name)

    life.disk.before = full
    assert not life.do("write", 0)
    life.disk.before = lambda method, name: None
    assert life.renew()
    assert life.append(10).lsn == 5
    assert life.do("write", 0)
    assert life.do("wait", 0)
    life.crash(True)
    life.open()
    assert len(life.history) == 5


def test_a_log_that_failed_does_not_go_on_while_its_disk_fails():
    life = LogLife(Mode.DISK)
    life.append(10), life.write(0)
    life.disk.before = lambda method, name: (_ for _ in ()).throw(OSError(errno.EIO, name))
    assert not life.do("wait", 0)
    for _ in range(2):
        assert not life.renew()
        with pytest.raises(Unavailable, match="its log failed"):
            life.writer.check()
    life.disk.before = lambda method, name: None
    assert life.renew()
    assert life.append(20).lsn == 2
    assert life.do("write", 0)
    assert life.do("wait", 0)
    life.crash(True)
    life.open()
    assert len(life.history) == 2


@pytest.mark.parametrize("mode", [Mode.PROCESS, Mode.DISK])
def test_segments_that_are_needed_no_more_are_used_again(mode):
    life = LogLife(mode)
    for _ in range(40):
        life.append(1500), life.append(700)
        life.write(1), life.write(0)
        life.wait(-1)
        life.recycle(-1)
    made = sum(method == "create" for method, _ in life.disk.calls)
    life.crash(False)
    life.open()
    assert len(life.history) == 80
    assert made <= 3, "one in use, and one that is made while its predecessor is still needed"
    assert len(life.disk.names_live) <= 5


def test_records_of_a_files_earlier_life_are_not_taken_for_new_ones():
    # Same sizes, no salt: they are whole, and at the very places where new ones would be.
    life = LogLife(Mode.DISK, salted=False)
    for _ in range(9):
        for _ in range(4):
            life.append(960)
        for _ in range(4):
            life.write(0)
        life.wait(-1)
        life.recycle(-1)
    life.crash(False)
    life.open()
    assert life.dropped == 0


def test_a_later_record_that_is_whole_does_not_make_a_torn_one_damage():
    life = LogLife(Mode.DISK)
    life.append(100), life.append(100), life.append(100)
    life.write(0)
    life.wait(0)
    life.write(1)  # the third; the second is never written
    life.crash(False)
    life.open()
    assert (len(life.history), life.dropped) == (1, 2 * 160)


def test_what_was_dropped_does_not_come_back_when_the_log_grows_over_it():
    # The dropped record has the next number and the next offset, as soon as the one before it is written anew.
    life = LogLife(Mode.PROCESS)
    life.append(100), life.append(200)
    life.write(1)
    life.crash(False)
    life.open()
    life.append(100)
    life.write(0)
    life.wait(0)
    life.crash(False)
    life.open()
    assert len(life.history) == 1


def test_what_a_recovery_could_not_sync_is_not_gone_with_the_power_after_the_next() -> None:
    life = LogLife(Mode.DISK)
    for _ in range(3):
        life.append(100)
        life.write(0)
    life.crash(power=False)  # written, not synced, not acknowledged

    def broken(method: str, name: str) -> None:
        if method == "fdatasync":
            raise OSError(errno.EIO, "broken")

    life.disk.before = broken
    with pytest.raises(OSError, match="broken"):
        life.open()
    life.disk = life.disk.killed()
    life.disk.before = lambda method, name: None
    life.open()  # the system takes the pages of the sync that failed for written
    life.append(100)
    life.write(0)
    life.wait(0)
    life.note()
    for _ in range(8):
        life.crash(power=True)
        life.disk.before = lambda method, name: None
        life.open()
    assert len(life.history) == 4
