"""What a reader says: of tables, of places without a snapshot, of stores that fail; and reading with numpy alone."""

import re
import textwrap
from pathlib import Path

import fsspec
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file
from snapshot_life import SnapshotLife

from rowloom.proto.errors import InvalidRequest, SnapshotCorrupt, TableNotFound, Unavailable
from rowloom.proto.snapshots import snapshot as snapshot_module
from rowloom.proto.snapshots.differing import difference
from rowloom.proto.snapshots.listing import list_snapshots
from rowloom.proto.snapshots.snapshot import open_snapshot
from rowloom.proto.snapshots.verifying import verify
from rowloom.proto.spec import TableSpec
from rowloom.server.snapshots.target import target_of


def a_snapshot(folder: Path, seed: int = 0):
    life = SnapshotLife(seed)
    life.create(0)
    life.push(100)
    return life, life.snapshot(target_of(folder), folder.name)


def test_numpy_users_read_it_in_five_lines(tmp_path):
    _, frozen = a_snapshot(tmp_path / "snapshot")
    doc = snapshot_module.__doc__ or ""
    code = textwrap.dedent(doc.split(":\n", 1)[1])
    shown = (Path(__file__).parents[3] / "docs/snapshot_format.md").read_text()
    assert code.strip() in shown.replace("\n\n", "\n")
    assert len(code.strip().splitlines()) == 5
    assert "rowloom" not in code
    names: dict = {}
    exec(code.replace('Path("snapshot")', f'Path("{tmp_path}/snapshot")'), names)
    got = dict(zip(names["ids"].tolist(), names["values"], strict=True))
    rows = frozen.tables["users"]
    assert got.keys() == rows.keys()
    assert all(got[k].tobytes() == rows[k].values.tobytes() for k in rows)


def test_a_file_has_the_tensors_that_its_format_says(tmp_path):
    a_snapshot(tmp_path / "snapshot")
    file = tmp_path / "snapshot/shard-00000/users.rows-00000.safetensors"
    tensors = load_file(file)
    n = len(tensors["ids"])
    assert {name: (t.dtype.name, t.shape) for name, t in tensors.items()} == {
        "ids": ("int64", (n,)),
        "touched": ("uint32", (n,)),
        "values": ("float32", (n, 3)),
        "slot0": ("float32", (n, 3)),
    }
    with safetensors.safe_open(file, "numpy") as opened:
        assert sorted(opened.keys()) == ["ids", "slot0", "touched", "values"]


def test_files_of_a_table_are_those_of_no_other(tmp_path):
    # A name may end like the name of a file.
    life = SnapshotLife()
    for k in range(3):
        life.create(k)
    life.push(100)
    life.snapshot(target_of(tmp_path / "s"), "s")
    names = {p.name for p in (tmp_path / "s").glob("shard-*/*.safetensors")}
    assert "words.rows-00000.rows-00000.safetensors" in names


def test_a_table_that_is_not_there_is_named_with_those_that_are(tmp_path):
    a_snapshot(tmp_path / "s")
    snapshot = open_snapshot(tmp_path / "s")
    for call in (snapshot.rows, snapshot.read, snapshot.table):
        with pytest.raises(TableNotFound, match="has no table 'nope'; its tables: 'users'"):
            call("nope")
    with pytest.raises(InvalidRequest, match="there is no shard 2 of 2"):
        snapshot.read("users", shard=2)
    with pytest.raises(InvalidRequest, match="there is no shard 5 of 5"):
        snapshot.read("users", shard=5, shards=5)
    with pytest.raises(InvalidRequest, match="there is no shard 2 of 2"):
        list(snapshot.ledger(2))
    assert repr(snapshot) == f"<StoredSnapshot s tables=1 rows={snapshot.rows('users')}>"


