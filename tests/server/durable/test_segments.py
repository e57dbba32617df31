"""The files of a log, on a real file system: who has them, how they are made, what a full disk does."""

import errno
import os
import subprocess
import sys
import threading

import pytest
from log_life import OWNER, SMALL

from rowloom.proto.errors import PushUnresolved, RowloomError, Unavailable
from rowloom.server.durable.disk import Disk
from rowloom.server.durable.extents import HEADER_BYTES, LogEnd, SegmentExtent
from rowloom.server.durable.log import Log, Mode
from rowloom.server.durable.reading import Reading
from rowloom.server.durable.records import Kind
from rowloom.server.durable.segments import ROOM_FOR_EACH, LogInUse, Segments
from rowloom.server.durable.writer import Writer


class Failing(Disk):
    """A disk one of whose calls fails, by its number among all of its kind."""

    def __init__(self, method="", at=0, error=errno.EIO):
        super().__init__()
        self.method, self.at, self.error = method, at, error
        self.calls = []

    def _ask(self, method):
        self.calls.append(method)
        if method == self.method and self.calls.count(method) == self.at:
            raise OSError(self.error, os.strerror(self.error))

    def pwritev(self, handle, buffers, place):
        self._ask("pwritev")
        return super().pwritev(handle, buffers, place)

    def fdatasync(self, handle):
        self._ask("fdatasync")
        super().fdatasync(handle)

    def rename(self, old, new):
        self._ask("rename")
        super().rename(old, new)

    def sync_folder(self, path):
        self._ask("sync_folder")
        super().sync_folder(path)

    def unlink(self, path):
        self._ask("unlink")
        super().unlink(path)


def segments_of(path, disk=None, **options):
    return Segments(str(path), OWNER, segment_bytes=SMALL, disk=disk, **options)


def writer_of(path, mode=Mode.DISK, disk=None, after=0, **options):
    segments = segments_of(path, disk)
    reading = Reading(segments, after)
    found = [bytes(record.payload) for record in reading.records()]
    return Writer(Log(mode, reading.repair(), SMALL), segments, **options), found


def commit(writer, payload):
    ticket = writer.append(Kind.PUSH, len(payload))
    writer.write(ticket, [payload])
    writer.wait(ticket.end)
    return ticket


def test_a_log_on_a_real_disk_is_there_after_it_was_closed(tmp_path):
    payloads = [bytes([n]) * (700 * n) for n in range(9)]
    folder = tmp_path / "epoch-3" / "shard-1"
    writer, _ = writer_of(folder)
    for payload in payloads[:5]:
        commit(writer, payload)
    writer.close()
    writer, found = writer_of(folder)
    assert found == payloads[:5]
    for payload in payloads[5:]:
        commit(writer, payload)
    writer.close()
    writer, found = writer_of(folder)
    assert found == payloads
    writer.close()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_second_server_in_the_same_process_is_refused(tmp_path):
    first = segments_of(tmp_path)
    with pytest.raises(
        LogInUse, match=f"{tmp_path} is the log of a shard server that runs: process {os.getpid()}"
    ):
        segments_of(tmp_path)
    first.close()
    segments_of(tmp_path).close()


