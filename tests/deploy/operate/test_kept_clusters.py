"""Clusters whose rows are in logs: ended and started again, by whoever ended them."""

import os
import signal

import numpy as np
import pytest
from killing import kill_all
from stopping import stop
from waiting import until

from rowloom.client import connect
from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.down.losses import lost_with
from rowloom.deploy.launch.processes import is_running, marked
from rowloom.deploy.operate import clusters, local_clusters
from rowloom.deploy.operate.clusters import down, reach, up
from rowloom.deploy.operate.directory import ClusterDirectory, Record
from rowloom.deploy.operate.remote import Remote
from rowloom.proto.errors import InvalidRequest, Unavailable

IDS = np.arange(50)


@pytest.fixture
def directory(tmp_path):
    directory = ClusterDirectory(tmp_path / "home")
    yield directory
    down(Record("ads", "local", "", storage=str(tmp_path / "kept")), directory)
    # A coordinator that the record does not know of once started its shards again while they were ended.
    assert marked(str((directory.home / "clusters/ads").absolute())) == []


def config(tmp_path, **more) -> DeployConfig:
    table = {"name": "users", "num_embeddings": 100, "dim": 2, "optimizer": {"sgd": {"lr": 1.0}}}
    kept = {"storage": str(tmp_path / "kept"), "durability": "process"} | more
    return parse({"name": "ads", "shards": 2, "tables": [table], **kept})


def push(record: Record) -> np.ndarray:
    """One more push of -1. Returns the rows after it."""
    with connect(record.address, timeout_s=200.0) as client:
        table = client.table("users")
        table.push(IDS, np.full((len(IDS), 2), -1.0, np.float32))
        return table.pull(IDS)


def test_rows_are_there_after_a_down_that_keeps_them_and_after_a_kill_of_everything(
    directory, tmp_path
) -> None:
    first = push(up(config(tmp_path), directory).record)
    down(directory.get("ads"), directory, keep=True)
    second = push(up(config(tmp_path), directory).record)
    np.testing.assert_allclose(second, first + 1, rtol=1e-6)
    kill_all(directory, "ads")
    third = push(up(config(tmp_path), directory).record)
    np.testing.assert_allclose(third, second + 1, rtol=1e-6)
    down(directory.get("ads"), directory)
    assert not (tmp_path / "kept" / "logs").exists()  # an empty folder once stayed
    np.testing.assert_allclose(push(up(config(tmp_path), directory).record), first, rtol=1e-6)


@pytest.mark.slow
def test_a_killed_cluster_that_can_go_on_was_said_to_have_lost_its_rows(directory, tmp_path) -> None:
    # Who did what that advised, `rowloom down`, lost them then, and was not asked.
    first = push(up(config(tmp_path), directory).record)
    record = directory.get("ads")
    stop(record.pid)
    with pytest.raises(
        Unavailable, match=f"`kill -9 {record.pid}`, then `rowloom up --name ads`, starts another coordinator"
    ):
        reach(record, directory, timeout_s=0.5)
    kill_all(directory, "ads")
    with pytest.raises(
        Unavailable, match="its rows are in its logs: `rowloom up --name ads` goes on from them"
    ):
        reach(record, directory)
    lost = lost_with(record, directory)
    (logs,) = (tmp_path / "kept" / "logs").iterdir()
    assert lost.to_confirm
    assert lost.words.startswith("'ads' has ended; `rowloom down` would remove ")
    assert lost.words.endswith(
        f" of logs in {logs}, and the rows of 'ads' with them. `rowloom up --name ads` goes on from them, "
        "`rowloom down --keep` leaves them."
    )
    again = up(config(tmp_path), directory)
    assert again.started
    assert not again.replaced
    np.testing.assert_allclose(push(again.record), first + 1, rtol=1e-6)


