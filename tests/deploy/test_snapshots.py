"""Snapshots of a running cluster: what is in them, and what becomes of old ones and of those that fail."""

import errno
import json
import math
import os
import shutil
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from logging_launcher import LoggingLauncher
from waiting import until

from rowloom.client import (
    SGD,
    Adagrad,
    Client,
    InvalidRequest,
    Snapshot,
    TableNotFound,
    TableSpec,
    Unavailable,
    Zeros,
    connect,
    open_snapshot,
)
from rowloom.deploy.config.config import parse
from rowloom.deploy.config.sections import SnapshotSchedule
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch.local_launcher import ThreadLauncher
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.snapshots import begun, requests
from rowloom.deploy.snapshots import snapshots as snapshots_module
from rowloom.deploy.snapshots.snapshots import Snapshots
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.snapshots.differing import difference
from rowloom.proto.snapshots.extra import encode_extra
from rowloom.proto.snapshots.listing import list_snapshots
from rowloom.proto.snapshots.verifying import verify
from rowloom.server import holder
from rowloom.server.snapshots import writing
from rowloom.server.snapshots.target import LocalTarget

SPEC = TableSpec("t", 2000, dim=8, optimizer=Adagrad(lr=0.1), initializer=Zeros())


@pytest.fixture
def cluster(tmp_path) -> Iterator[CoordinatorServer]:
    config = parse(
        {"name": "s", "shards": 2, "storage": str(tmp_path), "durability": "process", "tables": [SPEC]}
    )
    server = CoordinatorServer(config, LoggingLauncher(str(tmp_path)))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def client(cluster) -> Iterator[Client]:
    with connect(cluster.address, timeout_s=200.0) as client:
        yield client


@pytest.fixture
def remote(cluster) -> Iterator[Remote]:
    with Remote(cluster.address) as remote:
        yield remote


def rows_of(url: str) -> dict[int, np.ndarray]:
    ids, values, _ = open_snapshot(url).rows("t")
    return dict(zip(ids.tolist(), values, strict=True))


def test_a_snapshot_has_what_was_acknowledged_before_and_nothing_of_what_came_after(client, remote) -> None:
    table, ids = client.table("t"), np.arange(300)
    table.push(ids, np.ones((300, 8), np.float32))
    before = table.pull(ids)
    taken = remote.take_snapshot({"step": 17})
    table.push(np.arange(500), np.ones((500, 8), np.float32))
    assert verify(taken.url).rows == taken.rows == 300
    found = rows_of(taken.url)
    assert sorted(found) == ids.tolist()
    np.testing.assert_array_equal(np.stack([found[i] for i in range(300)]), before)
    assert open_snapshot(taken.url).extra == {"step": 17}


def test_a_trainer_takes_one_with_what_it_keeps_beside_and_reads_it_without_a_cluster(client) -> None:
    table, ids = client.table("t"), np.arange(300)
    table.push(ids, np.ones((300, 8), np.float32))
    extra = {"step": 7, "model": b"\0\1", "dense": {"w": np.arange(6.0).reshape(2, 3), "best": math.nan}}
    taken = client.snapshot(extra)
    assert isinstance(taken, Snapshot)
    assert (taken.rows, taken.parent, taken.extra["step"]) == (300, None, 7)
    assert 0 < taken.pause_s < taken.seconds
    reader = open_snapshot(taken.path)
    assert (reader.id, reader.parent, dict(reader.tables)) == (taken.id, None, {"t": SPEC})
    found, values, slots = reader.rows("t")
    np.testing.assert_array_equal(np.sort(found), ids)
    np.testing.assert_array_equal(values, table.pull(found))
    assert [slot.shape for slot in slots] == [(300, 8)]
    assert (slots[0] == 1).all()
    assert reader.extra["model"] == b"\0\1"
    np.testing.assert_array_equal(reader.extra["dense"]["w"], extra["dense"]["w"])
    assert reader.verify().rows == 300
    with pytest.raises(TableNotFound, match="no table 'u'; its tables: 't'"):
        reader.rows("u")


