"""The process or the machine ends at any step of a snapshot: then there is none, or a whole one."""

import contextlib
import errno
import random

import fsspec
import pytest
from snapshot_life import SnapshotLife, check, empty_memory
from virtual_disk import Crash, VirtualDisk

from rowloom.proto.errors import SnapshotCorrupt
from rowloom.proto.snapshots.checksums import check_blocks
from rowloom.proto.snapshots.listing import list_snapshots
from rowloom.proto.snapshots.snapshot import open_snapshot
from rowloom.proto.snapshots.verifying import verify
from rowloom.server.snapshots.shard_writer import ShardWriter
from rowloom.server.snapshots.target import LocalTarget, ObjectTarget


def two_snapshots(disk: VirtualDisk):
    """A whole one, then the increment that the faults are for; both are read from memory://."""
    life = SnapshotLife(seed=1)
    life.create(0)
    life.push(30)
    full = life.snapshot(LocalTarget("/all/a", disk), "a")
    life.push(20)
    life.remove()
    disk.calls.clear()
    return life, full


def fails_at(k: int, action):
    """For VirtualDisk.before: at the k-th call, raise, or tear the write."""
    counted = [0]

    def before(method: str, name: str) -> int | None:
        counted[0] += 1
        if counted[0] != k:
            return None
        if isinstance(action, int) and method == "pwritev":
            return action
        raise action if isinstance(action, BaseException) else Crash()

    return before


def as_store(disk: VirtualDisk) -> str:
    """What is on the disk, as a file system of fsspec."""
    fs, base = fsspec.filesystem("memory"), empty_memory()
    for path, inode in disk.names_live.items():
        fs.pipe_file(f"{base}{path}", bytes(inode.live))
    return f"{base}/all"


def calls_of_a_snapshot() -> list[tuple[str, str]]:
    disk = VirtualDisk()
    life, full = two_snapshots(disk)
    life.snapshot(LocalTarget("/all/b", disk), "b", upon=full)
    return disk.calls


CALLS = calls_of_a_snapshot()


def test_the_manifest_gets_its_name_when_everything_else_is_durable():
    renamed = CALLS.index(("rename", "MANIFEST.json.tmp"))
    assert CALLS[renamed - 1] == ("fdatasync", "MANIFEST.json.tmp")
    assert CALLS[renamed + 1 :] == [("sync_folder", "b")]
    created = [name for method, name in CALLS if method == "create"]
    synced = [name for method, name in CALLS if method == "fdatasync"]
    assert created == synced
    folders = {name for method, name in CALLS[:renamed] if method == "sync_folder"}
    assert folders == {"shard-00000", "shard-00001", "b"}


@pytest.mark.parametrize("how", ["kill", "power"])
@pytest.mark.parametrize("torn", [False, True])
def test_a_crash_at_any_step_leaves_no_snapshot_or_a_whole_one(how, torn):
    outcomes = set()
    for k in range(1, len(CALLS) + 2):
        for seed in range(3 if how == "power" else 1):
            disk = VirtualDisk()
            life, full = two_snapshots(disk)
            disk.before = fails_at(k, 7 if torn else None)
            frozen = None
            with contextlib.suppress(Crash):
                frozen = life.snapshot(LocalTarget("/all/b", disk), "b", upon=full)
            disk = disk.killed() if how == "kill" else disk.without_power(random.Random(seed))
            store = as_store(disk)
            assert verify(f"{store}/a").rows == full.manifest.rows
            whole = "MANIFEST.json" in disk.names("/all/b")
            assert whole or frozen is None, "it was committed"
            outcomes.add(whole)
            listed = {one.id: one for one in list_snapshots(store)}
            if whole:
                verify(f"{store}/b")
                assert listed["b"].problem == ""
                assert listed["b"].lineage == ("a", "b")
            else:
                assert "b" not in listed or "unfinished" in listed["b"].problem
                what = "never finished" if "b" in listed else "does not exist"
                with pytest.raises(SnapshotCorrupt, match=what):
                    open_snapshot(f"{store}/b")
            if frozen is not None:
                check(open_snapshot(f"{store}/b"), frozen)
    assert outcomes == {False, True}


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_call_of_the_system_that_fails_is_said_and_leaves_no_snapshot_or_a_whole_one(error):
    for k in range(1, len(CALLS) + 1):
        disk = VirtualDisk()
        life, full = two_snapshots(disk)
        disk.before = fails_at(k, OSError(error, "injected"))
        with pytest.raises(OSError, match="injected"):
            life.snapshot(LocalTarget("/all/b", disk), "b", upon=full)
        disk = disk.without_power(random.Random(k))
        store = as_store(disk)
        assert verify(f"{store}/a").rows == full.manifest.rows
        if "MANIFEST.json" in disk.names("/all/b"):
            assert k == len(CALLS), "only the very last sync fails when the name is there already"
            verify(f"{store}/b")


def test_what_a_shard_has_finished_survives_whoever_commits_it_and_how_little_the_disk_writes_at_once():
    # Each shard has a target of its own; and the system may write less than it is asked to.
    class ShortWrites(VirtualDisk):
        def pwritev(self, handle, buffers, place):
            return super().pwritev(handle, [buffers[0][:100]], place)

    disk = ShortWrites()
    life = SnapshotLife(seed=1)
    life.create(0)
    life.push(50)
    parts = []
    for index in range(2):
        shard = ShardWriter(LocalTarget("/all/a", disk), index)
        life.write_table(shard, life.tables["users"], index, increment=False)
        shard.ledger(b"")
        parts.append(shard.finish(lsn=0, generation=1))
        for seed in range(5):
            left = disk.without_power(random.Random(seed)).names_live
            for file in (file for part in parts for file in part.files):
                inode = left[f"/all/a/{file.name}"]
                check_blocks(memoryview(bytes(inode.live)), file.crc32c, file.name)
                assert len(inode.live) == file.bytes


class FailingStore:
    """An object store that takes so many files."""

    def __init__(self, fs, puts: int) -> None:
        self.fs, self.puts, self.names = fs, puts, []

    def __getattr__(self, name: str):
        return getattr(self.fs, name)

    def pipe_file(self, path: str, data: bytes) -> None:
        if len(self.names) == self.puts:
            raise ConnectionError("gone")
        self.names.append(path)
        self.fs.pipe_file(path, data)


def test_an_object_store_that_fails_at_any_file_has_no_snapshot():
    fs, puts = fsspec.filesystem("memory"), 0
    while True:
        base = empty_memory()
        store = FailingStore(fs, puts)
        life = SnapshotLife(seed=1)
        life.create(0)
        life.push(30)
        try:
            frozen = life.snapshot(ObjectTarget(store, f"{base}/a", lambda seconds: None), "a")
        except OSError:
            with pytest.raises(SnapshotCorrupt, match=r"never finished|does not exist"):
                open_snapshot(f"{base}/a")
            puts += 1
            continue
        check(open_snapshot(f"{base}/a"), frozen)
        assert store.names[-1].endswith("/MANIFEST.json")
        assert puts == len(frozen.manifest.files) + 1
        break


def test_a_snapshot_is_not_written_over_another_one():
    disk = VirtualDisk()
    life, _ = two_snapshots(disk)
    with pytest.raises(
        FileExistsError, match="is there already: a snapshot is written into a folder of its own"
    ):
        life.snapshot(LocalTarget("/all/a", disk), "a")
