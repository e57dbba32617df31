"""What stays on the disk of a cluster that is down, and locks whose files are removed."""

import fcntl
import threading

import pytest

from rowloom.deploy.config.config import parse
from rowloom.deploy.launch.cluster_folder import lock_in, ready_in, tidy
from rowloom.deploy.operate import directory as directories
from rowloom.deploy.operate.clusters import down, up
from rowloom.deploy.operate.directory import ClusterDirectory, Record


@pytest.fixture
def directory(tmp_path):
    return ClusterDirectory(tmp_path / "home")


def files(directory: ClusterDirectory) -> list[str]:
    below = directory.home / "clusters"
    return sorted(str(path.relative_to(below)) for path in below.rglob("*") if path.is_file())


def test_the_lock_of_a_cluster_that_nobody_knows_is_no_file(directory):
    with directory.lock("ads", 0.0):
        assert files(directory) == ["ads.lock"]
    assert files(directory) == []
    with directory.lock("ads", 0.0):
        directory.put(Record("ads", "local", ""))
    assert files(directory) == ["ads.json", "ads.lock"]
    with directory.lock("ads", 0.0):
        directory.remove("ads")
    assert files(directory) == []


def test_a_lock_whose_file_is_removed_each_time_is_held_by_one_at_a_time(directory, monkeypatch):
    # Who waits has the old file open: without another look at it, two would hold the lock.
    monkeypatch.setattr(directories, "LOCK_POLL_S", 0.0)
    held, most, times = [0], [0], 60

    def hold() -> None:
        for _ in range(times):
            with directory.lock("ads", 60.0):
                held[0] += 1
                most[0] = max(most[0], held[0])
                (directory.home / "clusters" / "ads.lock").stat()
                held[0] -= 1

    threads = [threading.Thread(target=hold) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert files(directory) == []


def test_one_that_waited_for_a_file_that_is_gone_does_not_hold_the_lock(directory, monkeypatch):
    taken = directories._locked
    first = []

    def late(file) -> bool:
        """Between the opening of the file and its lock another one held it, and removed it."""
        if not first:
            first.append(file.name)
            with directory.lock("ads", 0.0):
                pass
        return taken(file)

    monkeypatch.setattr(directories, "_locked", late)
    with directory.lock("ads", 0.0):
        assert directory.is_locked("ads")
    assert first


def test_only_logs_stay_of_a_cluster_that_is_down(directory):
    up(parse({"name": "ads"}), directory)
    assert {"ads/ready.json", "ads/coordinator.lock", "ads.lock", "ads.json"} <= set(files(directory))
    down(directory.get("ads"), directory)
    logs = ["ads/logs/begin", "ads/logs/coordinator.log", "ads/logs/shard-0.log"]
    assert files(directory) == ["ads/cluster.log", "ads/config.json", *logs]
    assert not (directory.home / "clusters/ads/shards").exists()


def test_the_lock_of_a_coordinator_that_is_ending_is_left_for_the_next_one_to_wait_for(tmp_path):
    for path in (ready_in(tmp_path), lock_in(tmp_path)):
        path.write_text("")
    with open(lock_in(tmp_path)) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        tidy(tmp_path)
        assert lock_in(tmp_path).exists()
    assert not ready_in(tmp_path).exists()
    tidy(tmp_path)
    assert not lock_in(tmp_path).exists()
    tidy(tmp_path / "none")
