"""Shards that run without a coordinator, while the storage with their layout is not where it was."""

import os
import signal
from pathlib import Path

import pytest
from waiting import until

from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.down.losses import lost_with
from rowloom.deploy.launch.cluster_folder import shards_in
from rowloom.deploy.launch.processes import is_running
from rowloom.deploy.operate.clusters import down, reach, up
from rowloom.deploy.operate.directory import ClusterDirectory, Record
from rowloom.deploy.operate.listing import listed
from rowloom.deploy.operate.remote import Unreachable
from rowloom.proto.errors import InvalidRequest, Unavailable


@pytest.fixture
def directory(tmp_path):
    directory = ClusterDirectory(tmp_path / "home")
    yield directory
    down(directory.get("ads") or Record("ads", "local", "", storage=str(tmp_path / "kept")), directory)


def config_of(tmp_path: Path, durability: str) -> DeployConfig:
    storage = str(tmp_path / "kept")
    return parse({"name": "ads", "shards": 2, "storage": storage, "durability": durability})


def kill(record: Record) -> None:
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: not is_running(record.pid, record.started))


def test_shards_of_an_unknown_layout_are_not_ended_by_an_up(directory, tmp_path) -> None:
    # As where `storage` is a relative path, and `up` comes from another folder.
    config = config_of(tmp_path, "process")
    record = up(config, directory).record
    kill(record)
    (tmp_path / "kept").rename(tmp_path / "moved")
    with pytest.raises(
        Unavailable, match=r"shard servers of this cluster run .*does not say of which layout"
    ):
        up(config, directory)
    assert len(shards_in(directory.folder("ads")).running()) == 2
    # And `up` and `down --keep`, of which neither was done, advised one another, and `list` said `ended`.
    put_back = r"End none of them: put it back, then `rowloom up` takes them over, with all rows"
    with pytest.raises(Unreachable, match=rf"the coordinator of cluster 'ads' has ended; .*{put_back}"):
        reach(record, directory)
    with pytest.raises(InvalidRequest, match=r"Nothing was ended: put that back first"):
        down(record, directory, keep=True)
    assert [one["state"] for one in listed(directory)] == ["no coordinator"]
    assert not lost_with(record, directory).words  # its logs are wherever the storage is
    (tmp_path / "kept" / "layout.json").unlink(missing_ok=True)
    if (tmp_path / "kept").exists():
        (tmp_path / "kept").rmdir()
    (tmp_path / "moved").rename(tmp_path / "kept")
    assert not up(config, directory).started


def test_rows_in_memory_whose_layout_was_away_were_ended_without_a_question(directory, tmp_path) -> None:
    record = up(config_of(tmp_path, "memory"), directory).record
    kill(record)
    (tmp_path / "kept").rename(tmp_path / "moved")
    loss = lost_with(record, directory)
    assert loss.to_confirm
    assert (
        f"its layout cannot be read from {tmp_path}/kept. With that back, `rowloom up --name ads`"
        in loss.words
    )
    (tmp_path / "moved").rename(tmp_path / "kept")
    assert up(config_of(tmp_path, "memory"), directory).taken_over
