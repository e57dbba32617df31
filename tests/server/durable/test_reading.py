"""A log that was damaged is refused, or nothing that was acknowledged is missing from what is read."""

import os

import pytest
from log_life import FOLDER, OWNER, SMALL, LogLife
from virtual_disk import Inode, VirtualDisk

from rowloom.server.durable.extents import HEADER_BYTES, Header, Owner, SegmentExtent
from rowloom.server.durable.log import Mode
from rowloom.server.durable.reading import Reading
from rowloom.server.durable.records import Head, Kind, LogCorrupt, encode
from rowloom.server.durable.segments import Segments


class Made:
    """A log of 9 records in 3 segments, all of them acknowledged, in groups of up to two.

    closed: its server stopped by itself; else it was killed.
    """

    def __init__(
        self, mode=Mode.DISK, lengths=(600, 700, 1500, 900, 1640, 2000, 1400, 30, 40), *, closed=False
    ):
        life = LogLife(mode, salted=True)
        for length in lengths:
            life.append(length)
            if len(life.waiting) == 2:
                life.write(1), life.write(0)
                life.wait(-1)
        life.write(0)
        life.wait(-1)
        assert life.close() if closed else True
        self.closed = closed
        self.history, self.tickets = life.history, list(life.tickets.values())
        self.files = {path: bytes(inode.live) for path, inode in life.disk.names_live.items()}

    def file(self, number):
        return f"{FOLDER}/wal-{number:010}.log"

    def segments(self, files):
        disk = VirtualDisk()
        disk.names_live = {path: Inode(bytearray(data)) for path, data in files.items()}
        disk.names_durable = dict(disk.names_live)
        return Segments(FOLDER, OWNER, segment_bytes=SMALL, disk=disk)

    def read(self, files, after=0):
        """(payloads, reading) of a log of these files."""
        segments = self.segments(files)
        try:
            reading = Reading(segments, after)
            return [bytes(record.payload) for record in reading.records()], reading
        finally:
            segments.close()

    def with_bytes(self, number, place, data):
        old = self.files[self.file(number)]
        return {**self.files, self.file(number): old[:place] + data + old[place + len(data) :]}

    def must_refuse(self, bad):
        """Whether a record behind a bad one proves that it had been acknowledged, or the end of the server does."""
        return self.closed or any(t.head.prefix > bad.offset for t in self.tickets[bad.lsn :])


@pytest.fixture(scope="module")
def made():
    return Made()


@pytest.fixture(scope="module")
def stopped():
    """The same log, whose server stopped by itself."""
    return Made(closed=True)


def check(made, files, bad):
    """With one record bad: refused where that can be known, else read up to it."""
    if made.must_refuse(bad):
        with pytest.raises(LogCorrupt) as refused:
            made.read(files)
        assert made.file(bad.extent.number) in str(refused.value)
        assert f"record {bad.lsn} at offset {bad.offset} (byte {bad.place} of the file)" in str(refused.value)
    else:
        found, reading = made.read(files)
        assert found == made.history[: bad.lsn - 1]
        assert reading.end.offset == bad.offset


def test_a_log_is_read_as_it_was_written(made):
    found, reading = made.read(made.files)
    assert found == made.history
    assert (reading.dropped, reading.end.lsn, reading.first_lsn) == (0, 9, 1)
    assert {t.extent.number for t in made.tickets} == {1, 2, 3}


@pytest.mark.parametrize("lsn", range(1, 10))
def test_each_byte_of_a_record_that_is_flipped_is_refused_or_ends_the_log(made, lsn):
    ticket = made.tickets[lsn - 1]
    size = ticket.end - ticket.offset - (-ticket.head.length % 8)
    for place in [*range(64), *range(64, size, 37), size - 1]:
        place += ticket.place
        flipped = bytes([made.files[made.file(ticket.extent.number)][place] ^ 0x10])
        check(made, made.with_bytes(ticket.extent.number, place, flipped), ticket)


@pytest.mark.parametrize("lsn", range(1, 10))
def test_a_record_that_was_lost_in_part_or_whole_is_refused_or_ends_the_log(made, lsn):
    ticket = made.tickets[lsn - 1]
    size = ticket.end - ticket.offset - (-ticket.head.length % 8)
    for begin in [0, 1, 4, 24, 55, 56, 57, size - 1]:
        if begin < size:
            files = made.with_bytes(ticket.extent.number, ticket.place + begin, bytes(size - begin))
            if files != made.files:
                check(made, files, ticket)


def test_both_outcomes_are_in_these_tests(made):
    assert [made.must_refuse(t) for t in made.tickets] == [True] * 8 + [False]


