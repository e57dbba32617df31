"""What is kept in files: logs, snapshots, a cluster's state. Today's code reads what earlier versions wrote."""

import dataclasses
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crc32c import crc32c
from golden.stored import (
    CLIENT,
    EXTRA,
    INCREMENT,
    LAYOUT,
    LOG_LAYOUT,
    LOG_OWNER,
    PRINCIPALS,
    RECORD,
    SALT,
    STATE,
    TABLES,
    TOKENS,
    VOCABULARY,
    WHOLE,
    held,
    ledger_of,
    log_segment,
    write_snapshots,
)
from golden.written import CHANGED, FILES, UNREAD, check_written, golden

from rowloom.client import Vocabulary, open_snapshot
from rowloom.deploy import local_cluster
from rowloom.deploy.control.state import ClusterState
from rowloom.deploy.operate.directory import ClusterDirectory
from rowloom.deploy.secure.token_files import text_of
from rowloom.proto.errors import InvalidRequest, RowloomError, SnapshotCorrupt
from rowloom.server.access.tokens import Access
from rowloom.server.durable.extents import HEADER_BYTES, Header
from rowloom.server.durable.reading import Reading
from rowloom.server.durable.records import Kind, LogCorrupt
from rowloom.server.durable.replay import Replay
from rowloom.server.durable.segment_files import SegmentFiles
from rowloom.server.shard import Shard

SEGMENT = "log/wal-0000000001.log"
NEWER = "format version 2, this rowloom reads version 1: a newer one has written it, so use that one"

# ------------------------------------------------------------------------------------------------------------- a log


def test_a_log_is_written_as_ever() -> None:
    check_written(
        SEGMENT, log_segment()[0], "VERSION in server/durable/extents.py, or in records.py beside it"
    )


def test_kinds_of_records_keep_their_numbers() -> None:
    kinds = ["PUSH", "CREATE", "DROP", "SET_LR", "RECEIVE", "RECEIVED", "LEDGER", "CUT", "STEP"]
    assert [kind.name for kind in Kind][: len(kinds)] == kinds
    assert [kind.value for kind in Kind] == list(range(1, len(Kind) + 1))


def test_a_log_of_an_earlier_version_is_done_again_to_the_bit() -> None:
    files = SegmentFiles(str(FILES / "log"), LOG_OWNER)
    try:
        shard, reading = Shard(LOG_LAYOUT, 0), Reading(files)
        replay = Replay(shard)
        for record in reading.records():
            replay.redo(record)  # it compares with what each record left when it was made
        replay.finish()
    finally:
        files.close()
    assert (reading.end.lsn, reading.dropped) == (9, 0), UNREAD.format(file=SEGMENT)
    made = log_segment()[1]
    assert sorted(shard.tables) == [1, 2]
    for number, ids in {1: [4, 998, 999], 2: [0, 5, 1 << 40]}.items():
        assert len(shard.table(number)) == len(ids)
        assert [shard.table(number).checksum(k) for k in ids] == [made.table(number).checksum(k) for k in ids]


def test_a_log_of_a_newer_version_is_refused_and_told_what_to_do(tmp_path: Path) -> None:
    data = bytearray(golden(SEGMENT))
    struct.pack_into("<I", data, 12, 2)
    struct.pack_into("<I", data, 8, crc32c(memoryview(data)[12:HEADER_BYTES]))
    with pytest.raises(LogCorrupt, match=NEWER):
        Header.parse(memoryview(data), "wal-0000000001.log")

    data = bytearray(golden(SEGMENT))
    struct.pack_into("<H", data, HEADER_BYTES + 14, 2)  # the version of the first record
    (length,) = struct.unpack_from("<I", data, HEADER_BYTES + 8)
    body = memoryview(data)[HEADER_BYTES + 8 : HEADER_BYTES + 56 + length]
    struct.pack_into("<I", data, HEADER_BYTES + 4, crc32c(body, SALT))
    (tmp_path / "wal-0000000001.log").write_bytes(data)
    files = SegmentFiles(str(tmp_path), LOG_OWNER)
    try:
        with pytest.raises(
            LogCorrupt, match=r"in version 2; this version of rowloom knows .* a newer one has written"
        ):
            list(Reading(files).records())
    finally:
        files.close()


# --------------------------------------------------------------------------------------------------------- snapshots


@pytest.mark.parametrize("name", [WHOLE, INCREMENT])
def test_a_snapshot_of_an_earlier_version_holds_what_it_did(name: str) -> None:
    snapshot = open_snapshot(FILES / "snapshots" / name)
    snapshot.verify()
    assert (snapshot.id, snapshot.extra.keys()) == (name, EXTRA.keys() if name == INCREMENT else {}.keys())
    numbers = {entry.number: entry.spec.name for entry in TABLES}
    for number, rows in held(name).items():
        ids, values, slots = snapshot.rows(numbers[number])
        found = {
            row_id: (values[k].reshape(-1).tolist(), [slot[k].tolist() for slot in slots])
            for k, row_id in enumerate(ids.tolist())
        }
        assert found == rows, UNREAD.format(file=FILES / "snapshots" / name)


def test_a_cluster_begins_with_a_snapshot_of_an_earlier_version() -> None:
    with (
        local_cluster(shards=3, restore=FILES / "snapshots" / INCREMENT) as cluster,
        cluster.connect() as client,
    ):
        assert client.restored is not None
        extra = client.restored.extra
        assert (extra["step"], extra["model"], extra["loss"]) == (7, b"\x00weights", float("inf"))
        assert extra["of"]["epoch"].dtype == np.int16
        for entry in TABLES:
            rows = held(INCREMENT)[entry.number]
            table = client.table(entry.spec.name)
            lr = entry.spec.optimizer.lr if entry.lr is None else entry.lr
            assert table.spec == dataclasses.replace(
                entry.spec, optimizer=dataclasses.replace(entry.spec.optimizer, lr=lr)
            )
            values = np.array([rows[k][0] for k in rows], np.float32)
            np.testing.assert_array_equal(table.pull(list(rows)), values)
        assert client.table("users").pull([2]).tolist() == [[9.0, 9.0]]  # it was removed


