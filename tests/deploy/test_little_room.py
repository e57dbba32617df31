"""Snapshots that are taken because the disk of logs has little room."""

import re

from logging_launcher import LoggingLauncher

from rowloom.client import SGD, TableSpec, Zeros
from rowloom.deploy.config.config import parse
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.snapshots import snapshots
from rowloom.deploy.snapshots.room import little_room, to_go_on
from rowloom.deploy.snapshots.snapshots import Snapshots

SPEC = TableSpec("t", 2000, dim=8, optimizer=SGD(lr=1.0), initializer=Zeros())


def test_a_log_that_failed_waited_a_minute_because_a_snapshot_before_had_failed(
    tmp_path, monkeypatch
) -> None:
    # The disk was nearly full: first a snapshot that kept logs short found no room, then a log.
    config = parse({"name": "s", "storage": str(tmp_path), "tables": [SPEC]})
    server = CoordinatorServer(config, LoggingLauncher(str(tmp_path)))
    taking = Snapshots(lambda: server.coordinator, server._performer, str(tmp_path))
    little = [True]
    monkeypatch.setattr(snapshots, "little_room", lambda *_: little[0])
    (tmp_path / "snapshots").write_text("a file, where a folder should be")
    server.start()
    try:
        long = 2 * snapshots.SEGMENT_BYTES
        taking.look(long, failed=False)
        (said,) = taking.waiting()
        assert said.startswith("the disk has little room, and a snapshot makes logs short, and none can be")
        assert re.search(r"again in [12] s\)$", said)  # not in a minute: pushes go on
        taking.look(long, failed=True)
        (said,) = taking.waiting()
        assert said.startswith("a log that failed goes on behind a snapshot, and none can be taken: ")
        (tmp_path / "snapshots").unlink()
        little[0] = False
        taking.look(long, failed=False)
        assert taking.waiting() == []
        assert server.coordinator.state.snapshots == []  # there is room, and no log is long
        little[0] = True
        taking.soon()
        taking.look(long, failed=False)
        (one,) = server.coordinator.state.snapshots
        taking.look(snapshots.SEGMENT_BYTES, failed=False)  # that short it need not be
        assert server.coordinator.state.snapshots == [one]
    finally:
        server.stop()


def test_only_a_folder_is_known_to_have_little_room(tmp_path) -> None:
    assert little_room(str(tmp_path), 1 << 60, 1)
    assert little_room(f"file://{tmp_path}", 1 << 60, 1)
    assert little_room(str(tmp_path), 0, 1 << 40)
    assert not little_room("s3://bucket/ads", 1 << 60, 1)
    assert not little_room(None, 1 << 60, 1)
    assert not little_room(str(tmp_path / "gone"), 1 << 60, 1)


def test_the_room_that_logs_need_has_each_snapshot_that_is_not_there_yet_and_one_more() -> None:
    rows, log = 10**9, 4 * snapshots.SEGMENT_BYTES
    assert to_go_on(rows, 2, snapshots=2) == 4 * rows + 2 * log
    assert to_go_on(rows, 2) == 3 * rows + 2 * log