@pytest.mark.parametrize("mode", [Mode.PROCESS, Mode.INTERVAL, Mode.DISK])
def test_damage_of_the_last_record_after_a_clean_stop_read_as_a_crash(mode):
    # Acknowledged pushes were dropped with a warning.
    stopped = Made(mode, closed=True)
    assert stopped.read(stopped.files)[0] == stopped.history
    ticket = stopped.tickets[-1]
    last = stopped.file(ticket.extent.number)
    for place in range(ticket.place, ticket.place + ticket.end - ticket.offset - (-ticket.head.length % 8)):
        flipped = bytes([stopped.files[last][place] ^ 1])
        check(stopped, stopped.with_bytes(ticket.extent.number, place, flipped), ticket)
        rest = bytes(len(stopped.files[last]) - place)  # of a file that was cut there, and made as long again
        if any(stopped.files[last][place:]):
            check(stopped, stopped.with_bytes(ticket.extent.number, place, rest), ticket)
    with pytest.raises(LogCorrupt, match="the log was whole up to record 9 when its server stopped"):
        stopped.read(stopped.with_bytes(ticket.extent.number, ticket.place, bytes(8)))


@pytest.mark.parametrize("lsn", range(1, 10))
def test_what_went_with_the_last_records_of_a_log_that_was_closed_is_named(stopped, lsn):
    ticket = stopped.tickets[lsn - 1]
    rest = bytes(SMALL - ticket.place)
    check(stopped, stopped.with_bytes(ticket.extent.number, ticket.place, rest), ticket)


def test_segments_that_went_with_the_word_of_the_newest_are_missed_when_the_log_was_closed(stopped):
    gone = (stopped.file(3), f"{FOLDER}/newest-0000000003")
    first = next(t for t in stopped.tickets if t.extent.number == 3).lsn
    files = {path: data for path, data in stopped.files.items() if path not in gone}
    assert len(files) == len(stopped.files) - 2
    with pytest.raises(LogCorrupt, match=f"record {first} at offset .* whole up to record 9 when its server"):
        stopped.read(files)


def test_damage_of_the_end_of_a_log_that_was_closed_is_none_where_a_snapshot_has_all(stopped):
    ticket = stopped.tickets[-1]
    files = stopped.with_bytes(3, ticket.place, b"????")
    segments = stopped.segments(files)
    reading = Reading(segments, 9)
    assert list(reading.records()) == []
    assert reading.is_behind
    reading.repair()
    assert not segments.ended()
    segments.close()
    with pytest.raises(LogCorrupt, match="record 9 at offset"):
        stopped.read(files, after=8)


def test_a_log_that_goes_on_says_no_more_that_it_was_closed(stopped):
    segments = stopped.segments(stopped.files)
    reading = Reading(segments)
    assert len(list(reading.records())) == 9
    assert segments.ended() == 9
    reading.repair()
    segments.close()
    disk = segments.disk
    assert not [name for names in (disk.names_live, disk.names_durable) for name in names if "ended" in name]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_each_byte_of_a_header_that_is_flipped_is_refused(made, number):
    for place in [*range(100), *range(100, HEADER_BYTES, 331), HEADER_BYTES - 1]:
        flipped = bytes([made.files[made.file(number)][place] ^ 1])
        with pytest.raises(LogCorrupt, match=made.file(number)):
            made.read(made.with_bytes(number, place, flipped))


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 6000, SMALL - 1, SMALL + 1])
def test_a_segment_that_is_cut_or_longer_is_refused(made, number, size):
    data = (made.files[made.file(number)] + b"\0")[:size]
    with pytest.raises(LogCorrupt, match=made.file(number)):
        made.read({**made.files, made.file(number): data})


def test_a_segment_that_is_missing_in_the_middle_is_named(made):
    files = {path: data for path, data in made.files.items() if path != made.file(2)}
    with pytest.raises(LogCorrupt, match=f"{made.file(2)} is missing"):
        made.read(files)


def test_a_segment_that_is_missing_at_the_beginning_is_noticed_unless_a_snapshot_has_it(made):
    files = {path: data for path, data in made.files.items() if path != made.file(1)}
    first = next(t.extent.first_lsn for t in made.tickets if t.extent.number == 2)
    with pytest.raises(LogCorrupt, match=f"begins with record {first}, records 1 to {first - 1} are missing"):
        made.read(files)
    assert made.read(files, after=first - 1)[0] == made.history[first - 1 :]


def test_the_missing_oldest_file_of_a_log_was_not_named(made):
    files = {path: data for path, data in made.files.items() if path not in (made.file(1), made.file(2))}
    with pytest.raises(
        LogCorrupt, match=f"are missing: {made.file(2)}, which had the last of them, is not there"
    ):
        made.read(files)