def test_where_there_is_none_it_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    for url, why in (
        (tmp_path, r"has no MANIFEST\.json: there is no snapshot, or it was never"),
        (tmp_path / "nowhere", "/nowhere does not exist$"),
        (tmp_path / "file/below", "/file/below does not exist$"),
        (tmp_path / "file", "/file is a file, and a folder is wanted$"),
        ("memory://nowhere", "memory://nowhere does not exist$"),
    ):
        with pytest.raises(SnapshotCorrupt, match=why):
            open_snapshot(url)
        if url != tmp_path:
            with pytest.raises(InvalidRequest, match=why):
                list_snapshots(url)
    for call in (open_snapshot, verify, list_snapshots, target_of):
        with pytest.raises(InvalidRequest, match="nope://x"):
            call("nope://x")


def test_what_an_increment_was_made_upon_is_found_from_anywhere(tmp_path, monkeypatch):
    life, full = a_snapshot(tmp_path / "a")
    life.push(3)
    increment = life.snapshot(target_of(tmp_path / "b"), "b", upon=full)
    monkeypatch.chdir(tmp_path / "b")
    for url in (".", "../b", "../b/", f"file://{tmp_path}/b"):
        assert open_snapshot(url).manifest == increment.manifest
    monkeypatch.chdir(tmp_path)
    assert len(open_snapshot("b").links) == 2
    assert [one.problem for one in list_snapshots(".")] == ["", ""]
    memory = fsspec.filesystem("memory")  # whose root may hold snapshots
    for name in "ab":
        memory.put(str(tmp_path / name), f"/{name}-{tmp_path.name}", recursive=True)
    with pytest.raises(SnapshotCorrupt, match="memory://a does not exist"):
        open_snapshot(f"memory://b-{tmp_path.name}")


def test_a_store_that_does_not_answer_is_unavailable(tmp_path, monkeypatch):
    a_snapshot(tmp_path / "s")

    def fails(*_, **__):
        raise OSError(5, "the disk is broken")

    monkeypatch.setattr("os.preadv", fails)
    with pytest.raises(Unavailable, match=r"MANIFEST\.json cannot be read: the disk is broken"):
        open_snapshot(tmp_path / "s")
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "info", lambda *_: 1 / 0)
    with pytest.raises(Unavailable, match="ZeroDivisionError"):
        open_snapshot("memory://x/s")
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "ls", lambda *_, **__: 1 / 0)
    with pytest.raises(Unavailable, match="ZeroDivisionError"):
        list_snapshots("memory://x")