HOLD = """
import sys
from rowloom.server.durable.extents import Owner
from rowloom.server.durable.segments import Segments
held = Segments(sys.argv[1], Owner("a-cluster", 3, 1), segment_bytes=8192)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_by_the_name_of_the_first_until_that_has_died(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LogInUse, match=f"process {other.pid}"):
            segments_of(tmp_path)
        other.kill()
        other.wait()
        segments_of(tmp_path).close()


def test_what_a_dead_process_left_half_made_is_removed(tmp_path):
    (tmp_path / "spare-7.new").write_bytes(b"half")
    (tmp_path / "spare-8.log").write_bytes(bytes(4096))
    (tmp_path / "spare-9.log").write_bytes(bytes(SMALL))
    (tmp_path / "notes.txt").write_text("of somebody else")
    segments = segments_of(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["lock", "notes.txt", "spare-9.log"]
    segments.open(SegmentExtent(1, 0, 1, SMALL))
    assert sorted(os.listdir(tmp_path)) == ["lock", "newest-0000000001", "notes.txt", "wal-0000000001.log"]
    segments.make_spare()
    assert "spare-10.log" in os.listdir(tmp_path)
    segments.close()


def test_a_link_in_place_of_a_segment_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_bytes(bytes(SMALL))
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "wal-0000000001.log").symlink_to(tmp_path / "elsewhere")
    segments = segments_of(folder)
    with pytest.raises(
        OSError, match=r"it is a symbolic link, and none is followed here.*wal-0000000001\.log"
    ):
        Reading(segments)
    segments.close()


def test_writing_records_changes_no_files_size(tmp_path):
    disk = Failing()
    writer, _ = writer_of(tmp_path, disk=disk)
    commit(writer, b"first")
    names = os.listdir(tmp_path)
    disk.calls.clear()
    for n in range(3):
        commit(writer, bytes(n))
        assert [os.path.getsize(tmp_path / n) for n in names if n.endswith(".log")] == [SMALL]
    assert disk.calls == ["pwritev", "fdatasync"] * 3
    writer.close()


def test_a_full_disk_is_seen_while_a_spare_is_made_and_leaves_the_room_that_there_is(tmp_path):
    segments = segments_of(tmp_path, Failing("fdatasync", 1, errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        segments.make_spare()
    assert os.listdir(tmp_path) == ["lock"]
    segments.make_spare()
    assert sorted(os.listdir(tmp_path)) == ["lock", "spare-2.log"]
    segments.close()


def test_a_write_that_is_cut_short_goes_on(tmp_path):
    class Short(Disk):
        def pwritev(self, handle, buffers, place):
            return super().pwritev(handle, [memoryview(buffers[0])[:1000]], place)

    payload = os.urandom(3500)
    writer, _ = writer_of(tmp_path, disk=Short())
    commit(writer, payload)
    writer.close()
    writer, found = writer_of(tmp_path)
    assert found == [payload]
    writer.close()


def test_a_write_that_writes_nothing_is_an_error_and_no_endless_loop(tmp_path):
    class Stuck(Disk):
        def pwritev(self, handle, buffers, place):
            return 0

    segments = segments_of(tmp_path, Stuck())
    with pytest.raises(OSError, match="wrote nothing"):
        segments.make_spare()
    segments.close()


def test_payloads_of_many_buffers_are_written_whole(tmp_path):
    writer, _ = writer_of(tmp_path)
    parts = [bytes([n % 251]) for n in range(3000)]
    ticket = writer.append(Kind.RECEIVED, 3000)
    writer.write(ticket, parts)
    writer.wait(ticket.end)
    writer.close()
    writer, found = writer_of(tmp_path)
    assert found == [b"".join(parts)]
    writer.close()


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("method", ["pwritev", "fdatasync", "rename", "sync_folder"])
def test_whichever_call_of_the_system_fails_nothing_behind_it_is_acknowledged(tmp_path, method, error):
    for at in range(1, 12):
        folder = tmp_path / str(at)
        folder.mkdir()
        disk = Failing(error=error)
        writer, _ = writer_of(folder, disk=disk)
        disk.calls, disk.method, disk.at = [], method, at
        acked = []
        try:
            for n in range(6):
                payload = bytes([n]) * 1500
                commit(writer, payload)
                acked.append(payload)
        except PushUnresolved as e:
            failure = e
            with pytest.raises(Unavailable, match=os.strerror(error)):
                writer.check()
            with pytest.raises(RowloomError, match=os.strerror(error)):
                commit(writer, b"more")
            assert os.strerror(error) in str(failure)
        else:
            assert len(acked) == 6
        disk.method = ""
        writer.close()
        again, found = writer_of(folder)
        assert found[: len(acked)] == acked
        again.close()


def test_a_failed_recycling_fails_the_log_so_that_no_gap_comes_into_it(tmp_path):
    disk = Failing()
    writer, _ = writer_of(tmp_path, disk=disk)
    tickets = [commit(writer, bytes(3000)) for _ in range(4)]
    disk.method, disk.at = "sync_folder", disk.calls.count("sync_folder") + 1
    with pytest.raises(OSError, match="Input/output"):
        writer.recycle(3)
    writer.recycle(3)
    writer.close()
    segments = segments_of(tmp_path)
    assert segments.numbers() == [2, 3, 4]
    assert len(list(Reading(segments, after=1).records())) == 3
    segments.close()
    assert tickets[3].lsn == 4


def test_an_error_names_the_file(tmp_path):
    disk = Disk()
    handle = disk.open(str(tmp_path / "some.log"), create=True)
    os.close(handle)
    for call in (
        lambda: disk.pwritev(handle, [b"x"], 0),
        lambda: disk.fdatasync(handle),
        lambda: disk.size(handle),
    ):
        with pytest.raises(OSError, match=r"some\.log"):
            call()


def test_a_segment_is_at_least_a_header_long():
    assert SMALL > HEADER_BYTES
    with pytest.raises(ValueError, match="above 4096"):
        Log(Mode.DISK, LogEnd(), HEADER_BYTES)


def test_spares_are_made_beside_the_pushes(tmp_path):
    made = threading.Event()

    class Watched(Disk):
        def rename(self, old, new):
            super().rename(old, new)
            if "spare" in new:
                made.set()

    writer, _ = writer_of(tmp_path, disk=Watched())
    writer.start()
    assert made.wait(120)
    writer.close()
    assert any(name.startswith("spare") for name in os.listdir(tmp_path))


class Roomy(Disk):
    """A disk that says how much room it has."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def free(self, folder):
        return self.room