def test_a_log_that_cannot_be_read_advised_a_snapshot_also_where_there_is_none(made):
    last = made.tickets[-1].extent.number
    with pytest.raises(LogCorrupt) as raised:
        made.read({path: data for path, data in made.files.items() if path != made.file(last)})
    assert "restore" not in str(raised.value)
    assert str(raised.value).endswith(
        "put back a copy of the files, if there is one; the other ways out stand in the cluster's status"
    )


def test_a_log_whose_newest_segments_were_deleted_was_read_as_one_that_ended_there(made):
    last = made.tickets[-1].extent.number
    for gone in ({last}, {last, last - 1}, set(range(1, last + 1))):
        files = {path: data for path, data in made.files.items() if path not in map(made.file, gone)}
        with pytest.raises(LogCorrupt, match=f"{made.file(last)} is missing"):
            made.read(files)


def test_a_log_of_before_that_was_told_is_read_as_ever(made):
    files = {path: data for path, data in made.files.items() if "newest" not in path}
    assert len(files) == len(made.files) - 1
    assert made.read(files)[0] == made.history


def test_a_log_without_segments_is_new_unless_a_snapshot_says_otherwise(made):
    found, reading = made.read({})
    assert (found, reading.end.lsn, reading.end.offset) == ([], 0, 0)
    with pytest.raises(LogCorrupt, match="no segment: the log up to record 7 is missing"):
        made.read({}, after=7)


def test_a_log_that_ends_before_its_snapshot_goes_on_behind_that(made):
    # It was refused: with `process`, after a loss of power, although the snapshot had everything.
    for files in (made.files, made.with_bytes(3, made.tickets[-1].place, bytes(100))):
        segments = made.segments(files)
        reading = Reading(segments, 12)
        assert list(reading.records()) == []
        assert reading.is_behind
        end = reading.repair()
        assert (end.lsn, end.extents[-1].number, end.extents[-1].first_lsn) == (12, 4, 13)
        segments.close()
        segments = Segments(FOLDER, OWNER, segment_bytes=SMALL, disk=segments.disk)
        again = Reading(segments, 12)
        assert list(again.records()) == []
        assert not again.is_behind
        assert again.repair() == end
        segments.close()


@pytest.mark.parametrize("lsn", range(1, 10))
@pytest.mark.parametrize("after", range(1, 10))
def test_damage_that_a_snapshot_has_was_refused_if_a_later_record_was_there(made, lsn, after):
    # A log that went on behind the snapshot would lack what lies between the two. It is read on behind the damage.
    ticket = made.tickets[lsn - 1]
    for data in (bytes(60), b"????"):
        files = made.with_bytes(ticket.extent.number, ticket.place, data)
        if after < lsn:
            check(made, files, ticket)
            continue
        first = next(t for t in made.tickets if t.extent == ticket.extent)
        if after == lsn < 9 and ticket is first and made.tickets[lsn].extent == ticket.extent:
            # Nothing that the snapshot has can be read any more, to tell that it is of this log.
            with pytest.raises(LogCorrupt, match=f"record {lsn} at offset"):
                made.read(files, after)
            continue
        found, reading = made.read(files, after)
        assert found == made.history[after:]
        read_at_all = made.tickets[min(after, 8)].extent == ticket.extent
        assert reading.damaged == ([(lsn, lsn)] if read_at_all and lsn < 9 else [])
        assert reading.is_behind == (lsn == after == 9)


def test_damage_up_to_behind_a_snapshot_is_refused(made):
    first, last = (next(t for t in made.tickets if t.lsn == lsn) for lsn in (7, 8))
    assert first.extent == last.extent
    files = made.with_bytes(first.extent.number, first.place, bytes(last.end - first.offset))
    with pytest.raises(LogCorrupt, match="record 7 at offset"):
        made.read(files, after=7)
    assert made.read(files, after=9)[0] == []


@pytest.mark.parametrize("after", range(10))
def test_reading_begins_behind_what_a_snapshot_has(made, after):
    assert made.read(made.files, after)[0] == made.history[after:]


def test_files_that_changed_places_are_refused(made):
    files = {**made.files, made.file(1): made.files[made.file(2)], made.file(2): made.files[made.file(1)]}
    with pytest.raises(LogCorrupt, match=r"the header says number 2 .* the file is number 1"):
        made.read(files)


@pytest.mark.parametrize(
    "owner", [Owner("another", 3, 1), Owner("a-cluster", 2, 1), Owner("a-cluster", 3, 0)]
)
def test_the_log_of_another_shard_is_refused(made, owner):
    disk = made.segments(made.files).disk
    with pytest.raises(
        LogCorrupt, match="is of shard 1 in epoch 3 of cluster 'a-cluster', this is the log of"
    ):
        Reading(Segments(FOLDER, owner, segment_bytes=SMALL, disk=disk.killed()))


