"""The commit point: what the coordinator believes and what storage holds are the same, whatever fails."""

import dataclasses
import errno
import os
import shutil

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from rowloom.client import TableSpec
from rowloom.deploy import local_cluster, storage
from rowloom.deploy.config.config import InvalidConfig
from rowloom.deploy.control.effects import NotStored
from rowloom.deploy.control.state import ClusterState, KnownSnapshot
from rowloom.deploy.storage import StateFile
from rowloom.proto import atomic_file
from rowloom.proto.errors import RowloomError, Unavailable

OLD, NEW = ClusterState("ads", next_key=1), ClusterState("ads", next_key=2)


class StoreError(Exception):
    """What an object store raises: no OSError."""


class FaultyStore(MemoryFileSystem):
    """A store in memory, each of whose calls may fail. faults: before or after the write, at a read; how many times."""

    protocol = "faulty"
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    faults: dict = {}  # noqa: RUF012

    def _fail(self, where):
        if self.faults.get(where, 0) > 0:
            self.faults[where] -= 1
            raise StoreError(where)

    def pipe_file(self, path, value, mode="overwrite", **options):
        self._fail("before the write")
        super().pipe_file(path, value, mode, **options)
        self._fail("after the write")

    def cat_file(self, path, start=None, end=None, **options):
        self._fail("at a read")
        data = super().cat_file(path, start, end, **options)
        return data

    def rm_file(self, path):
        self._fail("at the end")
        super().rm_file(path)


@pytest.fixture
def store():
    fsspec.register_implementation("faulty", FaultyStore, clobber=True)
    FaultyStore.faults = {}
    FaultyStore.store = {}
    return FaultyStore.faults


def no_pause(seconds):
    raise AssertionError("nothing is in doubt")


@pytest.mark.parametrize("where", ["{tmp}/deep/er", "file://{tmp}/deep", "memory://state-tests"])
def test_a_state_is_found_again_until_it_is_forgotten(tmp_path, where):
    url = where.format(tmp=tmp_path)
    assert StateFile(url).load() is None
    StateFile(url).commit(OLD)
    StateFile(url + "/").commit(NEW)
    assert StateFile(url).load() == NEW
    StateFile(url).clear()
    StateFile(url).clear()
    assert StateFile(url).load() is None


def test_without_storage_nothing_is_kept():
    StateFile(None).commit(OLD)
    assert StateFile(None).load() is None
    StateFile("").clear()


def test_a_sync_that_fails_after_the_rename_is_a_commit(tmp_path, monkeypatch):
    file = StateFile(str(tmp_path))
    file.commit(OLD)

    def broken(folder):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(atomic_file, "_sync_folder", broken)
    file.commit(NEW)  # memory and storage agree on the new one
    assert file.load() == NEW


def test_a_write_that_fails_before_the_rename_changes_nothing_and_leaves_nothing(tmp_path, monkeypatch):
    file = StateFile(str(tmp_path))
    file.commit(OLD)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotStored, match=r"layout\.json cannot be written: No space left on device"):
        file.commit(NEW)
    assert file.load() == OLD
    assert sorted(p.name for p in tmp_path.iterdir()) == ["layout.json", "layout.json.reserve"]


def test_snapshots_of_the_place_that_a_storage_was_copied_from_were_taken_for_its_own(tmp_path):
    # So a cluster that went on from a copy removed those that the old folder needed.
    old, new = tmp_path / "old", tmp_path / "new"
    known = [KnownSnapshot(id, f"{old}/snapshots/{id}", 1, [0], 0.0, 1, 9) for id in ("copied", "not-copied")]
    StateFile(str(old)).commit(dataclasses.replace(OLD, snapshots=known))
    (new / "snapshots/copied").mkdir(parents=True)
    shutil.copy(old / "layout.json", new)
    assert [one.url for one in StateFile(str(old)).load().snapshots] == [one.url for one in known]
    assert [one.url for one in StateFile(str(new)).load().snapshots] == [
        f"{new}/snapshots/copied",
        f"{old}/snapshots/not-copied",
    ]


