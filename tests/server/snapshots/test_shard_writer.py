"""What a shard writes: files of a bounded size, in the order of the rows; and what it refuses."""

import numpy as np
import pytest
from snapshot_life import SPECS, SnapshotLife

from rowloom.proto.errors import InvalidRequest
from rowloom.proto.snapshots.extra import MAX_EXTRA_BYTES, encode_extra
from rowloom.proto.snapshots.snapshot import open_snapshot
from rowloom.proto.spec import TableEntry, TableSpec
from rowloom.server.snapshots.commit import commit_snapshot
from rowloom.server.snapshots.shard_writer import ShardWriter
from rowloom.server.snapshots.target import target_of

ENTRY = TableEntry(1, SPECS[0])


def block(begin: int, end: int, width: int = 3):
    ids = np.arange(begin, end)
    values = np.repeat(ids[:, None], width, axis=1).astype("f4")
    return ids, ids.astype(np.uint32), values, [values + 0.5]


def commit(target, parts, tables, **more):
    layout = SnapshotLife(shards=len(parts)).layout
    return commit_snapshot(
        target, id="s", cluster_name="", created_s=0, layout=layout, shards=parts, tables=tables, **more
    )


def test_files_are_full_and_the_order_of_the_rows_is_kept(tmp_path):
    target, limit = target_of(tmp_path / "s"), 4096 + 36 * 10
    shard = ShardWriter(target, 0, limit)
    table = shard.table(ENTRY)
    for begin, end in [(0, 7), (7, 7), (7, 35), (35, 36), (36, 47)]:
        table.write(*block(begin, end))
    table.finish(rows=47, step=0)
    commit(target, [shard.finish(lsn=0, generation=1)], [ENTRY])
    blocks = list(open_snapshot(tmp_path / "s").read("users"))
    assert [len(b.ids) for b in blocks] == [10, 10, 10, 10, 7]
    assert np.concatenate([b.ids for b in blocks]).tolist() == list(range(47))
    for b in blocks:
        assert (b.touched == b.ids).all()
        assert (b.values == b.ids[:, None]).all()
        assert (b.slots[0] == b.ids[:, None] + 0.5).all()
    assert all(p.stat().st_size <= limit for p in tmp_path.rglob("*.safetensors"))


def test_a_row_that_is_longer_than_a_file_has_one_of_its_own(tmp_path):
    entry = TableEntry(1, TableSpec("wide", dim=4096))
    target = target_of(tmp_path / "s")
    shard = ShardWriter(target, 0, 5000)
    table = shard.table(entry)
    ids, touched, values, _ = block(0, 3, 4096)
    table.write(ids, touched, values, [])
    assert [file.rows for file in table.finish(rows=3, step=0).files] == [1, 1, 1]


def test_the_memory_of_one_file_serves_all_of_them(tmp_path):
    # Tables, and files of ids that were removed, come one after the other.
    target = target_of(tmp_path / "s")
    shard = ShardWriter(target, 0, 8192)
    for number in (1, 2):
        table = shard.table(TableEntry(number, TableSpec(f"t{number}", dim=3, optimizer=SPECS[0].optimizer)))
        table.write(*block(0, 500))
        memory = shard._buffer.ctypes.data
        table.remove(np.arange(500, 1700))
        assert len(shard._buffer) <= 8192
        assert memory == shard._buffer.ctypes.data
        part = table.finish(rows=500, step=0)
        assert [sum(f.rows for f in files) for files in (part.files, part.removed)] == [500, 1200]


def test_what_is_no_block_is_refused(tmp_path):
    shard = ShardWriter(target_of(tmp_path / "s"), 0)
    table = shard.table(ENTRY)
    ids, touched, values, slots = block(0, 4)
    wrong = r"a block of users.rows has shapes .*, they must be \[\(4,\), \(4,\), \(4, 3\), \(4, 3\)\]"
    for bad in [(touched[:3], values, slots), (touched, values[:, :2], slots), (touched, values, [])]:
        with pytest.raises(InvalidRequest, match=wrong):
            table.write(ids, *bad)
    table.remove(ids)
    with pytest.raises(InvalidRequest, match="rows come before the ids that were removed"):
        table.write(ids, touched, values, slots)
    table.finish(rows=0, step=0)
    with pytest.raises(InvalidRequest, match="table 1 comes after table 1"):
        shard.table(ENTRY)
    with pytest.raises(InvalidRequest, match="file_bytes must be above 4096 and at most"):
        ShardWriter(target_of(tmp_path / "s"), 0, 1)


def test_parts_that_do_not_belong_together_are_not_committed(tmp_path):
    target = target_of(tmp_path / "s")
    shard = ShardWriter(target, 0)
    table = shard.table(ENTRY)
    table.write(*block(0, 4))
    table.finish(rows=4, step=0)
    part = shard.finish(lsn=0, generation=1)
    with pytest.raises(InvalidRequest, match="shard 0 did not write the tables"):
        commit(target, [part], [])
    with pytest.raises(InvalidRequest, match="these parts make no snapshot: the layout has 2 shards"):
        commit(target, [part, part], [ENTRY])
    with pytest.raises(InvalidRequest, match=f"extra has {MAX_EXTRA_BYTES + 1} bytes, at most"):
        commit(target, [part], [ENTRY], extra=bytes(MAX_EXTRA_BYTES + 1))
    assert not (tmp_path / "s/MANIFEST.json").exists()
    commit(target, [part], [ENTRY], extra=encode_extra({"mine": 1}))
    assert open_snapshot(tmp_path / "s").extra == {"mine": 1}