def test_a_snapshot_is_written_as_ever(tmp_path: Path) -> None:
    write_snapshots(tmp_path)
    written = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    there = FILES / "snapshots"
    assert written.keys() == {p.relative_to(there) for p in there.rglob("*") if p.is_file()}
    number = "VERSION in proto/snapshots/manifest.py"
    for name, data in written.items():
        if name.name == "MANIFEST.json":  # it has sums of tables.json, whose maps have no order
            assert _apart(data) == _apart((there / name).read_bytes()), CHANGED.format(
                file=name, number=number
            )
        elif name.name == "tables.json":
            assert json.loads(data) == json.loads((there / name).read_bytes())
        else:
            check_written(f"snapshots/{name}", data, number)


def _apart(manifest: bytes) -> dict:
    """A manifest without what depends on the bytes of tables.json."""
    content = json.loads(manifest)
    assert content.pop("digest")
    content["tables"].pop("crc32c")
    if content["parent"]:
        content["parent"].pop("digest")
    return content


def test_a_snapshot_of_a_newer_version_is_refused_and_told_what_to_do(tmp_path: Path) -> None:
    shutil.copytree(FILES / "snapshots" / WHOLE, tmp_path / WHOLE)
    manifest = tmp_path / WHOLE / "MANIFEST.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"version": 1', b'"version": 2'))
    with pytest.raises(SnapshotCorrupt, match=NEWER):
        open_snapshot(tmp_path / WHOLE)


def test_the_ledger_of_a_snapshot_means_what_it_did() -> None:
    from rowloom.proto.snapshots.snapshot import open_snapshot as stored

    snapshot = stored(FILES / "snapshots" / WHOLE)
    for shard in range(LAYOUT.n):
        assert list(snapshot.ledger(shard)) == [ledger_of(shard)]
        assert next(snapshot.ledger(shard)).clients[0].client_id == CLIENT


# -------------------------------------------------------------------------------------- what a cluster keeps of itself


def test_the_state_of_a_cluster_of_an_earlier_version_is_what_it_was() -> None:
    assert (
        ClusterState.from_json(golden("cluster/layout.json").decode()) == STATE
    )  # from before it had a digest
    assert ClusterState.from_json(golden("cluster/layout-with-digest.json").decode()) == STATE
    check_written(
        "cluster/layout-with-digest.json", STATE.to_json().encode(), "FORMAT in deploy/control/state.py"
    )


def test_a_state_was_written_with_the_maps_of_a_message_in_any_order() -> None:
    turned = ClusterState.from_json(STATE.to_json())
    for entry in (*turned.tables.values(), *turned.making.values()):
        entry.__dict__["as_json"] = _turned(
            entry.as_json
        )  # as another protobuf, or another process, tells it
    assert list(turned.tables["users"].as_json) != list(STATE.tables["users"].as_json)
    assert turned.to_json() == STATE.to_json()


def _turned(value: Any) -> Any:
    return {key: _turned(one) for key, one in reversed(value.items())} if isinstance(value, dict) else value


def test_a_state_of_a_newer_version_is_refused_and_told_what_to_do() -> None:
    text = golden("cluster/layout.json").decode().replace('"format": 1', '"format": 2')
    with pytest.raises(RowloomError, match=f"the cluster's state file is of {NEWER}"):
        ClusterState.from_json(text)


def test_a_cluster_that_an_earlier_version_started_is_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "clusters").mkdir()
    shutil.copy(FILES / "cluster/known.json", tmp_path / "clusters/ads.json")
    directory = ClusterDirectory(tmp_path)
    assert directory.get("ads") == RECORD
    later = {**json.loads(golden("cluster/known.json")), "of_a_later_version": 1}
    (tmp_path / "clusters/ads.json").write_text(json.dumps(later))
    assert directory.get("ads") == RECORD


def test_a_vocabulary_of_an_earlier_version_has_the_same_ids(tmp_path: Path) -> None:
    words = Vocabulary.from_file(FILES / "cluster/vocabulary.json")
    assert words == VOCABULARY
    ids = words.encode(["dog", "köttur", "<pad>", "whale", "krill", "plankton"])
    assert ids.tolist() == [4, 3, 0, 5, 6, 5], "unknown words fall into other buckets"
    VOCABULARY.save(tmp_path / "words.json")
    check_written(
        "cluster/vocabulary.json", (tmp_path / "words.json").read_bytes(), "_FORMAT in client/vocabulary.py"
    )


def test_a_vocabulary_of_a_newer_version_is_refused_and_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "words.json").write_text(
        golden("cluster/vocabulary.json").decode().replace('"version": 1', '"version": 2')
    )
    with pytest.raises(InvalidRequest, match=f"the vocabulary is of {NEWER}"):
        Vocabulary.from_file(tmp_path / "words.json")


def test_tokens_that_were_given_out_by_an_earlier_version_still_count(tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_bytes(golden("cluster/tokens.yaml"))
    path.chmod(0o600)
    access = Access(str(path))
    assert access.principals() == PRINCIPALS
    assert {access.identify(token).name for token in TOKENS.values()} == set(TOKENS)
    check_written(
        "cluster/tokens.yaml", text_of(PRINCIPALS).encode(), "nothing: it has no version, so it never changes"
    )