def test_a_list_has_size_rows_time_and_lineage_and_says_what_is_unfinished(tmp_path):
    life, full = a_snapshot(tmp_path / "b-full")
    life.push(3)
    increment = life.snapshot(target_of(tmp_path / "a-increment"), "a-increment", upon=full)
    (tmp_path / "half/shard-00000").mkdir(parents=True)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/MANIFEST.json").write_text("{")
    (tmp_path / "a file").write_text("")
    listed = list_snapshots(tmp_path)
    assert [one.id for one in listed] == ["b-full", "a-increment", "half", "torn"]
    assert [one.lineage for one in listed] == [("b-full",), ("b-full", "a-increment"), (), ()]
    assert [one.manifest for one in listed] == [full.manifest, increment.manifest, None, None]
    assert [one.problem for one in listed[:3]] == ["", "", "unfinished: it has no MANIFEST.json"]
    assert re.search(r"torn/MANIFEST\.json is damaged: it is no JSON", listed[3].problem)
    manifest = listed[1].manifest
    assert manifest is not None
    new = increment.tables["users"].keys() - full.tables["users"].keys()
    assert (manifest.rows, manifest.created_s) == (full.manifest.rows + len(new), 1.7e9 + 2)
    size = sum(p.stat().st_size for p in (tmp_path / "a-increment").rglob("*") if p.is_file())
    assert manifest.bytes == size - len(manifest.to_bytes())
    snapshot = open_snapshot(tmp_path / "a-increment")
    assert [name.id for name in snapshot.lineage] == ["b-full", "a-increment"]
    assert verify(tmp_path / "a-increment").snapshots == 2


def test_a_difference_says_in_words_what_differs_in_a_tables_spec(tmp_path):
    life, _ = a_snapshot(tmp_path / "a")
    table = life.tables["users"]
    wider = TableSpec("users", dim=3, optimizer=table.entry.spec.optimizer, metadata={"here": "x"})
    table.entry = type(table.entry)(9, wider, lr=0.25)
    life.create(1)
    life.snapshot(target_of(tmp_path / "b"), "b")
    items, users = difference(tmp_path / "a", tmp_path / "b")
    assert (items.name, items.spec, items.only_second) == ("items", ("only in the second",), 0)
    assert users.spec[0] == "metadata: {} in the first, {'here': 'x'} in the second"
    assert users.spec[1] == "number: 1 in the first, 9 in the second"
    assert "lr: " in users.spec[2]
    assert (users.differing, users.only_first, users.only_second) == (0, 0, 0)
    table.entry = type(table.entry)(9, TableSpec("users", dim=4))
    table.rows.clear()
    life.snapshot(target_of(tmp_path / "c"), "c")
    [users] = [one for one in difference(tmp_path / "b", tmp_path / "c") if one.name == "users"]
    assert users.spec[-1] == "the rows cannot be compared"
    assert difference(tmp_path / "a", tmp_path / "a") == ()


def test_zeros_of_two_signs_differ(tmp_path):
    life, _ = a_snapshot(tmp_path / "a")
    row = life.tables["users"].rows[next(iter(life.tables["users"].rows))]
    row.values[:] = 0.0
    life.snapshot(target_of(tmp_path / "b"), "b")
    row.values[1] = -0.0
    life.snapshot(target_of(tmp_path / "c"), "c")
    [users] = difference(tmp_path / "b", tmp_path / "c")
    assert (users.values, users.slots, users.differing, len(users.ids)) == (1, (0,), 1, 1)


def a_written(folder: Path, ids, *, generation=1):
    """A snapshot of two shards, in files of at most three rows; the first one has a table with these ids."""
    from rowloom.server.snapshots.commit import commit_snapshot
    from rowloom.server.snapshots.shard_writer import ShardWriter

    life = SnapshotLife()
    life.create(0)
    entry, target, parts = life.tables["users"].entry, target_of(folder), []
    for shard in range(2):
        writer = ShardWriter(target, shard, 4096 + 3 * 36)
        table = writer.table(entry)
        n = len(ids) if shard == 0 else 0
        rows = np.zeros((n, 3), np.float32)
        table.write(np.array(ids[:n], np.int64), np.zeros(n, np.uint32), rows, [rows])
        table.finish(rows=n, step=0)
        parts.append(writer.finish(lsn=0, generation=generation))
    commit_snapshot(
        target, id="s", cluster_name="", created_s=0, layout=life.layout, shards=parts, tables=[entry]
    )


def loaded(folder: Path):
    """What a shard that starts reads."""
    from rowloom.server.shard import Shard
    from rowloom.server.snapshots.loading import load_shard

    snapshot = open_snapshot(folder)
    shard = Shard(snapshot.layout, 0)
    load_shard(snapshot, shard)
    return shard.rows


@pytest.mark.parametrize("read", [verify, loaded])
@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([2, 4, 2], r"users\.rows-00000\.safetensors: id 2 is there twice"),
        ([2, 3], r"users\.rows-00000\.safetensors: row 1 has id 3, which shard 0 does not own"),
        ([-2], r"users\.rows-00000\.safetensors: row 0 has id -2"),
        (
            [2, 4, 6, 8, 2],
            "id 2 of table 'users' is in two files|'users' has 5 rows on shard 0, but 4 ids: .*`rowloom verify ",
        ),
    ],
)
def test_ids_that_cannot_be_there_were_refused_by_verify_and_read_by_a_shard(tmp_path, read, ids, words):
    a_written(tmp_path / "s", ids)
    with pytest.raises(SnapshotCorrupt, match=words):
        read(tmp_path / "s")


def test_a_generation_that_no_row_can_be_marked_with_was_an_overflow(tmp_path):
    a_written(tmp_path / "s", [2, 4], generation=(1 << 31) - 1)
    assert loaded(tmp_path / "s") == 2
    with pytest.raises(SnapshotCorrupt, match="generation 1099511627776 is too large"):
        a_written(tmp_path / "t", [2, 4], generation=1 << 40)
