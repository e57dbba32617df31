"""A log with many threads: they write beside each other, one syncs for all, and those who wait are told."""

import os
import random
import signal
import subprocess
import sys
import threading

import pytest
from log_life import FOLDER, OWNER
from virtual_disk import VirtualDisk
from waiting import until

from rowloom.proto.errors import PushUnresolved, Unavailable
from rowloom.server.durable.disk import Disk
from rowloom.server.durable.extents import LogEnd
from rowloom.server.durable.log import Log, Mode
from rowloom.server.durable.reading import Reading
from rowloom.server.durable.records import Kind
from rowloom.server.durable.segments import Segments
from rowloom.server.durable.writer import Writer

TIME_S = 120.0


class Gate(VirtualDisk):
    """A disk whose syncs, or writes of a record, wait until they may go on."""

    def __init__(self):
        super().__init__()
        self.syncing, self.may_sync = threading.Event(), threading.Event()
        self.closed = False

    def fdatasync(self, handle):
        if self.closed:
            self.syncing.set()
            assert self.may_sync.wait(TIME_S)
        super().fdatasync(handle)


def new_writer(mode=Mode.DISK, disk=None, **options):
    segments = Segments(FOLDER, OWNER, segment_bytes=1 << 16, disk=disk or VirtualDisk())
    return Writer(Log(mode, LogEnd(), 1 << 16), segments, **options)


def commit(writer, payload):
    ticket = writer.append(Kind.PUSH, len(payload))
    writer.write(ticket, [payload])
    writer.wait(ticket.end)


@pytest.mark.parametrize(("now", "time_s"), [(1.7e9 + 0.9, 1_700_000_000), (-5.0, 0), (1e12, 2**32 - 1)])
def test_a_record_says_in_which_second_it_was_made_and_a_clock_that_is_far_off_fails_no_push(now, time_s):
    writer = new_writer(clock=lambda: now)
    commit(writer, b"bytes")
    writer.close()
    segments = Segments(FOLDER, OWNER, segment_bytes=1 << 16, disk=writer._segments.disk)
    assert [record.head.time_s for record in Reading(segments).records()] == [time_s]
    segments.close()


def in_threads(count, work):
    """Run work(k) in so many threads; raise what one of them raised."""
    errors = []

    def guarded(k):
        try:
            work(k)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=guarded, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIME_S)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def syncs(disk):
    return sum(method == "fdatasync" and name.startswith("wal") for method, name in disk.calls)


def test_pushes_that_come_while_one_syncs_share_the_next_sync():
    disk = Gate()
    writer = new_writer(disk=disk)
    commit(writer, b"opens the segment")
    before = syncs(disk)
    disk.closed = True
    leader = threading.Thread(target=commit, args=(writer, b"leads"))
    leader.start()
    assert disk.syncing.wait(TIME_S)
    tickets = [writer.append(Kind.PUSH, 5) for _ in range(8)]
    for ticket in tickets:
        writer.write(ticket, [b"share"])
    assert writer.ackable < tickets[0].offset
    disk.may_sync.set()
    in_threads(8, lambda k: writer.wait(tickets[k].end))
    leader.join(TIME_S)
    assert syncs(disk) - before == 2


@pytest.mark.parametrize("mode", [Mode.PROCESS, Mode.DISK])
def test_eight_threads_on_a_real_disk_lose_nothing_and_sync_less_often_than_they_commit(tmp_path, mode):
    class Counted(Disk):
        syncs = 0

        def fdatasync(self, handle):
            super().fdatasync(handle)
            Counted.syncs += 1

    def open_log(disk):
        segments = Segments(str(tmp_path), OWNER, segment_bytes=1 << 20, disk=disk)
        reading = Reading(segments)
        found = [bytes(record.payload) for record in reading.records()]
        return Writer(Log(mode, reading.repair(), 1 << 20), segments), found

    shard, order = threading.Lock(), []
    writer, _ = open_log(Counted())
    writer.start()

    def work(k):
        rng = random.Random(k)
        for _ in range(50):
            payload = rng.randbytes(rng.choice([100, 9000]))
            with shard:
                ticket = writer.append(Kind.PUSH, len(payload))
                order.append(payload)
            writer.write(ticket, [payload])
            writer.wait(ticket.end)

    in_threads(8, work)
    writer.close()
    assert Counted.syncs < 400 * (1 if mode is Mode.DISK else 0.1)
    writer, found = open_log(Disk())
    writer.close()
    assert found == order


