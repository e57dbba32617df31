"""The storage of a cluster that runs, moved away from under it: its processes have files open and do not notice."""

import dataclasses
from pathlib import Path

import pytest

from rowloom.deploy.control.state import ClusterState
from rowloom.deploy.operate.directory import ClusterDirectory, Record
from rowloom.deploy.operate.left import storage_away
from rowloom.deploy.storage import StateFile
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.layout import Layout

ADDRESS = "127.0.0.1:7400"


def status(durability: str, coordinator: str = ADDRESS) -> pb.StatusReply:
    return pb.StatusReply(name="ads", durability=durability, layout=pb.Layout(coordinator=coordinator))


@pytest.fixture
def directory(tmp_path: Path) -> ClusterDirectory:
    """That knows `ads`, with storage as it is while it runs."""
    storage = tmp_path / "kept"
    (storage / "logs" / "ads-1").mkdir(parents=True)
    StateFile(str(storage)).commit(ClusterState("ads", layout=Layout("ads-1", 1, (), coordinator=ADDRESS)))
    directory = ClusterDirectory(tmp_path / "home")
    directory.folder("ads")
    directory.put(Record("ads", "local", ADDRESS, pid=1, storage=str(storage)))
    return directory


@pytest.mark.parametrize(
    ("durability", "what"), [("process", "logs, with its rows, are"), ("memory", "layout is")]
)
def test_status_and_up_said_nothing_of_a_storage_that_was_moved_away(directory, tmp_path, durability, what):
    assert storage_away(status(durability), directory) == ""
    (tmp_path / "kept").rename(tmp_path / "moved")
    said = storage_away(status(durability), directory)
    assert said.startswith(
        f"the storage of 'ads' is not where it was: its {what} not in {tmp_path}/kept. Was that "
    )
    (tmp_path / "moved").rename(tmp_path / "kept")
    assert storage_away(status(durability), directory) == ""


def test_only_of_a_cluster_of_this_machine_it_is_known_where_its_storage_was(directory, tmp_path):
    (tmp_path / "kept").rename(tmp_path / "moved")
    assert storage_away(status("process", "10.0.0.5:7400"), directory) == ""  # another one of that name
    record = directory.get("ads")
    assert record is not None
    directory.put(dataclasses.replace(record, launcher="ray"))
    assert storage_away(status("process"), directory) == ""
    directory.remove("ads")
    assert storage_away(status("process"), directory) == ""