def test_what_cannot_be_kept_with_a_snapshot_is_refused_before_there_is_one(client, tmp_path) -> None:
    with pytest.raises(InvalidRequest, match=r"extra\['f'\] is function"):
        client.snapshot({"f": lambda: None})
    assert not (tmp_path / "snapshots").exists()


def test_a_request_whose_answer_was_lost_takes_no_second_snapshot(
    cluster, remote, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(requests, "HOLD_S", 0.0)
    request = pb.TakeSnapshotRequest(key=5, extra=encode_extra({"step": 7}))
    answer = lambda **more: cluster._handlers.snapshots_asked.answer(  # noqa: E731
        pb.TakeSnapshotRequest(key=5, **more) if more else request
    )
    assert answer(asks=True).state == "unknown"
    first = answer()
    until(lambda: answer(asks=True).state == "done")
    assert first.state in ("writing", "done")
    assert answer() == answer(asks=True)
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == [answer().id]
    with pytest.raises(InvalidRequest, match="key"):
        cluster._handlers.snapshots_asked.answer(pb.TakeSnapshotRequest())
    with pytest.raises(InvalidRequest, match="is no dict that rowloom kept"):
        cluster._handlers.snapshots_asked.answer(pb.TakeSnapshotRequest(key=6, extra=b"junk"))


def test_all_shards_are_written_as_they_were_at_one_moment_while_trainers_go_on(
    client, remote, monkeypatch
) -> None:
    monkeypatch.setattr(writing, "BLOCK_ROWS", 16)  # many chances to come in between
    table, ids, stop = client.table("t"), np.arange(1000), threading.Event()
    table.push(ids, np.ones((1000, 8), np.float32))

    def train() -> None:
        while not stop.is_set():  # all rows the same, always
            table.push(ids, np.ones((1000, 8), np.float32))

    training = threading.Thread(target=train)
    training.start()
    try:
        before = float(table.pull([0])[0, 0])
        for _ in range(4):
            found = rows_of(remote.take_snapshot().url)
            after = float(table.pull([0])[0, 0])
            rows = np.stack([found[i] for i in range(1000)])
            assert (rows == rows[0, 0]).all(), "a push is on one shard and not on the other"
            assert after <= rows[0, 0] <= before
            before = after
    finally:
        stop.set()
        training.join()


def test_logs_that_are_long_are_made_short_and_old_snapshots_go(
    cluster, client, monkeypatch, tmp_path
) -> None:
    table, ids = client.table("t"), np.arange(1000)
    taken = Remote(cluster.address).take_snapshot()
    monkeypatch.setattr(snapshots_module, "LONG_LOG_BYTES", 400_000)
    lengths = lambda: [s._host.journal.bytes for s in cluster.launcher.servers.values()]  # type: ignore[attr-defined]  # noqa: E731
    for _ in range(60):
        table.push(ids, np.ones((1000, 8), np.float32))
    listed = lambda: cluster.coordinator.state.snapshots  # noqa: E731
    until(lambda: sum(one.automatic for one in listed()) == 2)
    until(lambda: max(lengths()) < 400_000)
    until(lambda: ids_of(tmp_path / "snapshots") == {one.id for one in listed()} | {taken.id})
    assert len(listed()) <= 3, "the last two, and what the first of them was made upon"


def test_a_snapshot_that_cannot_be_written_leaves_pushes_going_on(cluster, client, remote, tmp_path) -> None:
    (tmp_path / "snapshots").write_text("a file, where a folder should be")
    table = client.table("t")
    table.push([1], np.ones((1, 8), np.float32))
    with pytest.raises(Unavailable, match="could not write its part"):
        remote.take_snapshot()
    table.push([1], np.ones((1, 8), np.float32))
    assert cluster.coordinator.state.snapshots == []
    assert all(server._host.taking.error for server in cluster.launcher.servers.values())


def test_a_snapshot_that_found_its_disk_full_left_its_files_there(
    cluster, client, remote, tmp_path, monkeypatch
) -> None:
    client.table("t").push([1], np.ones((1, 8), np.float32))
    with monkeypatch.context() as patch:

        def full(self: LocalTarget) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))

        patch.setattr(LocalTarget, "settle", full)
        with pytest.raises(Unavailable, match=r"No space left on device.*once there is room, take it again"):
            remote.take_snapshot()
    until(lambda: ids_of(tmp_path / "snapshots") == set())
    taken = remote.take_snapshot()
    assert ids_of(tmp_path / "snapshots") == {taken.id}