@pytest.mark.parametrize("mode", [Mode.PROCESS, Mode.DISK])
def test_a_push_waits_for_those_before_it_whoever_writes_them(mode):
    writer = new_writer(mode)
    first, second = writer.append(Kind.PUSH, 5), writer.append(Kind.PUSH, 6)
    writer.write(second, [b"second"])
    done = threading.Event()
    waiting = threading.Thread(target=lambda: (writer.wait(second.end), done.set()))
    waiting.start()
    assert writer.ackable == 0
    assert not done.is_set()
    writer.write(first, [b"first"])
    assert done.wait(TIME_S)
    waiting.join(TIME_S)
    assert writer.ackable == second.end


def test_whoever_wants_to_know_is_told_when_the_log_is_safer():
    told = []
    writer = new_writer(Mode.PROCESS, moved=told.append)
    first, second = writer.append(Kind.PUSH, 5), writer.append(Kind.PUSH, 6)
    writer.write(second, [b"second"])
    assert told == []
    writer.write(first, [b"first"])
    assert told == [second.end]
    writer = new_writer(Mode.DISK, moved=told.append)
    commit(writer, b"a push")
    assert told == [second.end, writer.end]


def test_a_duplicate_waits_for_its_first_copy():
    disk = Gate()
    writer = new_writer(disk=disk)
    commit(writer, b"opens the segment")
    disk.closed = True
    first = threading.Thread(target=commit, args=(writer, b"the first copy"))
    first.start()
    assert disk.syncing.wait(TIME_S)
    after, done = writer.end, threading.Event()  # as the shard answers a duplicate
    duplicate = threading.Thread(target=lambda: (writer.wait(after), done.set()))
    duplicate.start()
    assert not done.is_set()
    disk.may_sync.set()
    assert done.wait(TIME_S)
    first.join(TIME_S), duplicate.join(TIME_S)


def test_all_who_wait_hear_of_a_failed_sync():
    disk = Gate()
    writer = new_writer(disk=disk)
    commit(writer, b"opens the segment")
    safe = writer.ackable
    disk.closed = True

    def fail(method, name):
        if method == "fdatasync":
            raise OSError(5, "Input/output error")

    disk.before = fail
    heard = []

    def work(k):
        try:
            commit(writer, bytes([k]))
        except (PushUnresolved, Unavailable) as e:
            heard.append(str(e))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    assert disk.syncing.wait(TIME_S)
    disk.may_sync.set()
    for thread in threads:
        thread.join(TIME_S)
    assert len(heard) == 4
    assert all("Input/output error" in text for text in heard)
    assert syncs(disk) == 1 + 1, "a sync that failed is not tried again"
    assert writer.ackable == safe


def test_a_record_that_will_not_be_written_fails_the_log_and_nobody_waits_for_ever():
    writer = new_writer(Mode.PROCESS)
    lost, later = writer.append(Kind.PUSH, 5), writer.append(Kind.PUSH, 5)
    heard = []

    def work(_):
        writer.write(later, [b"later"])
        try:
            writer.wait(later.end)
        except PushUnresolved as e:
            heard.append(str(e))

    waiting = threading.Thread(target=work, args=(0,))
    waiting.start()
    writer.abandon(lost, MemoryError("no memory for the message"))
    waiting.join(TIME_S)
    assert not waiting.is_alive()
    assert "no memory for the message" in heard[0]


def test_a_payload_of_the_wrong_length_fails_the_log_instead_of_leaving_a_gap():
    writer = new_writer(Mode.PROCESS)
    ticket = writer.append(Kind.PUSH, 5)
    with pytest.raises(PushUnresolved, match="reserved for a payload of 5 bytes, got 3"):
        writer.write(ticket, [b"abc"])
    with pytest.raises(Unavailable):
        writer.check()


