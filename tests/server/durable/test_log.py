"""What may be acknowledged, by mode, and what never will be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowloom.proto.errors import PushUnresolved, Unavailable
from rowloom.server.durable.extents import LogEnd, SegmentExtent
from rowloom.server.durable.log import Log, Mode
from rowloom.server.durable.records import HEAD_BYTES, Kind

SMALL = 8192
ERROR = OSError(28, "No space left on device")


EMPTY = LogEnd()


def new(mode=Mode.PROCESS, end=EMPTY):
    return Log(mode, end, SMALL)


def test_records_lie_one_after_the_other_and_are_numbered():
    log = new()
    first, second = log.append(Kind.PUSH, 10), log.append(Kind.SET_LR, 0, rows_after=4, fold=9)
    assert (first.lsn, first.offset, first.end) == (1, 0, HEAD_BYTES + 16)
    assert (second.lsn, second.offset, second.end) == (2, first.end, first.end + HEAD_BYTES)
    assert (second.head.kind, second.head.rows_after, second.head.fold) == (Kind.SET_LR, 4, 9)
    assert (first.place, second.place) == (4096, 4096 + first.end)


def test_a_record_that_does_not_fit_begins_the_next_segment():
    log = new()
    tickets = [log.append(Kind.PUSH, 1304) for _ in range(4)]
    assert [t.extent.number for t in tickets] == [1, 1, 1, 2]
    assert tickets[3].extent == SegmentExtent(2, tickets[2].end, 4, SMALL)
    assert tickets[3].place == 4096


def test_a_segment_is_used_to_its_last_byte():
    log = new()
    assert log.append(Kind.PUSH, 4096 - HEAD_BYTES).extent.number == 1
    assert log.append(Kind.PUSH, 0).extent.number == 2


def test_a_record_that_is_longer_than_a_segment_gets_one_of_its_size():
    log = new()
    log.append(Kind.PUSH, 8)
    long = log.append(Kind.PUSH, 100_000)
    assert (long.extent.number, long.extent.bytes) == (2, 4096 + 102_400)
    assert log.append(Kind.PUSH, 3000).extent == SegmentExtent(3, long.end, 3, SMALL)


@pytest.mark.parametrize(("mode", "reserved", "written", "synced"), [
    (Mode.MEMORY, 3, 3, 3),
    (Mode.PROCESS, 0, 2, 2),
    (Mode.INTERVAL, 0, 2, 2),
    (Mode.DISK, 0, 0, 2),
])  # fmt: skip
def test_each_mode_acknowledges_when_it_says(mode, reserved, written, synced):
    log = new(mode)
    tickets = [log.append(Kind.PUSH, 10) for _ in range(3)]
    ends = [0] + [t.end for t in tickets]
    assert log.ackable == ends[reserved]
    log.written(tickets[0]), log.written(tickets[1])
    assert log.ackable == ends[written]
    log.synced(log.unsynced()[0])
    assert log.ackable == ends[synced]


@given(st.permutations(range(8)))
def test_nothing_behind_a_gap_counts_as_written(order):
    log = new()
    tickets = [log.append(Kind.PUSH, n) for n in range(8)]
    done = set()
    for n in order:
        log.written(tickets[n])
        done.add(n)
        whole = next((k for k in range(8) if k not in done), 8)
        assert log.written_prefix == ([0] + [t.end for t in tickets])[whole]


def test_a_sync_counts_for_what_was_written_before_it_began():
    log = new(Mode.DISK)
    first, second = log.append(Kind.PUSH, 10), log.append(Kind.PUSH, 10)
    log.written(first)
    upto, _ = log.unsynced()
    log.written(second)
    log.synced(upto)
    assert log.ackable == first.end
    with pytest.raises(AssertionError, match="synced up to 99999"):
        log.synced(99_999)


def test_a_record_says_how_far_the_log_was_safe_when_it_was_reserved():
    for mode, expected in ((Mode.PROCESS, [0, 1]), (Mode.DISK, [0, 0]), (Mode.INTERVAL, [0, 0])):
        log = new(mode)
        first = log.append(Kind.PUSH, 10)
        log.written(first)
        second = log.append(Kind.PUSH, 10)
        assert [first.head.prefix, second.head.prefix] == [0, first.end * expected[1]]
        log.synced(first.end)
        assert log.append(Kind.PUSH, 10).head.prefix == first.end


def test_a_sync_reaches_every_segment_that_has_something_new():
    log = new(Mode.DISK)
    tickets = [log.append(Kind.PUSH, 3000) for _ in range(4)]
    assert log.unsynced() == (0, [])
    for ticket in tickets[:3]:
        log.written(ticket)
    assert log.unsynced() == (tickets[2].end, [1, 2, 3])
    log.synced(tickets[1].end)
    assert log.unsynced()[1] == [3]
    log.synced(tickets[2].end)
    assert log.unsynced()[1] == []


@pytest.mark.parametrize("mode", [Mode.PROCESS, Mode.INTERVAL, Mode.DISK])
def test_after_a_failed_write_what_lies_before_it_is_still_acknowledged_and_nothing_behind(mode):
    log = new(mode)
    first, second, third = (log.append(Kind.PUSH, 10) for _ in range(3))
    log.failed(ERROR, second.offset)
    log.written(first), log.written(third)
    log.synced(log.unsynced()[0])
    assert log.ackable == first.end
    log.check_reachable(first.end)
    with pytest.raises(PushUnresolved, match="No space left"):
        log.check_reachable(second.end)


@pytest.mark.parametrize("mode", [Mode.INTERVAL, Mode.DISK])
def test_after_a_failed_sync_nothing_more_is_acknowledged_not_even_if_another_one_succeeds(mode):
    log = new(mode)
    first, second = log.append(Kind.PUSH, 10), log.append(Kind.PUSH, 10)
    log.written(first)
    before = log.ackable
    log.failed(OSError(5, "Input/output error"))
    log.written(second)
    log.synced(log.written_prefix)
    assert log.ackable == before
    with pytest.raises(PushUnresolved, match="Input/output"):
        log.check_reachable(second.end)


def test_a_log_that_failed_takes_no_more_and_says_why():
    log = new()
    ticket = log.append(Kind.PUSH, 10)
    log.failed(ERROR, ticket.offset)
    log.failed(OSError(5, "a later error"))
    with pytest.raises(Unavailable, match="No space left on device; nothing changed"):
        log.check()
    with pytest.raises(PushUnresolved, match="No space left"):
        log.append(Kind.PUSH, 1)
    assert "broken" in repr(log)


def test_a_log_goes_on_where_it_was():
    end = LogEnd(5, 1000, (SegmentExtent(3, 0, 1, SMALL),))
    log = new(Mode.DISK, end)
    assert log.ackable == 1000
    ticket = log.append(Kind.PUSH, 8)
    assert (ticket.lsn, ticket.offset, ticket.extent, ticket.head.prefix) == (6, 1000, end.extents[0], 1000)


def test_segments_are_forgotten_oldest_first_and_never_the_one_in_use():
    log = new()
    tickets = [log.append(Kind.PUSH, 3000) for _ in range(4)]  # one in each segment
    assert log.cut(9) == 0, "nothing of what would be left is written"
    for ticket in tickets:
        log.written(ticket)
    assert log.cut(0) == 0
    assert [log.cut(2), log.cut(2), log.cut(2)] == [1, 2, 0]
    assert [log.cut(9), log.cut(9)] == [3, 0]
    assert log.extent_of(4) == tickets[3].extent


@pytest.mark.parametrize("size", [0, 4096, 10_000])
def test_a_size_of_segments_that_makes_no_sense_is_refused(size):
    with pytest.raises(ValueError, match=f"multiple of 4096 bytes, above 4096; got {size}"):
        Log(Mode.DISK, LogEnd(), size)