def fails_at_the_end(self: LocalTarget) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO), "somewhere")


def test_what_was_left_of_a_snapshot_that_failed_stayed_until_the_next_one_failed(
    cluster, client, remote, tmp_path, monkeypatch
) -> None:
    client.table("t").push([1], np.ones((1, 8), np.float32))
    folder = tmp_path / "snapshots"
    with monkeypatch.context() as patch:
        patch.setattr(LocalTarget, "settle", fails_at_the_end)
        patch.setattr(begun, "remove_folder", lambda url: False)  # as of a store that does not answer
        with pytest.raises(Unavailable, match="could not write its part"):
            remote.take_snapshot()
    (left,) = ids_of(folder)
    (folder / "of-somebody-else").mkdir()  # a copy that is being made, say
    taken = remote.take_snapshot()
    assert ids_of(folder) == {taken.id, "of-somebody-else"}
    assert left != taken.id
    assert not (tmp_path / begun.FILE).exists()


def test_what_a_coordinator_that_ended_left_of_a_snapshot_stayed_for_good(
    cluster, client, remote, tmp_path, monkeypatch
) -> None:
    client.table("t").push([1], np.ones((1, 8), np.float32))
    folder, known = tmp_path / "snapshots", tmp_path / begun.FILE
    with monkeypatch.context() as patch:
        patch.setattr(LocalTarget, "settle", fails_at_the_end)
        patch.setattr(Snapshots, "_clear", lambda self, again=False: None)  # it has ended before
        with pytest.raises(Unavailable, match="could not write its part"):
            remote.take_snapshot()
    (left,) = ids_of(folder)
    mine = cluster.coordinator.layout.cluster_id
    assert json.loads(known.read_text()) == {"cluster_id": mine, "ids": [left]}
    shutil.copytree(folder / left, folder / "another")  # of somebody else
    cluster._parts.snapshots._begun = begun.BegunSnapshots(str(tmp_path))  # as of one that starts anew
    first = remote.take_snapshot()
    assert ids_of(folder) == {first.id, "another"}
    # One that was whole when the coordinator ended is a snapshot, also if it is in no list; the rest are no names.
    shutil.copytree(folder / first.id, folder / "whole")
    known.write_text(json.dumps({"cluster_id": mine, "ids": ["whole", "../logs", "gone"]}))
    cluster._parts.snapshots._begun = begun.BegunSnapshots(str(tmp_path))
    second = remote.take_snapshot()
    assert ids_of(folder) == {first.id, second.id, "another", "whole"}
    assert not known.exists()
    assert any((tmp_path / "logs").iterdir())
    # What another cluster has noted in the storage is not touched either.
    known.write_text(json.dumps({"cluster_id": "c", "ids": ["another"]}))
    cluster._parts.snapshots._begun = begun.BegunSnapshots(str(tmp_path))
    remote.take_snapshot()
    assert "another" in ids_of(folder)


def test_what_was_left_of_a_snapshot_that_failed_stayed_when_its_cluster_was_brought_down(
    cluster, client, remote, tmp_path, monkeypatch
) -> None:
    client.table("t").push([1], np.ones((1, 8), np.float32))
    folder, known = tmp_path / "snapshots", tmp_path / begun.FILE
    whole = remote.take_snapshot()
    with monkeypatch.context() as patch:
        patch.setattr(LocalTarget, "settle", fails_at_the_end)
        patch.setattr(begun, "remove_folder", lambda url: False)  # as of shards that yet write
        with pytest.raises(Unavailable, match="could not write its part"):
            remote.take_snapshot()
    assert known.exists()
    assert len(ids_of(folder)) == 2
    begun.BegunSnapshots(str(tmp_path)).forget("another")
    assert known.exists()
    cluster.stop()
    assert not known.exists()
    assert ids_of(folder) == {whole.id}