def full_disk(path, data):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_a_disk_without_a_free_block_took_no_layout(tmp_path, monkeypatch):
    # So a shard whose process had ended on it could not be started again, not even to serve pulls.
    file = StateFile(str(tmp_path))
    file.commit(OLD)
    monkeypatch.setattr(storage, "write_atomic", full_disk)
    for state in (NEW, OLD, NEW):  # what was used is there again, as what it took the place of is gone
        file.commit(state)
        assert file.load() == state
    (tmp_path / "layout.json.reserve").unlink()
    with pytest.raises(NotStored, match=r"layout\.json cannot be written: No space left on device"):
        file.commit(OLD)
    assert file.load() == NEW
    file.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_layout_that_is_longer_than_what_is_kept_for_it_is_refused_and_the_old_one_stays(
    tmp_path, monkeypatch
):
    file = StateFile(str(tmp_path))
    file.commit(OLD)
    monkeypatch.setattr(storage, "write_atomic", full_disk)
    with pytest.raises(NotStored):
        file.commit(ClusterState("ads", drained=["n" * (1 << 20)]))
    assert file.load() == OLD
    monkeypatch.undo()
    long = ClusterState("ads", drained=["n" * (1 << 20)])
    file.commit(long)
    monkeypatch.setattr(storage, "write_atomic", full_disk)
    file.commit(long)  # it has grown with what there is


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_coordinator_that_ends_while_it_writes_its_last_layout_leaves_the_old_one(
    tmp_path, monkeypatch, step
):
    file = StateFile(str(tmp_path))
    file.commit(OLD)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_atomic", full_disk)
        patch.setattr(os, step, killed)
        with pytest.raises(KeyboardInterrupt):
            file.commit(NEW)
    assert StateFile(str(tmp_path)).load() == OLD
    file.commit(NEW)  # with room
    monkeypatch.setattr(storage, "write_atomic", full_disk)
    file.commit(OLD)  # and what is kept is whole again
    assert file.load() == OLD


def test_an_object_store_that_took_the_write_and_lost_its_answer_has_committed(store):
    file = StateFile("faulty://a")
    file.commit(OLD)
    store["after the write"] = 1
    file.commit(NEW)
    assert file.load() == NEW


def test_an_object_store_that_refused_the_write_has_not_committed(store):
    file = StateFile("faulty://a")
    file.commit(OLD)
    store["before the write"] = 1
    with pytest.raises(NotStored, match="cannot be written: StoreError: before the write"):
        file.commit(NEW)
    assert file.load() == OLD


def test_while_nobody_can_know_whether_it_was_committed_a_commit_waits(store):
    file = StateFile("faulty://a")
    file.commit(OLD)
    store["after the write"] = 1
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        return False

    def fail_then(*faults):
        store.update(faults)

    original = FaultyStore.pipe_file

    def write(self, *arguments, **options):
        fail_then(("at a read", 3))
        original(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FaultyStore, "pipe_file", write)
        file.commit(NEW, pause)
    assert len(pauses) == 3
    assert file.load() == NEW


def test_a_store_that_does_not_answer_at_all_is_known_not_to_have_committed(store):
    file = StateFile("faulty://a")
    store.update({"at a read": 9, "before the write": 9})
    with pytest.raises(Unavailable, match="cannot be used: StoreError"):
        file.commit(NEW, no_pause)


def test_a_place_where_there_can_be_no_file_is_known_not_to_have_committed(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotStored, match=r"layout\.json cannot be written: "):
        StateFile(str(tmp_path / "file" / "x")).commit(OLD, no_pause)


def test_errors_of_an_object_store_are_ours_at_every_call(store):
    file = StateFile("faulty://a")
    store.update({"at a read": 1, "at the end": 1})
    with pytest.raises(Unavailable, match="cannot be read: StoreError"):
        file.load()
    with pytest.raises(Unavailable, match="cannot be removed: StoreError"):
        file.clear()


def test_a_damaged_state_is_refused(tmp_path):
    (tmp_path / "layout.json").write_text('{"format": 1')
    with pytest.raises(
        RowloomError,
        match=rf"state file {tmp_path}/layout.json is damaged: it is no JSON: .*Put back a whole copy",
    ):
        StateFile(str(tmp_path)).load()


@pytest.mark.parametrize(("url", "words"), [("foo://x", "foo:// is no store that is known")])
def test_a_storage_that_nothing_can_read_is_refused_at_once(url, words):
    with pytest.raises(InvalidConfig, match=f"storage: '{url}/layout.json' cannot be used: .*{words}"):
        StateFile(url)


def test_a_cluster_of_a_program_took_the_storage_of_one_that_runs(tmp_path):
    spec = [TableSpec("t", 9, dim=1)]
    with local_cluster(1, storage=tmp_path, tables=spec) as running:
        state = ClusterState("ads", layout=running._server.coordinator.layout, keys=[0], next_key=1)
        StateFile(str(tmp_path)).commit(state)
        with pytest.raises(
            InvalidConfig, match=rf"the storage {tmp_path} is that of cluster 'ads', which runs"
        ):
            local_cluster(1, storage=tmp_path)
    with local_cluster(1, storage=tmp_path):  # nobody answers there any more
        assert StateFile(str(tmp_path)).load() == state


def test_each_commit_read_the_whole_state_again_and_tables_took_a_second_each(tmp_path, monkeypatch):
    file = StateFile(str(tmp_path))
    file.commit(OLD)
    parsed: list[bytes] = []
    monkeypatch.setattr(storage, "_parsed", lambda held, url: parsed.append(held))
    file.commit(NEW)
    file.commit(dataclasses.replace(NEW, next_key=3))
    assert not parsed
