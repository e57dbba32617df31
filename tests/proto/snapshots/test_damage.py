"""Every byte of a small snapshot, flipped or cut off: it is refused, and the message names the file and the place."""

import re

import fsspec
import pytest
from snapshot_life import SnapshotLife, check, empty_memory

from rowloom.proto.errors import SnapshotCorrupt
from rowloom.proto.snapshots.checksums import BLOCK_BYTES
from rowloom.proto.snapshots.listing import list_snapshots
from rowloom.proto.snapshots.snapshot import open_snapshot
from rowloom.proto.snapshots.verifying import verify
from rowloom.server.snapshots.target import target_of

FS = fsspec.filesystem("memory")


def small(base: str):
    """An increment upon a whole one, in memory."""
    life = SnapshotLife(seed=3, shards=1)
    life.create(0)
    life.push(3)
    full = life.snapshot(target_of(f"{base}/a"), "a")
    life.push(2)
    life.remove(1)
    life.rng.choice = lambda values: values[-1]  # there is something extra
    return life.snapshot(target_of(f"{base}/b"), "b", upon=full)


def check_one(path: str) -> None:
    """All of the snapshot that a file belongs to; only the beginning where that finds it, thousands of times."""
    folder = "memory:/" + re.sub("/(shard-00000/)?[^/]*$", "", path)
    (open_snapshot if path.endswith(".json") else verify)(folder)


def test_every_flipped_byte_is_found_and_its_file_named():
    base = empty_memory()
    small(base)
    files = FS.find(base)
    assert {path.rsplit("/", 1)[-1] for path in files} >= {
        "MANIFEST.json",
        "tables.json",
        "extra.safetensors",
    }
    assert any("removed" in path for path in files)
    assert verify(f"{base}/b").files == len(files)
    for path in files:
        good = FS.cat_file(path)
        for place in range(len(good)):
            bad = bytearray(good)
            bad[place] ^= 1 << place % 8
            FS.pipe_file(path, bytes(bad))
            with pytest.raises(SnapshotCorrupt, match=re.escape(path)) as error:
                check_one(path)
            if "MANIFEST" not in path:
                assert f"block 0, bytes 0 to {len(good)}" in str(error.value)
        with pytest.raises(SnapshotCorrupt, match=re.escape(path)):
            verify(f"{base}/b")
        FS.pipe_file(path, good)
    verify(f"{base}/b")


def test_every_file_that_is_cut_is_found():
    base = empty_memory()
    small(base)
    for path in FS.find(base):
        good = FS.cat_file(path)
        for size in range(len(good)):
            FS.pipe_file(path, good[:size])
            with pytest.raises(SnapshotCorrupt, match=re.escape(path)):
                check_one(path)
        FS.pipe_file(path, good + b"\0")
        with pytest.raises(SnapshotCorrupt, match=re.escape(path)):
            verify(f"{base}/b")
        FS.rm_file(path)
        with pytest.raises(SnapshotCorrupt):
            verify(f"{base}/b")
        FS.pipe_file(path, good)
    verify(f"{base}/b")


def test_the_first_bad_block_is_named_with_its_place(tmp_path):
    life = SnapshotLife(shards=1)
    life.create(0)
    life.push(1)
    table = life.tables["users"]
    some = next(iter(table.rows.values()))
    table.rows.update(dict.fromkeys(range(100_000), some))
    frozen = life.snapshot(target_of(tmp_path / "a"), "a", file_bytes=64 << 20)
    check(open_snapshot(tmp_path / "a"), frozen)
    file = tmp_path / "a/shard-00000/users.rows-00000.safetensors"
    data = bytearray(file.read_bytes())
    assert len(data) > 3 * BLOCK_BYTES
    data[BLOCK_BYTES + 5] ^= 1
    data[-1] ^= 1
    file.write_bytes(data)
    place = f"block 1, bytes {BLOCK_BYTES} to {2 * BLOCK_BYTES}, has checksum"
    words = rf"users\.rows-00000\.safetensors is damaged: {place}"
    with pytest.raises(SnapshotCorrupt, match=words):
        verify(tmp_path / "a")
    with pytest.raises(SnapshotCorrupt, match=words):
        list(open_snapshot(tmp_path / "a").read("users"))


def test_a_manifest_of_an_absurd_size_is_not_read_into_memory(tmp_path):
    (tmp_path / "s").mkdir()
    with open(tmp_path / "s/MANIFEST.json", "wb") as file:
        file.truncate(1 << 40)
    words = rf"s/MANIFEST\.json has {1 << 40} bytes, at most"
    with pytest.raises(SnapshotCorrupt, match=words):
        open_snapshot(tmp_path / "s")
    assert re.search(words, list_snapshots(tmp_path)[0].problem)


def test_a_chain_without_its_parent_or_with_another_one_is_refused():
    base = empty_memory()
    small(base)
    FS.mv(f"{base}/a", f"{base}/c", recursive=True)
    with pytest.raises(SnapshotCorrupt, match=r"/b was made upon snapshot a, beside it: .*/a does not exist"):
        open_snapshot(f"{base}/b")
    [b] = [one for one in list_snapshots(f"{base}") if one.id == "b"]
    assert (b.lineage, b.problem) == (("a", "b"), "snapshot a, which it needs, is not there as it was")
    life = SnapshotLife(seed=4)
    life.snapshot(target_of(f"{base}/a"), "a")
    with pytest.raises(
        SnapshotCorrupt, match=r"made upon snapshot a with digest .*, but .* is a with digest"
    ):
        open_snapshot(f"{base}/b")
    [b] = [one for one in list_snapshots(f"{base}") if one.id == "b"]
    assert b.problem == "snapshot a, which it needs, is not there as it was"


def test_a_snapshot_whose_files_are_gone_or_cut_short_was_listed_as_a_good_one():
    base = empty_memory()
    small(base)

    def problems() -> list[str]:
        return [one.problem for one in list_snapshots(base, files=True)]

    assert problems() == ["", ""]
    files = sorted(path for path in FS.find(f"{base}/a") if ".rows-" in path)
    FS.pipe_file(files[0], FS.cat_file(files[0])[:-1])
    name, size = files[0].partition("/a/")[2], FS.size(files[0])
    assert problems() == [
        f"damaged: {name} has {size} bytes, not {size + 1}",
        f"snapshot a, which it needs, is damaged: {name} has {size} bytes, not {size + 1}",
    ]
    FS.rm_file(f"{base}/a/tables.json")
    words = "damaged: tables.json is missing, and 1 more of its files are missing or of another size"
    assert problems() == [words, f"snapshot a, which it needs, is {words}"]
    assert [one.problem for one in list_snapshots(base)] == ["", ""]  # they were not to be looked at


def test_increments_that_lack_a_row_are_refused_when_they_are_read_to_the_end():
    # The manifest says how many rows there were; a chain whose increments forgot one does not have them.
    base = empty_memory()
    life = SnapshotLife(seed=3, shards=1)
    life.create(0)
    life.push(3)
    full = life.snapshot(target_of(f"{base}/a"), "a")
    life.set(life.tables["users"], 77)
    life.cut_generation = life.generation
    life.snapshot(target_of(f"{base}/b"), "b", upon=full)
    words = r"table 'users' had \d+ rows, the chain of snapshots has \d+"
    with pytest.raises(SnapshotCorrupt, match=words):
        list(open_snapshot(f"{base}/b").read("users"))
    with pytest.raises(SnapshotCorrupt, match=words):
        verify(f"{base}/b")