@pytest.mark.parametrize("text", ["no json", "[]", '{"ids": 3}', '{"ids": ["x"]}'])
def test_a_note_of_begun_snapshots_that_cannot_be_read_fails_none(tmp_path, text, caplog) -> None:
    (tmp_path / begun.FILE).write_text(text)
    mine = begun.BegunSnapshots(str(tmp_path))
    assert mine.begin("c", "one") == f"{tmp_path}/snapshots/one"
    assert "what is left of them stays" in caplog.text
    mine.clear({"one"})
    assert not (tmp_path / begun.FILE).exists()


def test_pushes_wait_for_the_writer_before_copies_take_too_much_memory(
    cluster, client, remote, monkeypatch
) -> None:
    monkeypatch.setattr(holder, "MOST_SAVED_BYTES", 1000)
    monkeypatch.setattr(writing, "BLOCK_ROWS", 8)
    table, ids = client.table("t"), np.arange(1000)
    table.push(ids, np.ones((1000, 8), np.float32))
    most: list[int] = []

    def watch() -> None:
        while not done.is_set():
            for server in cluster.launcher.servers.values():
                taking = server._host.taking
                if taking is not None and taking.under_way:
                    most.append(taking.cut.saved_bytes)

    done = threading.Event()
    watching = threading.Thread(target=watch)
    watching.start()
    taking = threading.Thread(target=remote.take_snapshot)
    taking.start()
    try:
        while taking.is_alive():
            table.push(ids[:20], np.ones((20, 8), np.float32))
        assert max(most, default=0) <= 1000 + 20 * 100
    finally:
        done.set()
        watching.join()
        taking.join()


def test_a_cluster_without_storage_says_what_a_snapshot_needs() -> None:
    config = parse({"name": "n", "tables": [TableSpec("t", 10, dim=1, optimizer=SGD())]})
    server = CoordinatorServer(config, ThreadLauncher())
    server.start()
    try:
        with Remote(server.address) as remote, pytest.raises(InvalidRequest, match="needs `storage:`"):
            remote.take_snapshot()
    finally:
        server.stop()


def ones(table, ids) -> None:
    table.push(ids, np.ones((len(ids), 8), np.float32))


def test_the_next_snapshot_has_what_changed_and_a_full_one_all(client, remote) -> None:
    table = client.table("t")
    ones(table, np.arange(1000))
    first = client.snapshot()
    ones(table, np.arange(7))
    second = client.snapshot()
    assert (second.parent, second.rows) == (first.id, 1000)
    assert second.bytes < first.bytes / 10
    full = remote.take_snapshot(full=True)
    assert full.parent == ""
    assert abs(full.bytes - first.bytes) < 100
    found = rows_of(second.path)
    np.testing.assert_array_equal(np.stack([found[i] for i in range(1000)]), table.pull(np.arange(1000)))
    assert open_snapshot(second.path).verify().snapshots == 2
    assert difference(second.path, full.url) == ()


def test_a_snapshot_whose_parent_somebody_removed_is_whole(client) -> None:
    ones(client.table("t"), np.arange(1000))
    shutil.rmtree(client.snapshot().path)
    again = client.snapshot()
    assert again.parent is None
    assert open_snapshot(again.path).verify().rows == 1000


def test_after_a_change_of_layout_a_snapshot_is_whole(client, remote) -> None:
    ones(client.table("t"), np.arange(1000))
    client.snapshot()
    remote.scale(3)
    again = client.snapshot()
    assert again.parent is None
    assert open_snapshot(again.path).verify().rows == 1000


