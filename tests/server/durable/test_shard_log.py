"""Logs of shards that begin, go on and are dropped, beside each other."""

import errno
import os
import threading

import pytest
from virtual_disk import VirtualDisk
from waiting import until

from rowloom.proto.errors import PushUnresolved, Unavailable
from rowloom.server.durable.extents import Owner
from rowloom.server.durable.log import Mode
from rowloom.server.durable.records import Kind
from rowloom.server.durable.shard_log import ShardLog, ShardLogs

OWNER = Owner("c", 2, 0)
TIME_S = 120.0


def logs_on(disk: VirtualDisk) -> ShardLogs:
    return ShardLogs("/logs", Mode.DISK, segment_bytes=8192, disk=disk)


def test_a_log_begins_when_nobody_has_the_one_of_its_name_any_more() -> None:
    # A scaling that failed leaves logs of an epoch that the next one uses again. The old one was dropped by its name,
    # which by then was that of the new one: pushes were acknowledged into a log that was not there any more.
    disk = VirtualDisk()
    logs, others = logs_on(disk), logs_on(disk.beside())
    old = logs.begin(OWNER)
    for one in (logs, others):
        with pytest.raises(Unavailable, match="still in use"):
            one.begin(OWNER)
    logs.drop(old)
    new = others.begin(OWNER)
    assert others.has(OWNER)
    new.close()


def test_a_log_that_is_dropped_leaves_one_alone_that_begins_meanwhile() -> None:
    disk = VirtualDisk()
    logs, others = logs_on(disk), logs_on(disk.beside())
    old, new = logs.begin(OWNER), []

    def before(method: str, name: str) -> None:
        if method == "remove_folder":
            new.append(others.begin(OWNER))

    disk.before = before
    logs.drop(old)
    assert others.has(OWNER)
    assert disk.names("/logs/c/epoch-2") == ["shard-0"]
    new[0].close()


def test_a_log_that_another_server_has_dropped_already_is_dropped_without_a_word() -> None:
    disk = VirtualDisk()
    logs, others = logs_on(disk), logs_on(disk.beside())
    old = logs.begin(OWNER)
    others.begin(Owner("c", 3, 0))
    others.drop_older(Owner("c", 3, 0))
    logs.drop(old)
    assert not logs.has(OWNER)


@pytest.mark.parametrize("mode", [Mode.PROCESS, Mode.INTERVAL, Mode.DISK])
def test_a_log_is_settled_when_the_disk_has_it_whatever_the_mode(mode: Mode) -> None:
    disk = VirtualDisk()
    journal = ShardLogs("/logs", mode, segment_bytes=8192, disk=disk, interval_s=1e6).begin(OWNER)
    end = journal.note(Kind.DROP, b"some change")
    journal.write(journal.take())
    unsynced = lambda: any(inode.unsynced for inode in disk.names_live.values())  # noqa: E731
    assert unsynced()
    journal.settle(end)
    assert not unsynced()
    journal.close()


class Gate(VirtualDisk):
    """A disk whose syncs of segments wait until they may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.syncing, self.may_sync = threading.Event(), threading.Event()
        self.may_sync.set()
        self.fails = False

    def fdatasync(self, handle: int) -> None:
        """As `Disk.fdatasync`."""
        path, _ = self.open_files[handle]
        if os.path.basename(path).startswith("wal") and not self.may_sync.is_set():  # not the spare one
            self.syncing.set()
            assert self.may_sync.wait(TIME_S)
            if self.fails:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().fdatasync(handle)


def push_in_threads(journal: ShardLog, disk: Gate, heard: list[str]) -> list[threading.Thread]:
    """Two pushes: one syncs, and the disk takes its time; the other waits for the next sync."""

    def push(end: int, noted) -> None:
        try:
            journal.write(noted)
            journal.wait(end)
            heard.append("")
        except PushUnresolved as e:
            heard.append(str(e))
        finally:
            journal.leave()

    disk.may_sync.clear()
    threads: list[threading.Thread] = []
    for payload in (b"first", b"second"):
        end = journal.note(Kind.PUSH, payload)
        journal.enter()
        threads.append(threading.Thread(target=push, args=(end, journal.take())))
        threads[-1].start()
        assert disk.syncing.wait(TIME_S)
    until(lambda: journal._writer._waiting == 1)
    return threads


@pytest.mark.parametrize("fails", [False, True])
def test_pushes_that_wait_for_the_disk_while_their_server_stops_were_left_open(fails: bool) -> None:
    disk, heard = Gate(), list[str]()
    journal = logs_on(disk).begin(OWNER)
    pushes = push_in_threads(journal, disk, heard)
    closing = threading.Thread(target=journal.close, kwargs={"grace_s": TIME_S})
    closing.start()
    until(lambda: getattr(journal._unused, "_waiters", None))  # it waits for them
    disk.fails = fails
    disk.may_sync.set()
    for thread in (*pushes, closing):
        thread.join(TIME_S)
    assert len(heard) == 2
    assert all("its log failed: Input/output error" in one if fails else not one for one in heard)


def test_pushes_hear_that_their_server_stops_when_the_disk_takes_longer_than_they_may_wait() -> None:
    disk, heard = Gate(), list[str]()
    journal = logs_on(disk).begin(OWNER)
    pushes = push_in_threads(journal, disk, heard)
    closing = threading.Thread(target=journal.close, kwargs={"grace_s": 0.0})
    closing.start()
    until(lambda: heard == ["the server stops before its log was known to be safe"])
    disk.may_sync.set()
    for thread in (*pushes, closing):
        thread.join(TIME_S)
    assert heard[1:] == [""]