def spares_in(folder) -> int:
    return sum(name.startswith("spare") for name in os.listdir(folder))


def test_a_disk_with_little_room_was_full_of_spare_segments(tmp_path):
    disk = Roomy(ROOM_FOR_EACH * SMALL * 2)
    writer, _ = writer_of(tmp_path, disk=disk)
    for _ in range(8):
        commit(writer, bytes(3000))  # a segment for each
    writer.recycle(7)
    assert spares_in(tmp_path) == 3
    disk.room = SMALL
    writer.give_back()
    assert spares_in(tmp_path) == 1
    writer.give_back(all=True)
    assert spares_in(tmp_path) == 0
    assert commit(writer, bytes(3000)).lsn == 9  # it makes one
    writer.close()


def test_a_spare_that_was_a_hard_link_to_a_live_segment_was_written_over(tmp_path):
    payloads = [bytes([n]) * 3000 for n in range(6)]  # a segment for each
    writer, _ = writer_of(tmp_path)
    for payload in payloads[:3]:
        commit(writer, payload)
    writer.close()
    for spare in tmp_path.glob("spare-*"):
        spare.unlink()
    os.link(tmp_path / "wal-0000000002.log", tmp_path / "spare-55.log")
    writer, _ = writer_of(tmp_path)
    assert not (tmp_path / "spare-55.log").exists()
    for payload in payloads[3:]:
        commit(writer, payload)
    writer.close()
    writer, found = writer_of(tmp_path)
    assert found == payloads
    writer.close()


def test_a_backup_of_hard_links_changed_when_a_segment_was_used_again(tmp_path):
    backup = tmp_path / "backup"
    backup.mkdir()
    writer, _ = writer_of(tmp_path / "log")
    for n in range(4):
        commit(writer, bytes([n]) * 3000)
    for number in (1, 2):
        file = f"wal-{number:010}.log"
        os.link(tmp_path / "log" / file, backup / file)
    kept = [file.read_bytes() for file in sorted(backup.iterdir())]
    writer.recycle(3)  # two that are linked go, the third becomes a spare
    for n in range(4, 9):
        commit(writer, bytes([n]) * 3000)
    writer.close()
    assert [file.read_bytes() for file in sorted(backup.iterdir())] == kept
    assert [file.stat().st_nlink for file in backup.iterdir()] == [1, 1]


def test_spares_that_were_made_one_file_while_the_log_was_open_became_two_segments(tmp_path):
    writer, _ = writer_of(tmp_path)
    payloads = [bytes([n]) * 3000 for n in range(7)]
    for payload in payloads[:4]:
        commit(writer, payload)
    writer.recycle(3)
    first, *others = sorted(tmp_path.glob("spare-*.log"))
    assert others
    for other in others:  # as a tool does that finds files of equal bytes
        other.unlink()
        os.link(first, other)
    for payload in payloads[4:]:
        commit(writer, payload)
    writer.close()
    writer, found = writer_of(tmp_path, after=3)
    assert found == payloads[3:]
    writer.close()


def test_a_log_that_failed_on_a_full_disk_was_never_cut_and_so_the_disk_stayed_full(tmp_path):
    disk = Failing(error=errno.ENOSPC)
    writer, _ = writer_of(tmp_path, disk=disk)
    for _ in range(4):
        commit(writer, bytes(3000))
    disk.method, disk.at = "pwritev", disk.calls.count("pwritev") + 1
    with pytest.raises(PushUnresolved, match="No space left"):
        commit(writer, bytes(3000))
    writer.recycle(3)
    assert sorted(n for n in os.listdir(tmp_path) if n.endswith(".log")) == ["wal-0000000004.log"]
    writer = writer.renewed()
    assert commit(writer, b"more").lsn == 6
    writer.close()


def test_a_lock_on_a_full_disk_holds_without_a_word(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        segments = segments_of(tmp_path)
    with pytest.raises(LogInUse):
        segments_of(tmp_path)
    segments.close()