def by_hand(records, extent=SegmentExtent(1, 0, 1, SMALL), salt=5):  # noqa: B008
    """The file of one segment with these (head, payload)."""
    data = bytearray(SMALL)
    data[:HEADER_BYTES] = Header(OWNER, extent, salt).encode()
    for head, payload in records:
        buffers = b"".join(encode(head, [payload], salt))
        place = extent.place(head.offset)
        data[place : place + len(buffers)] = buffers
    return {f"{FOLDER}/wal-0000000001.log": bytes(data)}


def test_a_record_whose_number_does_not_follow_ends_the_log(made):
    files = by_hand([(Head(Kind.PUSH, 8, 1, 0, 0), b"the 1st."), (Head(Kind.PUSH, 8, 3, 64, 0), b"the 3rd.")])
    found, reading = made.read(files)
    assert (found, reading.dropped) == ([b"the 1st."], 64)


def test_a_record_that_lies_at_a_wrong_place_ends_the_log(made):
    files = by_hand([(Head(Kind.PUSH, 8, 1, 0, 0), b"the 1st.")])
    name, data = next(iter(files.items()))
    moved = bytearray(data)
    moved[HEADER_BYTES + 64 : HEADER_BYTES + 128] = b"".join(
        encode(Head(Kind.PUSH, 8, 2, 128, 0), [b"the 2nd."], 5)
    )
    assert made.read({name: bytes(moved)})[0] == [b"the 1st."]


def test_a_whole_record_of_an_earlier_number_proves_nothing(made):
    old = Head(Kind.PUSH, 8, 1, 128, 10**6), b"the old."
    files = by_hand([(Head(Kind.PUSH, 8, 1, 0, 0), b"the 1st."), old])
    found, reading = made.read(files)
    assert (found, reading.dropped) == ([b"the 1st."], 0)


def test_bytes_of_a_payload_that_look_like_a_record_prove_nothing(made):
    # A client that knows offset and number, but not the salt, wants the log to be refused after a crash.
    forged = b"".join(encode(Head(Kind.PUSH, 8, 3, 64 + 56, 10**6), [b"forged!!"], 0))
    files = by_hand([(Head(Kind.PUSH, 8, 1, 0, 0), b"the 1st."), (Head(Kind.PUSH, 64, 2, 64, 0), forged)])
    name, data = next(iter(files.items()))
    torn = bytearray(data)
    torn[HEADER_BYTES + 64 + 8] ^= 1
    assert made.read({name: bytes(torn)})[0] == [b"the 1st."]


def test_a_whole_record_of_a_newer_version_is_never_dropped(made):
    files = by_hand([(Head(Kind.PUSH, 8, 1, 0, 0, version=2), b"the 1st.")])
    with pytest.raises(LogCorrupt, match="a newer one has written it"):
        made.read(files)


def test_records_longer_than_what_is_read_at_once_are_whole(monkeypatch):
    monkeypatch.setattr("rowloom.server.durable.reading._WINDOW_BYTES", 128)
    made = Made(lengths=(10, 3000, 200, 0, 900, 5000, 64, 60, 1))
    assert made.read(made.files)[0] == made.history
    bad = made.tickets[1]
    check(made, made.with_bytes(bad.extent.number, bad.place + 500, b"????"), bad)


def test_payloads_stay_as_they_are_while_more_is_read(made, monkeypatch):
    monkeypatch.setattr("rowloom.server.durable.reading._WINDOW_BYTES", 4096)
    reading = Reading(made.segments(made.files))
    assert [bytes(p) for p in [record.payload for record in reading.records()]] == made.history


def test_a_log_that_is_refused_is_left_as_it_is(made):
    bad = made.tickets[2]
    segments = made.segments(made.with_bytes(bad.extent.number, bad.place, b"?"))
    segments.disk.calls.clear()
    reading = Reading(segments)
    with pytest.raises(LogCorrupt):
        list(reading.records())
    assert segments.disk.calls == []
    with pytest.raises(AssertionError, match="read to its end before it is repaired"):
        reading.repair()


def test_an_error_of_reading_names_the_file(made, monkeypatch, tmp_path):
    for path, data in made.files.items():
        (tmp_path / os.path.basename(path)).write_bytes(data)
    segments = Segments(str(tmp_path), OWNER, segment_bytes=SMALL)

    def preadv(*_):
        raise OSError(5, "Input/output error")

    reading = Reading(segments)
    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(OSError, match=r"Input/output error.*wal-0000000001\.log"):
        list(reading.records())
    segments.close()
