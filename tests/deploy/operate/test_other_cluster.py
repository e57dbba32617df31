"""The storage of another cluster of the same name where a cluster's own was, as below a disk that is not mounted."""

import dataclasses
import os
import signal
from pathlib import Path

import pytest
from killing import kill_all
from waiting import until

from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.control.state import ClusterState
from rowloom.deploy.launch.processes import is_running
from rowloom.deploy.operate.clusters import down, reach, up
from rowloom.deploy.operate.directory import ClusterDirectory, Record
from rowloom.deploy.operate.left import check_goes_on, is_kept, storage_away
from rowloom.deploy.operate.remote import Unreachable
from rowloom.deploy.storage import StateFile
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import InvalidRequest, Unavailable
from rowloom.proto.layout import Layout

OTHER = "has the layout of another cluster now, ads-2: is the right disk mounted"


def begin_other(storage: Path) -> None:
    """Let a storage be that of `ads-2`, which has ended and can go on."""
    (storage / "logs" / "ads-2").mkdir(parents=True)
    StateFile(str(storage)).commit(ClusterState("ads", layout=Layout("ads-2", 1, ())))


def layout_there(storage: Path) -> str:
    """The id of the cluster whose layout is in a storage, and whose logs are there."""
    stored = StateFile(str(storage)).load()
    assert stored is not None
    assert stored.layout is not None
    assert (storage / "logs" / stored.layout.cluster_id).exists()
    return stored.layout.cluster_id


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "kept"


@pytest.fixture
def directory(tmp_path, storage):
    directory = ClusterDirectory(tmp_path / "home")
    yield directory
    down(directory.get("ads") or Record("ads", "local", "", storage=str(storage)), directory)


@pytest.fixture
def config(storage) -> DeployConfig:
    return parse({"name": "ads", "shards": 1, "storage": str(storage), "durability": "process"})


def test_an_up_went_on_with_another_clusters_rows_and_a_down_then_removed_them(
    directory, config, storage
) -> None:
    record = up(config, directory).record
    assert record.cluster_id == layout_there(storage)
    kill_all(directory, "ads")
    own = storage.rename(storage.with_name("disk"))
    begin_other(storage)
    both = rf"cluster {record.cluster_id}, and {OTHER}"
    with pytest.raises(
        InvalidRequest, match=rf"{both}.*`rowloom down --forget --name ads`, which removes nothing"
    ):
        up(config, directory)
    with pytest.raises(Unreachable, match=both):
        reach(record, directory)
    down(record, directory)  # as who does not mean --forget
    assert layout_there(storage) == "ads-2"
    assert layout_there(own) == record.cluster_id


def test_shards_without_a_coordinator_were_taken_over_by_another_clusters_layout(
    directory, config, storage
) -> None:
    record = up(config, directory).record
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: not is_running(record.pid, record.started))
    stored = StateFile(str(storage)).load()
    own = storage.rename(storage.with_name("disk"))
    begin_other(storage)
    assert stored is not None  # the keys of its servers are the same, as they are often
    StateFile(str(storage)).commit(
        dataclasses.replace(stored, layout=Layout("ads-2", 1, stored.layout.shards))
    )
    with pytest.raises(
        Unavailable, match=rf"cluster {record.cluster_id} run .*another cluster, ads-2: .*put it back"
    ):
        up(config, directory)
    storage.rename(storage.with_name("below"))
    own.rename(storage)
    again = up(config, directory)
    assert (again.taken_over, again.record.cluster_id) == (True, record.cluster_id)


def test_a_coordinator_that_ended_removed_the_layout_of_the_cluster_below_its_disk(
    directory, config, storage
) -> None:
    record = up(config, directory).record
    storage.rename(storage.with_name("disk"))
    begin_other(storage)
    down(record, directory)
    assert layout_there(storage) == "ads-2"


def test_status_said_healthy_while_another_clusters_storage_was_at_the_path(directory, storage) -> None:
    begin_other(storage)
    directory.folder("ads")
    directory.put(Record("ads", "local", "127.0.0.1:7400", storage=str(storage)))
    for durability in ("process", "memory"):
        layout = pb.Layout(coordinator="127.0.0.1:7400", cluster_id="ads-1")
        status = pb.StatusReply(name="ads", durability=durability, layout=layout)
        assert "but the layout of another cluster, ads-2. Was that moved" in storage_away(status, directory)
        layout.cluster_id = "ads-2"
        status.layout.CopyFrom(layout)
        assert storage_away(status, directory) == ""


@pytest.mark.parametrize("launcher", ["local", "ray"])
def test_a_cluster_that_was_kept_goes_on_only_with_its_own_rows(config, storage, launcher) -> None:
    begin_other(storage)
    record = Record("ads", launcher, "", storage=str(storage), kept=True, cluster_id="ads-1")
    assert not is_kept(record)
    with pytest.raises(InvalidRequest, match=OTHER):
        check_goes_on(config, record)
    with pytest.raises(InvalidRequest, match=OTHER):
        check_goes_on(config, dataclasses.replace(record, kept=False), ended=True)
    for id in ("ads-2", ""):  # an older version noted no id
        same = dataclasses.replace(record, cluster_id=id)
        assert is_kept(same)
        check_goes_on(config, same)