def test_interval_acknowledges_what_is_written_and_syncs_by_itself():
    disk = Gate()
    disk.may_sync.set()
    writer = new_writer(Mode.INTERVAL, disk, interval_s=0.01)
    writer.start()
    ticket = writer.append(Kind.PUSH, 5)
    writer.write(ticket, [b"bytes"])
    writer.wait(ticket.end)
    until(lambda: writer._log.synced_prefix >= ticket.end)
    writer.close()
    idle = syncs(disk)
    assert idle <= 3, "an interval without pushes costs no sync"


def test_a_full_disk_warns_while_the_segment_in_use_still_takes_pushes():
    disk = VirtualDisk()
    failed = threading.Event()

    def full(method, name):
        if name.endswith(".new"):
            failed.set()
            raise OSError(28, "No space left on device")

    writer = new_writer(Mode.DISK, disk)
    commit(writer, b"opens the segment")
    disk.before = full
    writer.start()
    assert failed.wait(TIME_S)
    commit(writer, b"another one")
    until(lambda: writer.warning)
    assert "No space left" in writer.warning
    writer.check()
    for _ in range(5):
        commit(writer, bytes(9000))  # as long as there is room
    with pytest.raises(PushUnresolved, match="No space left"):
        commit(writer, bytes(20_000))
    writer.close()


def test_with_durability_memory_there_is_no_log():
    with pytest.raises(ValueError, match="there is no log"):
        new_writer(Mode.MEMORY)


def test_whoever_waits_while_the_server_stops_is_told():
    writer = new_writer(Mode.PROCESS)
    writer.append(Kind.PUSH, 5)
    later = writer.append(Kind.PUSH, 5)
    writer.write(later, [b"later"])
    heard = []

    def work():
        try:
            writer.wait(later.end)
        except PushUnresolved as e:
            heard.append(str(e))

    waiting = threading.Thread(target=work)
    waiting.start()
    writer.close()
    waiting.join(TIME_S)
    assert heard == ["the server stops before its log was known to be safe"]


KILLED = """
import random, sys, threading
from rowloom.server.durable.extents import Owner
from rowloom.server.durable.log import Log, Mode
from rowloom.server.durable.reading import Reading
from rowloom.server.durable.records import Kind
from rowloom.server.durable.segments import Segments
from rowloom.server.durable.writer import Writer

segments = Segments(sys.argv[1], Owner("a-cluster", 3, 1), segment_bytes=1 << 18)
reading = Reading(segments)
for record in reading.records():
    pass
writer = Writer(Log(Mode(sys.argv[2]), reading.repair(), 1 << 18), segments)
writer.start()

def work():
    while True:
        payload = bytes([random.randrange(256)]) * random.choice([10, 3000, 50_000])
        ticket = writer.append(Kind.PUSH, len(payload))
        writer.write(ticket, [payload])
        writer.wait(ticket.end)
        sys.stdout.write(f"{ticket.lsn} {len(payload)} {payload[0]}\\n")
        sys.stdout.flush()

for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
sys.stdin.read()
"""


@pytest.mark.parametrize("mode", ["process", "disk"])
def test_what_a_killed_process_acknowledged_is_read_back(tmp_path, mode):
    acked = {}
    for _ in range(int(os.environ.get("ROWLOOM_KILLS", "2"))):
        command = [sys.executable, "-c", KILLED, str(tmp_path), mode]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            lines = [process.stdout.readline() for _ in range(random.randint(50, 150))]
            assert all(lines), "it ended by itself"
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        for line in lines:
            if line.endswith("\n"):  # the last one may be torn
                lsn, length, value = map(int, line.split())
                acked[lsn] = bytes([value]) * length
        segments = Segments(str(tmp_path), OWNER, segment_bytes=1 << 18)
        reading = Reading(segments)
        found = {record.head.lsn: bytes(record.payload) for record in reading.records()}
        reading.repair()
        segments.close()
        assert list(found) == list(range(1, len(found) + 1))
        assert {lsn: found.get(lsn) for lsn in acked} == acked