def test_an_up_beside_a_coordinator_that_is_about_to_end_starts_it_again(
    directory, tmp_path, monkeypatch
) -> None:
    # A killed process with much memory is there for a while, and `up` said that the cluster had ended.
    first = push(up(config(tmp_path), directory).record)
    record = directory.get("ads")
    asked = clusters.reach

    def killed(*arguments):
        monkeypatch.setattr(clusters, "reach", asked)
        os.kill(record.pid, signal.SIGKILL)
        return asked(*arguments)

    monkeypatch.setattr(clusters, "reach", killed)
    np.testing.assert_allclose(push(up(config(tmp_path), directory).record), first + 1, rtol=1e-6)


@pytest.mark.slow
def test_kept_rows_are_not_passed_over_by_an_up_that_would_not_keep_any(directory, tmp_path) -> None:
    push(up(config(tmp_path), directory).record)
    down(directory.get("ads"), directory, keep=True)
    with pytest.raises(Unavailable, match="holds the logs of a cluster 'ads' that can go on"):
        up(config(tmp_path, durability="memory"), directory)
    assert push(up(config(tmp_path), directory).record).shape == (len(IDS), 2)


def test_a_cluster_without_logs_is_not_ended_by_a_down_that_is_to_keep_them(directory, tmp_path) -> None:
    record = up(config(tmp_path, durability="memory"), directory).record
    with pytest.raises(InvalidRequest, match="in memory only"):
        down(record, directory, keep=True)
    assert push(record).shape == (len(IDS), 2)


def test_a_signal_that_ended_the_coordinator_once_took_the_logs_with_it(directory, tmp_path) -> None:
    # So would have a machine that is shut down, and an `up` of kept rows that was interrupted.
    first = push(up(config(tmp_path), directory).record)
    record = directory.get("ads")
    os.kill(record.pid, signal.SIGTERM)
    until(lambda: not is_running(record.pid, record.started))
    np.testing.assert_allclose(push(up(config(tmp_path), directory).record), first + 1, rtol=1e-6)


@pytest.mark.slow
def test_a_coordinator_that_stood_still_is_ended_with_its_rows_kept_too(
    directory, tmp_path, monkeypatch
) -> None:
    first = push(up(config(tmp_path), directory).record)

    def silent(*_, **__):
        raise Unavailable("it does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "shutdown", silent)
        down(directory.get("ads"), directory, keep=True)
    np.testing.assert_allclose(push(up(config(tmp_path), directory).record), first + 1, rtol=1e-6)


@pytest.mark.slow
def test_an_up_of_kept_rows_that_fails_leaves_them_kept(directory, tmp_path, monkeypatch) -> None:
    first = push(up(config(tmp_path), directory).record)
    down(directory.get("ads"), directory, keep=True)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(local_clusters, "wait_until_up", interrupted)
        with pytest.raises(KeyboardInterrupt):
            up(config(tmp_path), directory)
    assert directory.get("ads").kept  # it was forgotten
    np.testing.assert_allclose(push(up(config(tmp_path), directory).record), first + 1, rtol=1e-6)


@pytest.mark.slow
def test_an_up_said_nothing_for_minutes_of_a_log_that_could_not_be_opened(
    directory, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(local_clusters, "UNREAD_S", 0.2)
    first = push(up(config(tmp_path), directory).record)
    down(directory.get("ads"), directory, keep=True)
    file = next((tmp_path / "kept" / "logs").glob("*/*/shard-0/wal-*.log"))
    moved = file.rename(tmp_path / file.name)
    file.symlink_to(moved)
    why = f"a shard cannot be read from its log, and is tried again until that is mended: {file}: it is a symbolic link"
    said: list[str] = []

    def mend(text: str) -> None:
        said.append(text)
        with pytest.raises(Unavailable, match=f"'ads' is being started: {why}"):
            reach(directory.get("ads"), directory)
        moved.replace(file)

    again = up(config(tmp_path), directory, mend)
    assert len(said) == 1
    assert said[0].startswith(why)
    np.testing.assert_allclose(push(again.record), first + 1, rtol=1e-6)