def ids_of(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_so_many_are_kept_and_what_others_were_made_upon_stays(client, remote, tmp_path) -> None:
    table = client.table("t")
    ones(table, np.arange(1000))
    made = []
    for full, keep in [(True, 2), (False, 2), (False, 0), *[(True, 2), (False, 2)] * 3]:
        ones(table, np.arange(5))
        made.append(remote.take_snapshot(full=full, keep=keep).id)
    # The third was asked for by hand: it stays for ever, and so do the two that it was made upon. Logs may need the
    # last chain but one.
    assert ids_of(tmp_path / "snapshots") == {*made[:3], *made[5:]}
    assert verify(tmp_path / "snapshots" / made[2]).snapshots == 3
    listed = list_snapshots(tmp_path / "snapshots")
    assert [one.lineage for one in listed] == [
        *(tuple(made[: k + 1]) for k in range(3)),
        *[(made[5],), tuple(made[5:7])],
        *[(made[7],), tuple(made[7:])],
    ]
    assert not any(one.problem for one in listed)


def test_what_the_state_has_forgotten_keeps_what_it_was_made_upon(cluster, client, remote, tmp_path) -> None:
    ones(client.table("t"), np.arange(1000))
    first = remote.take_snapshot(keep=1).id
    mine = remote.take_snapshot().id
    others = [remote.take_snapshot(full=True, keep=1).id for _ in range(4)]
    assert mine not in {one.id for one in cluster.coordinator.state.snapshots}
    assert ids_of(tmp_path / "snapshots") == {first, mine, *others[-2:]}
    shutil.rmtree(tmp_path / "snapshots" / mine)
    others += [remote.take_snapshot(full=True, keep=1).id]
    assert ids_of(tmp_path / "snapshots") == set(others[-2:])


def test_snapshots_are_taken_when_they_are_due_and_so_many_are_kept(tmp_path) -> None:
    config = parse({"name": "s", "storage": str(tmp_path), "tables": [SPEC]})
    schedule = SnapshotSchedule(every="10m", keep=2)  # type: ignore[arg-type]
    server = CoordinatorServer(config, LoggingLauncher(str(tmp_path)))
    now, made = [1e9], []

    def snapshots() -> Snapshots:
        return Snapshots(
            lambda: server.coordinator, server._performer, str(tmp_path), schedule, lambda: now[0]
        )

    taking = snapshots()
    server.start()
    try:
        for later_s in [0.0, 599.0, 1.0, 599.0, 1.0, 600.0, 600.0]:
            now[0] += later_s
            taking.look(0, failed=False)
            made.append([one.id for one in server.coordinator.state.snapshots])
        assert [len(ids) for ids in made[:5]] == [0, 0, 1, 1, 2]
        assert len({ids[-1] for ids in made[2:]}) == 4
        assert ids_of(tmp_path / "snapshots") == set(made[-1])
        # A coordinator that starts anew knows when the last one was taken.
        again = snapshots()
        now[0] += 599.0
        again.look(0, failed=False)
        assert [one.id for one in server.coordinator.state.snapshots] == made[-1]
    finally:
        server.stop()
    assert ids_of(tmp_path / "snapshots") == set(made[-1]), "whoever ends the cluster wanted to have them"


def test_status_was_well_while_the_snapshots_that_were_due_all_failed(tmp_path) -> None:
    config = parse({"name": "s", "storage": str(tmp_path), "tables": [SPEC]})
    server = CoordinatorServer(config, LoggingLauncher(str(tmp_path)))
    now = [1e9]
    schedule = SnapshotSchedule(every="10m")  # type: ignore[arg-type]
    taking = Snapshots(lambda: server.coordinator, server._performer, str(tmp_path), schedule, lambda: now[0])
    (tmp_path / "snapshots").write_text("a file, where a folder should be")
    server.start()
    try:
        taking.look(0, failed=False)
        assert taking.waiting() == []
        now[0] += 600.0
        for _ in range(2):  # the second look waits a minute before it tries again
            taking.look(0, failed=False)
            (said,) = taking.waiting()
            assert said.startswith("a snapshot is due, and none can be taken: ")
            assert "could not write its part" in said
        (tmp_path / "snapshots").unlink()
        taking.soon()
        taking.look(0, failed=False)
        assert taking.waiting() == []
        assert len(server.coordinator.state.snapshots) == 1
    finally:
        server.stop()
