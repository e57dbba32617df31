"""A cluster that was kept, and whose state is damaged: its logs are there, and nobody may take them for lost."""

import json
import re
from pathlib import Path

import pytest

from rowloom.deploy.config.config import parse
from rowloom.deploy.config.faults import InvalidConfig
from rowloom.deploy.control.state import ClusterState
from rowloom.deploy.operate.clusters import down, reach, up
from rowloom.deploy.operate.directory import ClusterDirectory, Record
from rowloom.deploy.operate.left import check_own_storage, not_removed, storage_away
from rowloom.deploy.operate.listing import listed
from rowloom.deploy.storage import StateFile
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import InvalidRequest, RowloomError, Unavailable
from rowloom.proto.layout import Layout, ShardAddress

STATE = ClusterState(
    "ads", layout=Layout("ads-1", 1, (ShardAddress(0, "127.0.0.1:9", 7),)), keys=[0], next_key=1, term=3
)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    (tmp_path / "kept" / "logs" / "ads-1").mkdir(parents=True)
    StateFile(str(tmp_path / "kept")).commit(STATE)
    return tmp_path / "kept"


@pytest.fixture
def directory(tmp_path: Path, storage: Path) -> ClusterDirectory:
    directory = ClusterDirectory(tmp_path / "home")
    directory.put(Record("ads", "local", "", storage=str(storage), cluster_id="ads-1").as_kept())
    return directory


def damage(storage: Path) -> str:
    """In the middle. Returns what is said of it."""
    file = storage / "layout.json"
    file.write_bytes(file.read_bytes()[:300])
    return f"the state file {file} is damaged: it is no JSON: .*Put back a whole copy of it"


def test_a_damaged_state_of_a_kept_cluster_was_said_to_be_a_storage_that_is_away(directory, storage) -> None:
    assert listed(directory)[0]["state"] == "kept"
    said = damage(storage)
    config = parse({"name": "ads", "storage": str(storage)})
    with pytest.raises(InvalidRequest, match=said) as told:
        up(config, directory)
    assert "mounted" not in str(told.value)
    assert listed(directory)[0]["state"] == "kept, state unreadable"
    with pytest.raises(InvalidConfig, match=said):  # where nothing is known of that cluster
        check_own_storage(config)
    with pytest.raises(Unavailable, match=rf"'ads' is down; {said}"):
        reach(directory.get("ads"), directory)


def test_a_down_removed_a_damaged_state_and_left_logs_that_nobody_knew(directory, storage) -> None:
    said = damage(storage)
    record = directory.get("ads")
    assert not_removed(record, None) == ""
    with pytest.raises(Unavailable, match=rf"{said}.*rowloom down --name ads` again, or with --forget"):
        down(record, directory)
    assert directory.get("ads") == record
    assert (storage / "layout.json").exists()
    assert (storage / "logs" / "ads-1").exists()
    (storage / "logs" / "ads-1").rmdir()
    (storage / "logs").rmdir()
    down(record, directory)  # then it leads to nothing
    assert not (storage / "layout.json").exists()


def test_a_cluster_that_runs_is_not_said_to_have_lost_its_storage_when_its_state_is_damaged(
    directory, storage
) -> None:
    damage(storage)
    directory.put(Record("ads", "local", "127.0.0.1:8", pid=1, storage=str(storage)))
    status = pb.StatusReply(name="ads", durability="process", layout=pb.Layout(coordinator="127.0.0.1:8"))
    assert "its next change, as `rowloom snapshot`, writes it anew" in storage_away(status, directory)


def edited(changes: dict, digest: bool) -> str:
    content = {**json.loads(STATE.to_json()), **changes}
    return json.dumps(content if digest else {k: v for k, v in content.items() if k != "digest"})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (edited({"keys": []}, False), "it has 0 keys for 1 shards"),
        (edited({"term": "x"}, False), "term is x"),
        (edited({"snapshots": [{"id": 5}]}, False), "missing 6 required"),
        (edited({"drained": [4]}, False), r"drained is \[4\]"),
        (edited({"next_key": 0}, False), "next_key 0 is used already"),
        (edited({"beginning": "../../x"}, False), "'../../x' is no id of a cluster"),
        (edited({"tables": 5}, False), "'int' object is not iterable"),
        (edited({"tables": [{"number": "x"}]}, False), "number"),
        (edited({"standbys": {"4": {}}}, False), "missing 5 required"),
        (edited({"term": 4}, True), "it was changed after it was written"),
        (edited({}, False).replace('"term"', '"trem"'), "'term' is missing"),
        ("[" * 200_000, "it is no JSON: maximum recursion depth"),
        ("[]", "it holds list, not an object"),
        ("\ufeff{}", "it is no JSON"),
    ],
)
def test_a_state_that_contradicts_itself_ended_in_an_error_of_python(storage, text, why) -> None:
    file = storage / "layout.json"
    file.write_text(text)
    said = f"the state file {re.escape(str(file))} is damaged: .*{why}.*rowloom restore URL"
    with pytest.raises(RowloomError, match=said):
        StateFile(str(storage)).load()


def test_a_digit_that_was_changed_in_a_state_was_taken(storage) -> None:
    text = (storage / "layout.json").read_text()
    assert ClusterState.from_json(text) == STATE
    for changed in (
        text.replace('"next_key":1', '"next_key":2'),
        text.replace("127.0.0.1:9", "127.0.0.1:8"),
    ):
        with pytest.raises(RowloomError, match="its digest is not that of its content"):
            ClusterState.from_json(changed)
    without = json.loads(text)
    del without["digest"]
    assert ClusterState.from_json(json.dumps(without)) == STATE  # of a version before it had one


def test_a_huge_state_is_not_read_into_memory(storage) -> None:
    with open(storage / "layout.json", "r+b") as file:
        file.truncate(1 << 36)
    with pytest.raises(Unavailable, match=r"layout\.json cannot be read: it has 68,719,476,736 bytes"):
        StateFile(str(storage)).load()
