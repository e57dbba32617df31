"""A standby takes a log wherever its server ended: rows and log are the same then, and nothing is missing."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from right_messages import LAYOUT, TABLES, push
from virtual_disk import VirtualDisk
from waiting import until

from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import Push
from rowloom.proto.errors import PushUnresolved, Unavailable
from rowloom.proto.framing import joined
from rowloom.server.durable.extents import Owner
from rowloom.server.durable.log import Mode
from rowloom.server.durable.records import Kind, LogCorrupt
from rowloom.server.durable.segments import LogInUse
from rowloom.server.durable.shard_log import ShardLogs
from rowloom.server.durable.succession import Succession
from rowloom.server.running.succeeding import succeed
from rowloom.server.shard import Shard
from rowloom.server.standby.log_place import LogPlace

OWNER = Owner("c", 3, 0)
IDS = np.arange(0, 40, 2)


def a_shard() -> Shard:
    return Shard(LAYOUT, 0, [])


def contents(shard: Shard) -> list:
    """Rows with slots, and ledger."""
    read = [(number, table.read(0, 1 << 30)) for number, table in sorted(shard.tables.items())]
    rows = [(number, ids.tolist(), values.tobytes()) for number, (ids, values, *_) in read]
    rows += [(number, slot.tobytes()) for number, (_, _, slots, *_) in read for slot in slots]
    return [rows, shard.ledger.read().SerializeToString(deterministic=True)]


class Life:
    """A server that writes a log, and a standby that it tells of it, as far as each of them gets."""

    def __init__(self, mode: Mode, disk: VirtualDisk | None = None) -> None:
        self.mode, self.disk = mode, disk or VirtualDisk()
        self.logs, self.others = self.logs_of(self.disk), self.logs_of(self.disk.beside())
        self.shard, self.standby, self.place = a_shard(), a_shard(), LogPlace()
        self.journal = self.logs.begin(OWNER)
        self.told: list[pb.FedRecord] = []
        self.noted: list = []  # to be written
        self.pushes = 0
        for entry in TABLES:
            self.shard.create_table(entry)
            self.standby.create_table(entry)
            self.journal.note(Kind.CREATE, entry.to_message().SerializeToString())
        self.journal.write(self.journal.take())
        self.place = LogPlace(self.journal.lsn, self.journal.end)

    def logs_of(self, disk: VirtualDisk) -> ShardLogs:
        return ShardLogs("/logs", self.mode, segment_bytes=8192, disk=disk, interval_s=1e6)

    def push(self, rng: random.Random) -> None:
        self.pushes += 1
        ids = IDS[: rng.randint(1, len(IDS))]
        grads = np.full((len(ids), 3), rng.random(), np.float32)
        request = push(self.pushes, 1, ids, grads)
        payload = joined(request.encode())
        assert not self.shard.push(request)
        rows, fold = self.shard.trace(request)
        end = self.journal.note(Kind.PUSH, payload, rows, fold)
        self.noted += self.journal.take()
        self.told.append(
            pb.FedRecord(
                kind=Kind.PUSH, payload=payload, rows_after=rows, fold=fold, lsn=self.journal.lsn, log_end=end
            )
        )

    def write(self) -> None:
        if self.noted:
            self.journal.write([self.noted.pop(0)])

    def follow(self) -> None:
        """The standby gets the next record."""
        if self.told:
            record = self.told.pop(0)
            self.standby.push(Push.decode(memoryview(record.payload)))
            self.place.came(record, record.payload)

    def hear(self) -> None:
        """The standby hears how far the log is safe."""
        self.place.safe(self.journal.safe)

    def end(self) -> None:
        """The server is killed, with what it has not written."""
        self.disk.killed()

    def task(self) -> Succession:
        return Succession(OWNER, self.standby, self.place, a_shard, [])


MODES = st.sampled_from([Mode.PROCESS, Mode.INTERVAL, Mode.DISK])
STEPS = st.lists(
    st.sampled_from(["push", "push", "write", "write", "follow", "follow", "hear", "sync"]), max_size=60
)


@given(MODES, STEPS, st.integers(0, 2**32))
def test_log_and_rows_are_the_same_wherever_a_server_ended(mode, steps, seed) -> None:
    rng, life = random.Random(seed), Life(mode)
    life.journal.settle(life.journal.end)
    life.hear()
    for step in steps:
        {
            "push": lambda: life.push(rng),
            "write": life.write,
            "follow": life.follow,
            "hear": life.hear,
            "sync": lambda: life.journal.settle(life.journal._writer._log.written_prefix),
        }[step]()
    acknowledged = life.place.lsn if not life.place.unsafe else life.place.unsafe[0].lsn - 1
    told, log_end = life.place.lsn, life.journal.lsn - len(life.noted)
    life.end()
    shard, journal = succeed(life.others, life.task(), patient=False)
    assert journal.lsn == max(told, log_end) >= acknowledged
    served = contents(shard)
    life.shard = shard
    life.disk, life.journal, life.noted, life.told = life.others._disk, journal, [], []
    life.pushes = 1000
    life.push(rng)
    life.write()
    journal.wait(journal.end)
    more = contents(shard)
    assert more != served
    journal.close(sync=False)
    again, last = life.others.recover(OWNER, a_shard)
    assert contents(again) == more
    last.close()


def test_a_log_is_not_taken_from_a_server_that_lives() -> None:
    life = Life(Mode.PROCESS)
    life.hear()
    with pytest.raises(LogInUse):
        succeed(life.others, life.task(), patient=False)
    life.end()
    _, journal = succeed(life.others, life.task(), patient=False)
    journal.close()


def test_a_log_that_is_another_one_than_the_standby_was_told_is_read_anew() -> None:
    life, rng = Life(Mode.PROCESS), random.Random(1)
    life.hear()
    life.push(rng)
    life.write()
    life.told[0].fold ^= 1
    life.follow()
    life.end()
    with pytest.raises(LogCorrupt, match="not the one that its standby was told"):
        life.others.go_on(OWNER, life.standby, life.place)
    shard, journal = succeed(life.others, life.task(), patient=False)
    assert shard is not life.standby
    assert contents(shard) == contents(life.shard)
    journal.close()


def test_a_standby_that_does_not_know_whether_what_filled_it_is_written_reads_all_of_the_log() -> None:
    life = Life(Mode.PROCESS)
    life.place = LogPlace(life.place.lsn, life.journal.end + 1)
    life.hear()
    life.end()
    shard, journal = succeed(life.others, life.task(), patient=False)
    assert shard is not life.standby
    journal.close()


@pytest.mark.parametrize("damage", ["gone", "empty", "another disk"])
def test_without_a_log_the_standby_has_the_rows_and_takes_pushes_when_a_snapshot_has_them(damage) -> None:
    life, rng = Life(Mode.PROCESS), random.Random(1)
    life.push(rng)
    life.write()
    life.follow()
    life.hear()
    life.end()
    folder, disk = life.logs.folder(OWNER), life.others._disk
    if damage == "gone":
        disk.remove_folder(folder)
    for name in disk.names(folder) if damage == "empty" else ():
        disk.unlink(f"{folder}/{name}")
    if damage == "another disk":
        life.others = life.logs_of(VirtualDisk())
    shard, journal = succeed(life.others, life.task(), patient=False)
    assert shard is life.standby
    assert (journal.lsn, journal.end, journal.safe) == (life.place.lsn, 0, 0)
    assert "could not be read when a standby took it over" in journal.error
    with pytest.raises(Unavailable, match="takes no changes"):
        journal.check()
    with pytest.raises(PushUnresolved):
        journal.note(Kind.PUSH, b"")
    assert not life.others.has(OWNER) or damage == "empty"  # nothing that would be read as an empty shard
    journal.renew()  # a snapshot has the rows
    until(lambda: not journal.mending)
    assert not journal.error
    journal.check()
    assert journal.note(Kind.DROP, pb.DropTableRequest(table=2).SerializeToString()) > 0
    assert journal.lsn == life.place.lsn + 1
    journal.write(journal.take())
    journal.close()
